"""Bad requests over HTTP: each gets its status and a line that helps, and harms nobody."""

from __future__ import annotations

import gzip
import io
import re
import socket
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tame_deploy
from tests.serving import triton_said
from tests.serving.http_probes import (
    EXPLAIN,
    IMAGES,
    INFER,
    ONE,
    PROBES,
    behind,
    explain_probes,
    good_request,
    long_text_png,
)
from tests.serving.raw_http import Answer, exchange, head, whole
from tests.serving.running import running

_PICTURE = Path(tame_deploy.__file__).parent / "data" / "pictures" / "ring-1.png"
_SECRETS = ("Traceback", 'File "', ".py", "site-packages", " at 0x", sys.prefix, str(Path.cwd()))
_MIB = 2**20


def _jpeg() -> bytes:
    file = io.BytesIO()
    with Image.open(_PICTURE) as picture:
        picture.convert("RGB").save(file, "JPEG")
    return file.getvalue()


EXPLAIN_PROBES = explain_probes(_PICTURE.read_bytes(), _jpeg())
PATH, GOOD, HEADERS = good_request()


def assert_tells_no_secrets(answer: Answer) -> None:
    text = answer.body.decode()
    assert not [secret for secret in _SECRETS if secret in text]
    assert answer.status != 500


def assert_answers_well(one, expected) -> None:
    answer = exchange(one.address, whole("POST", PATH, GOOD, HEADERS))
    assert answer is not None
    assert answer.status == 200, answer.body
    np.testing.assert_allclose(answer.json["outputs"][0]["data"], expected, atol=1e-4)


@pytest.fixture(scope="module")
def expected(demo_export):
    with tame_deploy.load(demo_export, backend="onnxruntime", threads=1) as explainer:
        return explainer.explain(np.zeros(ONE[1:], np.uint8)).logits[0]


@pytest.fixture(scope="module")
def strict(demo_export, tmp_path_factory):
    """A server with little patience."""
    options = ("--max-body-mb", 1, "--body-timeout-s", 1, "--max-pixels", 20_000)
    with running(
        tmp_path_factory.mktemp("strict"), f"demo={demo_export}", "--no-grpc",
        "--backend", "onnxruntime", "--threads", 1, *options,
    ) as one:  # fmt: skip
        yield one


def _unharmed(one, expected):
    before = len(one.said)
    yield one
    assert_answers_well(one, expected)
    assert one.process.poll() is None
    assert "Traceback" not in one.said[before:]


@pytest.fixture
def unharmed(server, expected):
    """The shared server, which must answer as well as before once the test is over."""
    yield from _unharmed(server, expected)


@pytest.fixture
def unharmed_strict(strict, expected):
    yield from _unharmed(strict, expected)


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


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _sending(**headers: object) -> bytes:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return head("POST", PATH, {**HEADERS, **named})


CHUNKED = _sending(transfer_encoding="chunked")
LINE = b"GET /v2 HTTP/1.1\r\n"
BROKEN = {
    "length-negative": _sending(content_length=-1) + GOOD,
    "length-as-text": _sending(content_length="many") + GOOD,
    "length-with-a-plus": _sending(content_length=f"+{len(GOOD)}") + GOOD,
    "length-of-30-digits": _sending(content_length="9" * 30) + GOOD,
    "two-lengths": head("POST", PATH, {"content-length": len(GOOD), "Content-Length": 7}) + GOOD,
    "length-and-chunks": _sending(content_length=4, transfer_encoding="chunked") + b"0\r\n\r\n",
    "unknown-transfer": _sending(content_length=len(GOOD), transfer_encoding="br") + GOOD,
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
def test_what_is_no_http_is_refused_and_cut_off(unharmed, name):
    answer = exchange(unharmed.address, BROKEN[name])
    assert answer is not None
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert_tells_no_secrets(answer)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(_sending(content_length=len(GOOD) + 10) + GOOD, id="by-its-length"),
        pytest.param(CHUNKED + _chunk(GOOD[:100]), id="in-chunks"),
        pytest.param(CHUNKED + b"64\r\n" + GOOD[:10], id="within-a-chunk"),
        pytest.param(b"POST /v2/models/demo/in", id="within-the-first-line"),
    ],
)
def test_a_request_that_ends_too_early_is_forgotten(unharmed, sent):
    answer = exchange(unharmed.address, sent, half_close=True)
    assert answer is None or 400 <= answer.status < 500


def test_ways_to_send_a_good_request_are_all_good(unharmed):
    chunks = CHUNKED + b"".join(map(_chunk, (GOOD[:100], GOOD[100:]))) + b"0\r\n\r\n"
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
    answer = exchange(unharmed.address, _sending(content_length=64 * _MIB + 1))
    assert answer is not None
    assert answer.status == 413
    assert answer.headers["connection"] == "close"
    assert "larger" in answer.error


def test_a_time_that_is_over_at_once_is_a_timeout(unharmed):
    probe = behind("now", IMAGES, parameters={"timeout": 1})
    answer = exchange(unharmed.address, whole("POST", INFER, probe.body, probe.headers))
    assert answer is not None
    assert answer.status == 504
    assert "time" in answer.error


def test_a_chunked_body_that_is_too_large_is_refused_on_the_way(unharmed_strict):
    parts = [CHUNKED, *[_chunk(bytes(_MIB // 2))] * 3]
    answer = exchange(unharmed_strict.address, *parts)
    assert answer is None or answer.status == 413


def _most_memory_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0])


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_small_body_that_unpacks_to_much_is_refused_and_takes_no_memory(
    unharmed_strict, encoding
):
    if encoding == "gzip":
        body = gzip.compress(bytes(300 * _MIB), 9)
    else:
        body = zlib.compress(bytes(300 * _MIB), 9)
    assert len(body) < _MIB
    before = _most_memory_kib(unharmed_strict.process.pid)
    sent = whole("POST", PATH, body, {**HEADERS, "content-encoding": encoding})
    answer = exchange(unharmed_strict.address, sent)
    assert answer is not None
    assert answer.status == 413
    assert _most_memory_kib(unharmed_strict.process.pid) - before < 32 * 1024


def test_a_long_string_among_numbers_takes_no_memory(unharmed):
    probe = next(one for one in PROBES if one.name == "a-long-string-among-numbers")
    before = _most_memory_kib(unharmed.process.pid)
    exchange(unharmed.address, whole("POST", INFER, probe.body))
    assert _most_memory_kib(unharmed.process.pid) - before < 64 * 1024


def test_a_body_that_does_not_arrive_is_given_up(unharmed_strict):
    started = time.monotonic()
    answer = exchange(unharmed_strict.address, _sending(content_length=len(GOOD)), GOOD[:50])
    assert answer is None or answer.status == 408
    assert 0.5 < time.monotonic() - started < 3


@pytest.mark.parametrize(
    "slow", [b"GET /v2 HTTP/1.1\r\nx-a: ", CHUNKED], ids=["its-head", "its-body"]
)
def test_who_sends_drop_by_drop_is_given_up(unharmed_strict, slow):
    started, drop = time.monotonic(), _chunk(b"x") if slow is CHUNKED else b"x"
    with socket.create_connection(unharmed_strict.address, 10) as connection:
        connection.sendall(slow)
        connection.settimeout(0.2)
        ended = False
        while not ended and time.monotonic() - started < 5:
            try:
                connection.sendall(drop)
                ended = not connection.recv(1000) or slow is CHUNKED
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
    assert ended
    assert time.monotonic() - started < 3


def test_who_says_nothing_is_given_up(unharmed_strict):
    started = time.monotonic()
    assert exchange(unharmed_strict.address) is None
    assert time.monotonic() - started < 3


def test_a_picture_of_too_many_pixels_is_refused(unharmed_strict):
    file = io.BytesIO()
    Image.new("RGB", (200, 200)).save(file, "PNG")
    answer = exchange(unharmed_strict.address, whole("POST", EXPLAIN, file.getvalue()))
    assert answer is not None
    assert answer.status == 400
    assert "pixels" in answer.error
    assert_tells_no_secrets(answer)


def test_a_head_of_eight_mebibytes_is_refused(unharmed_strict):
    answer = exchange(unharmed_strict.address, LINE + b"x-a: " + b"a" * 8 * _MIB + b"\r\n\r\n")
    assert answer is None or answer.status in (400, 413, 431)


def test_a_comment_that_unpacks_to_200_mebibytes_is_passed_over(unharmed):
    answer = exchange(unharmed.address, whole("POST", EXPLAIN, long_text_png()))
    assert answer is not None
    assert answer.status == 200


def test_a_good_file_is_still_explained(unharmed):
    answer = exchange(unharmed.address, whole("POST", EXPLAIN, _PICTURE.read_bytes()))
    assert answer is not None
    assert answer.status == 200
    assert answer.json["classes"][0]["name"] == "ring"
