"""Requests that a client sends before it has the answers to others (HTTP/1.1 pipelining)."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest

from tests.serving.http_probes import INFER
from tests.serving.raw_http import Answer, head, read_answer, read_answers, whole
from tests.serving.running import eventually
from tests.serving.unharmed import CHUNKED, GOOD, HEADERS

_MIB = 2**20
_SLOW = whole("POST", INFER, GOOD, HEADERS)
#: An answer of over a mebibyte.
_LARGE = {"outputs": [{"name": "maps"}], "inputs": [
    {"name": "images", "datatype": "UINT8", "shape": [8, 128, 128, 3],
     "parameters": {"binary_data_size": 8 * 128 * 128 * 3}},
    {"name": "class_ids", "datatype": "INT64", "shape": [8, 100], "data": [0] * 800},
]}  # fmt: skip


@pytest.fixture(scope="module")
def delayed(serve):
    """A server where one picture alone waits for a second and a half, and heads for one second."""
    return serve("--max-queue-delay-ms", 1500, "--body-timeout-s", 1, "--no-grpc")


def _numbered(number: int, path: str = "/v2/health/live") -> bytes:
    return head("GET", path, {"x-request-id": number})


def _asked(server, *parts: bytes, half_close: bool = False) -> list[Answer]:
    with socket.create_connection(server.address, 60) as connection:
        connection.sendall(b"".join(parts))
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return read_answers(connection)


@pytest.mark.parametrize("half_close", [False, True], ids=["open", "half-closed"])
def test_however_many_requests_are_sent_ahead_each_gets_its_answer_in_order(server, half_close):
    last = head("GET", "/v2", {"x-request-id": 500, "connection": "close"})
    found = _asked(server, *map(_numbered, range(500)), last, half_close=half_close)
    assert [one.headers["x-request-id"] for one in found] == [str(n) for n in range(501)]
    assert {one.status for one in found} == {200}


def test_bodies_among_requests_sent_ahead_come_to_their_own_requests(server):
    # Ends of heads in the bodies, and a body in chunks, must not be taken for requests.
    trap = b"\r\n\r\n" + _numbered(7)
    chunks = head("POST", INFER, {"transfer-encoding": "chunked"})
    chunks += b"%x\r\n%s\r\n0\r\n\r\n" % (len(trap * 50), trap * 50)
    some = [whole("POST", INFER, trap * 50), chunks, _numbered(1)] * 50
    found = _asked(server, *some, head("GET", "/v2", {"connection": "close"}))
    assert [one.status for one in found] == [400, 400, 200] * 50 + [200]


def test_requests_sent_ahead_wait_to_be_read_and_take_no_memory(delayed):
    before = delayed.peak_mib
    some = _numbered(1) * 160_000
    with socket.create_connection(delayed.address, 60) as connection:
        connection.sendall(_SLOW)
        connection.setblocking(False)
        sent, over = 0, time.monotonic() + 1
        with contextlib.suppress(BlockingIOError):
            while sent < len(some) and time.monotonic() < over:
                sent += connection.send(some[sent : sent + _MIB])
        assert sent > 200 * len(_numbered(1))  # more than are let wait
        connection.setblocking(True)
        first = read_answer(connection)
        assert first is not None
        assert first.status == 200
    assert delayed.peak_mib - before < 32


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        pytest.param(b"no HTTP\r\n\r\n", 400, id="no-http"),
        pytest.param(head("GET", "/v2", {"x-a": "a" * 70_000}), 431, id="a-large-head"),
        pytest.param(CHUNKED + b"zz\r\n", 400, id="a-broken-body"),
    ],
)
@pytest.mark.parametrize("half_close", [False, True], ids=["open", "half-closed"])
def test_what_is_refused_leaves_the_requests_before_it_their_answers(
    delayed, broken, status, half_close
):
    found = _asked(delayed, _SLOW, _numbered(1), broken, half_close=half_close)
    assert [one.status for one in found] == [200, 200, status]
    assert found[-1].headers["connection"] == "close"
    assert found[-1].error


def test_a_head_that_nobody_reads_yet_is_not_late(delayed):
    whole_head = head("GET", "/v2", {"connection": "close"})
    with socket.create_connection(delayed.address, 60) as connection:
        connection.sendall(_SLOW + _numbered(1) + whole_head[:10])
        connection.recv(1, socket.MSG_PEEK)  # the first answer is there
        connection.sendall(whole_head[10:])
        found = read_answers(connection)
    assert [one.status for one in found] == [200, 200, 200]


def test_a_client_that_does_not_take_its_answers_costs_one_line_of_the_log(crowded):
    counted = 'tame_responses_total{status="499",transport="http"}'
    before, lines = crowded.metric(counted), len(crowded.said)
    text = json.dumps(_LARGE).encode()
    body = text + bytes(8 * 128 * 128 * 3)
    request = whole("POST", INFER, body, {"inference-header-content-length": len(text)})
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(crowded.address)
        connection.setblocking(False)
        unsent = memoryview(request * 12)

        def is_given_up() -> bool:
            nonlocal unsent
            with contextlib.suppress(BlockingIOError, ConnectionError):
                unsent = unsent[connection.send(unsent) :]
            return crowded.metric(counted) > before

        eventually(is_given_up, "the end of the connection", 60)
    assert crowded.metric(counted) == before + 1
    assert "Traceback" not in crowded.said[lines:]
    assert crowded.said[lines:].count(" 499 ") == 1
