"""Bad requests over HTTP: each gets its status and a line that helps, and harms nobody."""

from __future__ import annotations

import gzip
import io
import re
import socket
import zlib
from pathlib import Path

import pytest
from PIL import Image

import tame_deploy
from tests.serving import triton_said
from tests.serving.http_probes import (
    EXPLAIN,
    IMAGES,
    INFER,
    PROBES,
    behind,
    explain_probes,
    long_text_png,
)
from tests.serving.raw_http import exchange, head, whole
from tests.serving.unharmed import (
    CHUNKED,
    GOOD,
    HEADERS,
    PATH,
    assert_tells_no_secrets,
    chunk,
    sending,
    watched,
)

_PICTURE = Path(tame_deploy.__file__).parent / "data" / "pictures" / "ring-1.png"
_MIB = 2**20


def _jpeg() -> bytes:
    file = io.BytesIO()
    with Image.open(_PICTURE) as picture:
        picture.convert("RGB").save(file, "JPEG")
    return file.getvalue()


EXPLAIN_PROBES = explain_probes(_PICTURE.read_bytes(), _jpeg())


@pytest.fixture
def unharmed(server, expected):
    yield from watched(server, expected)


@pytest.mark.parametrize("probe", [*PROBES, *EXPLAIN_PROBES], ids=lambda probe: probe.name)
def test_a_bad_request_gets_its_status_and_a_reason(unharmed, probe):
    answer = exchange(unharmed.address, whole(probe.method, probe.path, probe.body, probe.headers))
    assert answer is not None
    assert answer.status == probe.status, answer.body
    assert answer.headers["content-type"].startswith("application/json")
    assert probe.says in answer.error
    assert len(answer.error) < 1000
    assert_tells_no_secrets(answer)


def test_every_probe_has_a_name_of_its_own():
    names = [probe.name for probe in (*PROBES, *EXPLAIN_PROBES)]
    assert len(names) == len(set(names))


def test_where_we_differ_from_triton_is_on_purpose():
    ours = {probe.name: probe.status for probe in PROBES}
    assert set(ours) == set(triton_said.HTTP)
    differs = {name for name, status in triton_said.HTTP.items() if ours[name] != status}
    unread = {name for name in differs if (triton_said.HTTP[name], ours[name]) == (500, 400)}
    assert differs - unread == {
        name for names in triton_said.HTTP_DIFFERS.values() for name in names.split()
    }


LINE = b"GET /v2 HTTP/1.1\r\n"
BROKEN = {
    "length-negative": sending(content_length=-1) + GOOD,
    "length-as-text": sending(content_length="many") + GOOD,
    "length-with-a-plus": sending(content_length=f"+{len(GOOD)}") + GOOD,
    "length-of-30-digits": sending(content_length="9" * 30) + GOOD,
    "two-lengths": head("POST", PATH, {"content-length": len(GOOD), "Content-Length": 7}) + GOOD,
    "length-and-chunks": sending(content_length=4, transfer_encoding="chunked") + b"0\r\n\r\n",
    "unknown-transfer": sending(content_length=len(GOOD), transfer_encoding="br") + GOOD,
    "chunk-size-as-text": CHUNKED + b"zz\r\n" + GOOD,
    "chunk-size-negative": CHUNKED + b"-5\r\n" + GOOD,
    "chunk-size-beyond-64-bits": CHUNKED + b"f" * 20 + b"\r\n" + GOOD,
    "tls-where-there-is-none": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "unknown-version": b"GET /v2 HTTP/9.9\r\n\r\n",
    "http-2-without-asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "nul-in-a-header": LINE + b"host: a\r\nx-a: a\x00b\r\n\r\n",
    "header-without-a-colon": LINE + b"host a\r\n\r\n",
    "line-breaks-of-another-kind": b"GET /v2 HTTP/1.1\nhost: a\n\n",
    "address-of-100000-letters": b"GET /v2/models/" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "no-address": b"GET\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_http_is_refused_like_everything_else_and_cut_off(unharmed, name):
    status = 431 if name == "address-of-100000-letters" else 400
    counted = f'tame_responses_total{{status="{status}",transport="http"}}'
    before = unharmed.metric(counted)
    answer = exchange(unharmed.address, BROKEN[name])
    assert answer is not None
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/json"
    assert answer.error
    assert_tells_no_secrets(answer)
    assert unharmed.metric(counted) == before + 1
    unharmed.wait_until_said(answer.headers["x-request-id"])
    line = next(
        line for line in unharmed.said.splitlines() if answer.headers["x-request-id"] in line
    )
    assert f" {status} " in line
    assert "127.0.0.1" in line


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(sending(content_length=len(GOOD) + 10) + GOOD, id="by-its-length"),
        pytest.param(CHUNKED + chunk(GOOD[:100]), id="in-chunks"),
        pytest.param(CHUNKED + b"64\r\n" + GOOD[:10], id="within-a-chunk"),
        pytest.param(b"POST /v2/models/demo/in", id="within-the-first-line"),
    ],
)
def test_a_request_that_ends_too_early_is_forgotten(unharmed, sent):
    answer = exchange(unharmed.address, sent, half_close=True)
    assert answer is None or 400 <= answer.status < 500


def test_ways_to_send_a_good_request_are_all_good(unharmed):
    chunks = CHUNKED + b"".join(map(chunk, (GOOD[:100], GOOD[100:]))) + b"0\r\n\r\n"
    packed = gzip.compress(GOOD)
    for sent in (
        chunks,
        whole("POST", PATH, packed, {**HEADERS, "content-encoding": "gzip"}),
        whole("POST", PATH, zlib.compress(GOOD), {**HEADERS, "content-encoding": "deflate"}),
        whole("POST", PATH, GOOD, {**HEADERS, "content-encoding": "identity"}),
        whole("POST", PATH, GOOD, {**HEADERS, "expect": "100-continue"}),
        whole("POST", "/v2/models/demo/versions/1/infer", GOOD, HEADERS),
        whole("POST", PATH, GOOD, HEADERS).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        answer = exchange(unharmed.address, sent)
        assert answer is not None
        assert answer.status == 200, answer.body


def test_requests_one_behind_another_are_answered_in_order(unharmed):
    last = head("GET", "/v2", {"connection": "close"})
    sent = whole("POST", PATH, GOOD, HEADERS) + whole("GET", "/v2/models/other") + last
    with socket.create_connection(unharmed.address, 10) as connection:
        connection.sendall(sent)
        found = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"404", b"200"]


@pytest.mark.parametrize("spoil", [lambda b: b[:-9], lambda b: b + b"x", lambda b: b + b],
                         ids=["cut-off", "with-more-behind", "twice"])  # fmt: skip
def test_gzip_that_is_not_whole_is_refused(unharmed, spoil):
    body = spoil(gzip.compress(GOOD))
    answer = exchange(
        unharmed.address, whole("POST", PATH, body, {**HEADERS, "content-encoding": "gzip"})
    )
    assert answer is not None
    assert answer.status == 400
    assert "cut off" in answer.error


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(unharmed):
    answer = exchange(unharmed.address, sending(content_length=64 * _MIB + 1))
    assert answer is not None
    assert answer.status == 413
    assert answer.headers["connection"] == "close"
    assert "larger" in answer.error


def test_an_unknown_encoding_is_refused_before_the_body_is_sent(unharmed):
    answer = exchange(unharmed.address, sending(content_length=len(GOOD), content_encoding="br"))
    assert answer is not None
    assert answer.status == 415
    assert answer.headers["connection"] == "close"
    assert "content-encoding is br; expected gzip or deflate" in answer.error


def test_a_time_that_is_over_at_once_is_a_timeout(unharmed):
    probe = behind("now", IMAGES, parameters={"timeout": 1})
    answer = exchange(unharmed.address, whole("POST", INFER, probe.body, probe.headers))
    assert answer is not None
    assert answer.status == 504
    assert "time" in answer.error


def test_a_long_string_among_numbers_takes_no_memory(unharmed):
    probe = next(one for one in PROBES if one.name == "a-long-string-among-numbers")
    before = unharmed.peak_mib
    exchange(unharmed.address, whole("POST", INFER, probe.body))
    assert unharmed.peak_mib - before < 64


def test_a_comment_that_unpacks_to_200_mebibytes_is_passed_over(unharmed):
    answer = exchange(unharmed.address, whole("POST", EXPLAIN, long_text_png()))
    assert answer is not None
    assert answer.status == 200


def test_a_good_file_is_still_explained(unharmed):
    answer = exchange(unharmed.address, whole("POST", EXPLAIN, _PICTURE.read_bytes()))
    assert answer is not None
    assert answer.status == 200
    assert answer.json["classes"][0]["name"] == "ring"


_UPGRADE = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABk"}


def test_an_upgrade_without_a_body_is_answered_and_ends_the_connection(unharmed):
    smuggled = whole("GET", "/v2", b"")
    answer = exchange(unharmed.address, whole("GET", "/v2/health/live", b"", _UPGRADE), smuggled)
    assert answer.status == 200
    assert answer.headers["connection"] == "close"


def test_an_upgrade_beside_a_body_is_refused_and_the_body_is_no_request(unharmed):
    smuggled = whole("GET", "/v2", b"")
    with socket.create_connection(unharmed.address, timeout=20) as connection:
        connection.sendall(whole("POST", PATH, smuggled, {**HEADERS, **_UPGRADE}))
        found = b""
        while part := connection.recv(4096):
            found += part
    assert found.startswith(b"HTTP/1.1 400")
    assert b"leave out --http2" in found
    assert found.count(b"HTTP/1.1") == 1
