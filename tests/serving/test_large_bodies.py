"""Bodies that are large enough to be received where they are kept, whole and in part."""

from __future__ import annotations

import contextlib
import gzip
import os
import select
import socket
import ssl
import time

import grpc
import httpx
import numpy as np
import pytest

from tame_deploy.serving.grpc.schema import SERVICE, message
from tame_deploy.serving.http.bodies import memory_for
from tests.serving.clients import method
from tests.serving.http_probes import INFER, behind, sized
from tests.serving.raw_http import exchange, head, read_answer, read_answers, whole
from tests.serving.running import PLAIN, eventually, running
from tests.serving.unharmed import chunk

_ROWS = 8
_PIXELS = np.random.default_rng(0).integers(0, 256, (_ROWS, 128, 128, 3), np.uint8).tobytes()
_PROBE = behind("large", sized("images", "UINT8", [_ROWS, 128, 128, 3], len(_PIXELS)),
                tail=_PIXELS, outputs=[{"name": "logits"}])  # fmt: skip
_BODY, _HEADERS = _PROBE.body, dict(_PROBE.headers)
_WHOLE = whole("POST", INFER, _BODY, _HEADERS)
_LIVE = head("GET", "/v2/health/live", {})
_HEAD = len(_WHOLE) - len(_BODY)

#: What arrives by itself, of a request and another one right behind it.
WAYS = {
    "at-once": [_WHOLE + _LIVE],
    "head-first": [_WHOLE[:_HEAD], _WHOLE[_HEAD:], _LIVE],
    "half-a-head-first": [_WHOLE[:50], _WHOLE[50:] + _LIVE],
    "a-byte-of-the-body-first": [_WHOLE[: _HEAD + 1], _WHOLE[_HEAD + 1 :] + _LIVE],
    "all-but-a-byte-first": [_WHOLE[:-1], _WHOLE[-1:] + _LIVE],
    "in-thirds": [_WHOLE[:131_071], _WHOLE[131_071:262_145], _WHOLE[262_145:] + _LIVE],
    "line-ends-before-it": [b"\r\n" + _WHOLE + _LIVE],
    "behind-another": [_LIVE + _WHOLE + _LIVE],
    "twice": [_WHOLE + _WHOLE + _LIVE],
    "packed": [whole("POST", INFER, gzip.compress(_BODY, 1),
                     {**_HEADERS, "content-encoding": "gzip"}) + _LIVE],
}  # fmt: skip


@pytest.fixture(scope="module")
def plain_loop(demo_export, tmp_path_factory):
    """A server where there is no uvloop."""
    folder = tmp_path_factory.mktemp("asyncio")
    (folder / "uvloop.py").write_text("raise ImportError('there is none')\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    with running(
        folder, f"demo={demo_export}", *PLAIN, "--no-grpc", env={"PYTHONPATH": path}
    ) as one:
        yield one


@pytest.fixture(scope="module", params=["uvloop", "tls", "asyncio"])
def connect(request, serve, certificates):
    """Return what connects to a server, on each loop, and with TLS."""
    if request.param == "asyncio":
        address, context = request.getfixturevalue("plain_loop").address, None
    elif request.param == "tls":
        options = ("--tls-cert", certificates["cert"], "--tls-key", certificates["key"])
        address = serve(*options, "--no-grpc").address
        context = ssl.create_default_context(cafile=certificates["ca"])
    else:
        address, context = serve().address, None

    @contextlib.contextmanager
    def connected():
        with socket.create_connection(address, 60) as plain:
            if context is None:
                yield plain
                return
            with context.wrap_socket(plain, server_hostname="localhost") as encrypted:
                yield encrypted

    return connected


@pytest.fixture(scope="module")
def logits(server) -> bytes:
    """The answer to the same body in chunks, which goes the way of small ones."""
    chunks = head("POST", INFER, {"transfer-encoding": "chunked", **_HEADERS})
    pieces = (chunk(_BODY[place : place + 50_000]) for place in range(0, len(_BODY), 50_000))
    answer = exchange(server.address, chunks, *pieces, chunk(b""))
    assert answer is not None
    assert answer.status == 200
    return answer.body


@pytest.mark.parametrize("way", WAYS)
def test_a_large_body_comes_whole_and_what_is_behind_it_is_answered(connect, logits, way):
    parts = WAYS[way]
    count = b"".join(parts).count(b"HTTP/1.1\r\n")
    with connect() as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)  # so that it is read by itself
        kept = read_answers(connection, count)
    infers = [answer for answer in kept if len(answer.body) > 100]
    assert [answer.status for answer in kept] == [200] * count
    assert len(infers) == 1 + (way == "twice")
    assert {answer.body for answer in infers} == {logits}


def test_a_large_body_that_waits_to_be_told_to_come_is_told(connect, logits):
    with connect() as connection:
        announced = {"content-length": len(_BODY), "expect": "100-continue", **_HEADERS}
        connection.sendall(head("POST", INFER, announced))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(_BODY)
        assert read_answer(connection).body == logits


def test_requests_over_one_connection_each_get_their_own_body(connect, logits):
    dark = whole("POST", INFER, _BODY[: -len(_PIXELS)] + bytes(len(_PIXELS)), _HEADERS)
    with connect() as connection:
        for _ in range(3):
            connection.sendall(_WHOLE)
            assert read_answer(connection).body == logits
            connection.sendall(dark)
            assert read_answer(connection).body != logits


def test_whoever_sends_no_more_behind_a_large_body_gets_an_answer(server, logits):
    assert exchange(server.address, _WHOLE, half_close=True).body == logits


@pytest.mark.parametrize("half_close", [False, True], ids=["closed", "half-closed"])
def test_whoever_goes_away_within_a_large_body_is_forgotten(server, half_close):
    before = len(server.said)
    with socket.create_connection(server.address, 20) as connection:
        connection.sendall(_WHOLE[:200_000])
        time.sleep(0.1)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
            assert read_answer(connection) is None
    eventually(lambda: "499" in server.said[before:], "the log")
    assert "Traceback" not in server.said[before:]


def test_a_large_body_that_stops_is_given_up_and_its_rest_is_not_taken_for_a_request(impatient):
    with socket.create_connection(impatient.address, 60) as connection:
        connection.sendall(_WHOLE[:200_000])
        time.sleep(1.2)
        connection.sendall(b"\r\n\r\n" + _LIVE * 100)
        answer = read_answer(connection)
        assert answer.status == 408
        assert answer.headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_large_bodies_that_are_announced_take_no_memory_before_they_come(server):
    before = server.resident_mib
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            one = stack.enter_context(socket.create_connection(server.address, 20))
            one.sendall(head("POST", INFER, {"content-length": 60 * 2**20}) + bytes(100_000))
        time.sleep(0.5)  # for what came to be read
        assert httpx.get(f"{server.http}/v2/health/live").status_code == 200
        assert server.resident_mib - before < 64


def test_large_bodies_have_a_bound_together(serve):
    server = serve("--max-body-mb", 1, "--body-timeout-s", 20)
    with contextlib.ExitStack() as stack:
        some = []
        for _ in range(17):
            some.append(stack.enter_context(socket.create_connection(server.address, 20)))
            some[-1].sendall(head("POST", INFER, {"content-length": 2**20}) + bytes(2**20 - 1))
        refused = eventually(lambda: select.select(some, [], [], 0)[0], "a refusal")
        answer = read_answer(refused[0])
        assert answer.status == 503
        assert "too many large requests" in answer.error


def test_large_messages_over_grpc_are_let_go_when_they_are_answered(serve):
    server = serve("--max-body-mb", 1, "--body-timeout-s", 20)
    request = message("ModelInferRequest")(model_name="demo", raw_input_contents=[bytes(1_000_000)])
    request.inputs.add(name="images", datatype="UINT8", shape=[1])
    with grpc.insecure_channel(server.grpc) as channel:
        for _ in range(20):
            with pytest.raises(grpc.RpcError, match="1000000 bytes"):
                method(channel)(request, timeout=20)
        stream = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer", None, message("ModelStreamInferResponse").FromString
        )
        data = request.SerializeToString()
        for answer in stream(iter([data] * 40), timeout=60):
            assert "1000000 bytes" in answer.error_message


def test_numbers_behind_json_of_any_length_lie_where_the_runtime_reads_them_in_place():
    for before in range(1, 70):
        room = memory_for(before + 400, aligned=before)
        assert len(room) == before + 400
        assert np.frombuffer(room[before:], "<f4").flags.aligned
