"""A server that is told to end: it says so, answers what it accepted, and waits for nobody else."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tame_deploy.serving.grpc.schema import SERVICE
from tests.serving.clients import PICTURE, explain, infer_request, method
from tests.serving.http_probes import EXPLAIN
from tests.serving.raw_http import Answer, head, read_answer, read_answers, whole
from tests.serving.running import PLAIN, eventually, running

#: Longer than any test waits for the end: a server that waits for so long does not end in time.
DRAIN_S = 3600
PATIENCE_S = 120


@dataclass(kw_only=True)
class Ended:
    """What became of a server's clients when it was told to end, and of itself."""

    explained: list[httpx.Response]
    inferred: list
    ready: httpx.Response
    watched: int
    status: int
    address: str
    pipelined: list[Answer]


@pytest.fixture(scope="module")
def ended(demo_export, tmp_path_factory):
    """End a server with 6 requests in its queue by each transport, watchers and idle streams."""
    folder = tmp_path_factory.mktemp("ended")
    delaying = ("--max-queue-delay-ms", 1500, "--max-batch", 64, "--drain-s", DRAIN_S)
    with (
        running(folder, f"demo={demo_export}", *PLAIN, *delaying) as server,
        httpx.Client(base_url=server.http) as client,
        grpc.insecure_channel(server.grpc) as channel,
        ThreadPoolExecutor(12) as pool,
        ExitStack() as stack,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch
        watching, leaving = (watch(health_pb2.HealthCheckRequest()) for _ in range(2))
        for one in (watching, leaving):
            assert next(one).status == health_pb2.HealthCheckResponse.SERVING
        leaving.cancel()
        over = threading.Event()
        silent = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter(over.wait, True))
        assert client.get("/v2/health/ready").json() == {"ready": True}
        explained = [pool.submit(explain, server.http, timeout=30) for _ in range(6)]
        infer = method(channel)
        inferred = [pool.submit(infer, infer_request(), timeout=30) for _ in range(6)]
        pipelined = stack.enter_context(socket.create_connection(server.address, PATIENCE_S))
        pipelined.sendall(whole("POST", EXPLAIN, PICTURE) + head("GET", "/v2", {}) * 300)
        eventually(lambda: server.accepted == 13, "all requests")
        server.process.send_signal(signal.SIGTERM)
        ready = eventually(lambda: _unready(client), "not being ready")
        status = server.process.wait(PATIENCE_S)
        watched = next(watching).status
        silent.cancel()
        over.set()
        yield Ended(
            explained=[one.result() for one in explained],
            inferred=[one.result() for one in inferred],
            ready=ready,
            watched=watched,
            status=status,
            address=server.http,
            pipelined=read_answers(pipelined),
        )


def _unready(client):
    found = client.get("/v2/health/ready")
    return found if found.status_code != 200 else None


def test_what_was_accepted_is_answered_on_both_transports(ended):
    assert {one.json()["classes"][0]["name"] for one in ended.explained} == {"ring"}
    assert {len(one.outputs) for one in ended.inferred} == {3}


def test_requests_that_were_sent_ahead_are_answered_before_their_connection_ends(ended):
    answers = ended.pipelined
    assert [one.status for one in answers] == [200] * 301
    assert [one.headers.get("connection") for one in answers] == [None] * 300 + ["close"]


def test_requests_that_are_not_answered_in_time_are_dropped_in_one_line_each(demo_export, tmp_path):
    delaying = ("--max-queue-delay-ms", 10_000, "--drain-s", 0.1, "--no-grpc")
    with running(tmp_path, f"demo={demo_export}", *PLAIN, *delaying) as server:
        with socket.create_connection(server.address, PATIENCE_S) as connection:
            connection.sendall(whole("POST", EXPLAIN, PICTURE) + head("GET", "/v2", {}))
            eventually(lambda: server.accepted == 1, "the request")
            assert server.end() == 0
            assert read_answer(connection) is None
        assert "Traceback" not in server.said
        assert server.said.count(f"http POST {EXPLAIN} 503 ") == 1


def test_open_connections_hear_that_it_is_not_ready(ended):
    assert ended.ready.status_code == 503
    assert ended.ready.json() == {"ready": False}
    assert ended.ready.headers["connection"] == "close"


def test_watchers_of_health_and_silent_streams_are_told_and_not_waited_for(ended):
    assert ended.watched == health_pb2.HealthCheckResponse.NOT_SERVING
    assert ended.status == 0  # long before the hour was over that it could have waited for them


def test_it_ends_well_and_listens_no_more(ended):
    assert ended.status == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{ended.address}/v2/health/live")
