"""Requests over HTTP that are too much, or too slow, for a server that has little patience."""

from __future__ import annotations

import gzip
import io
import re
import socket
import time
import zlib

import pytest
from PIL import Image

from tests.serving.http_probes import EXPLAIN
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

_MIB = 2**20
#: Much more than the second that the server waits, on a slow machine too.
FOR_EVER_S = 120


@pytest.fixture
def unharmed(impatient, expected):
    yield from watched(impatient, expected)


def test_a_chunked_body_that_is_too_large_is_refused_on_the_way(unharmed):
    parts = [CHUNKED, *[chunk(bytes(_MIB // 2))] * 3]
    answer = exchange(unharmed.address, *parts)
    assert answer is None or answer.status == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_small_body_that_unpacks_to_much_is_refused_and_takes_no_memory(unharmed, encoding):
    if encoding == "gzip":
        body = gzip.compress(bytes(300 * _MIB), 9)
    else:
        body = zlib.compress(bytes(300 * _MIB), 9)
    assert len(body) < _MIB
    before = unharmed.peak_mib
    sent = whole("POST", PATH, body, {**HEADERS, "content-encoding": encoding})
    answer = exchange(unharmed.address, sent)
    assert answer is not None
    assert answer.status == 413
    assert unharmed.peak_mib - before < 32


def test_a_body_that_does_not_arrive_is_given_up(unharmed):
    answer = exchange(
        unharmed.address, sending(content_length=len(GOOD)), GOOD[:50], timeout_s=FOR_EVER_S
    )
    assert answer is not None
    assert answer.status == 408
    assert answer.error == "the body took over 1 s"
    assert answer.headers["connection"] == "close"


def test_a_head_that_does_not_arrive_is_given_up(unharmed):
    answer = exchange(unharmed.address, b"GET /v2 HTTP/1.1\r\nx-a: ", timeout_s=FOR_EVER_S)
    assert answer is not None
    assert answer.status == 408
    assert answer.error == "the request's head took over 1 s"


@pytest.mark.parametrize(
    "slow", [b"GET /v2 HTTP/1.1\r\nx-a: ", CHUNKED], ids=["its-head", "its-body"]
)
def test_who_sends_drop_by_drop_is_given_up(unharmed, slow):
    started, drop = time.monotonic(), chunk(b"x") if slow is CHUNKED else b"x"
    with socket.create_connection(unharmed.address, FOR_EVER_S) as connection:
        connection.sendall(slow)
        connection.settimeout(0.2)
        ended = False
        while not ended and time.monotonic() - started < FOR_EVER_S:
            try:
                connection.sendall(drop)
                ended = not connection.recv(1000) or slow is CHUNKED
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
    assert ended


def test_who_says_nothing_is_given_up(unharmed):
    assert exchange(unharmed.address, timeout_s=FOR_EVER_S) is None


def test_a_picture_of_too_many_pixels_is_refused(unharmed):
    file = io.BytesIO()
    Image.new("RGB", (200, 200)).save(file, "PNG")
    answer = exchange(unharmed.address, whole("POST", EXPLAIN, file.getvalue()))
    assert answer is not None
    assert answer.status == 400
    assert "pixels" in answer.error
    assert_tells_no_secrets(answer)


def test_a_head_of_eight_mebibytes_is_refused(unharmed):
    answer = exchange(
        unharmed.address, b"GET /v2 HTTP/1.1\r\n" + b"x-a: " + b"a" * 8 * _MIB + b"\r\n\r\n"
    )
    assert answer is None or answer.status in (400, 413, 431)


@pytest.mark.parametrize(
    "long",
    [b"x-a: " + b"a" * 80_000, b"\r\n".join(b"x-%d: a" % i for i in range(10_000))],
    ids=["one-header", "many-headers"],
)
def test_a_head_of_eighty_kilobytes_is_refused(unharmed, long):
    answer = exchange(
        unharmed.address, b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n" + long + b"\r\n\r\n"
    )
    assert answer is not None
    assert answer.status == 431
    assert "larger than 65536 bytes" in answer.error


def test_a_head_that_comes_behind_a_large_body_may_be_as_large_as_any(unharmed):
    long = head("GET", "/v2", {"x-a": "a" * 60_000, "connection": "close"})
    with socket.create_connection(unharmed.address, FOR_EVER_S) as connection:
        connection.sendall(whole("POST", EXPLAIN, bytes(200_000)) + long)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    answers = re.findall(rb"HTTP/1.1 (\d+)", received)
    assert answers == [b"400", b"200"]
