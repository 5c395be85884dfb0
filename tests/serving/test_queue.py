"""A full queue, waits that are too long, and clients that leave or have said all."""

from __future__ import annotations

import re
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import httpx
import pytest

from tests.serving.clients import PICTURE, explain, infer_request, method
from tests.serving.http_probes import good_request
from tests.serving.raw_http import exchange, head, read_answer, whole
from tests.serving.running import PLAIN, eventually, running

EXPLAIN = "/v2/models/demo/explain?maps=none"
PATH, BODY, HEADERS = good_request()


@pytest.fixture
def queue(delaying):
    """The server whose requests wait, with nobody in its queue."""
    eventually(lambda: delaying.accepted == 0, "an empty queue")
    return delaying


def fill_batch(server):
    """Ask for two pictures, which run at once with the one that waits."""
    with grpc.insecure_channel(server.grpc) as channel:
        assert method(channel)(infer_request(rows=2), timeout=20).outputs


def statistics(server):
    return httpx.get(f"{server.http}/v2/models/demo/stats").json()["model_stats"][0]


def test_a_full_queue_says_when_to_come_back_and_a_long_wait_is_told(queue):
    with ThreadPoolExecutor(2) as pool, grpc.insecure_channel(queue.grpc) as channel:
        infer = method(channel)
        waiting = [pool.submit(explain, queue.http, timeout=30)]
        waiting += [pool.submit(infer, infer_request(), timeout=30)]
        eventually(lambda: queue.accepted == 2, "a full queue")
        refused = explain(queue.http)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        with pytest.raises(grpc.RpcError) as caught:
            infer(infer_request())
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert waiting[0].result().status_code == 504
        with pytest.raises(grpc.RpcError) as caught:
            waiting[1].result()
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_client_that_leaves_costs_no_run(queue):
    cancelled = 'tame_requests_total{model="demo",outcome="cancelled",transport="http"}'
    before, runs = queue.metric(cancelled), statistics(queue)["execution_count"]
    connection = socket.create_connection(queue.address, timeout=20)
    connection.sendall(whole("POST", EXPLAIN, PICTURE))
    eventually(lambda: queue.metric('tame_requests_waiting{model="demo"}') == 1, "its turn")
    connection.close()
    eventually(lambda: queue.metric(cancelled) > before, "its end")
    assert queue.metric('tame_requests_waiting{model="demo"}') == 0
    assert statistics(queue)["execution_count"] == runs


def test_a_client_that_sends_no_more_but_reads_gets_its_answer_late(queue):
    with socket.create_connection(queue.address, timeout=20) as connection:
        connection.sendall(whole("POST", EXPLAIN, PICTURE))
        connection.shutdown(socket.SHUT_WR)
        # Only who reads lets an interim response pass.
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert queue.accepted == 1
        fill_batch(queue)
        answer = read_answer(connection)
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert answer.json["classes"][0]["name"] == "ring"
        assert connection.recv(1) == b""


def test_an_older_client_gets_no_interim_response(queue):
    with socket.create_connection(queue.address, timeout=20) as connection:
        connection.sendall(whole("POST", EXPLAIN, PICTURE).replace(b"HTTP/1.1", b"HTTP/1.0"))
        connection.shutdown(socket.SHUT_WR)
        eventually(lambda: queue.accepted == 1, "the request")
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(20)
        fill_batch(queue)
        assert read_answer(connection).status == 200


@pytest.mark.parametrize(
    "sent",
    [whole("GET", "/v2/health/live"), whole("POST", PATH, BODY, HEADERS),
     whole("POST", EXPLAIN, PICTURE)],
    ids=["health", "infer", "explain"],
)  # fmt: skip
def test_a_client_that_sends_no_more_gets_its_answer(server, sent):
    answer = exchange(server.address, sent, half_close=True)
    assert answer is not None
    assert answer.status == 200


def test_a_client_that_sends_no_more_gets_all_its_answers(server):
    sent = (
        whole("POST", EXPLAIN, PICTURE)
        + whole("POST", PATH, BODY, HEADERS)
        + head("GET", "/v2", {})
    )
    with socket.create_connection(server.address, 10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        found = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200"] * 3


def test_so_many_connections_and_no_more(crowded):
    held = []

    def refused():
        found = httpx.get(f"{crowded.http}/v2")
        if found.status_code == 503:
            return found
        held.append(socket.create_connection(crowded.address, timeout=20))
        return None

    found = eventually(refused, "a server that is full")
    assert found.headers["retry-after"] == "1"
    assert len(held) >= 3
    for one in held:
        one.close()
    eventually(lambda: httpx.get(f"{crowded.http}/v2").status_code == 200, "a free place")


def test_three_hundred_clients_at_a_time_are_all_answered(demo_export, tmp_path):
    """By a server that starts with few open files allowed, and as it is by default."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    if usual[0] < 1000:
        pytest.skip("needs a process that may open a thousand files")
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, usual[1]))
        try:
            started = running(tmp_path, f"demo={demo_export}", *PLAIN, "--no-grpc")
            server = stack.enter_context(started)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        clients = [
            stack.enter_context(socket.create_connection(server.address, 20)) for _ in range(300)
        ]
        for one in clients:
            one.sendall(whole("POST", EXPLAIN, PICTURE))
            one.settimeout(120)
        assert [read_answer(one).status for one in clients] == [200] * 300


def test_who_reads_no_answer_does_not_keep_its_place(crowded):
    # Maps of 100 classes as JSON, more than any socket's buffers hold.
    path = "/v2/models/demo/explain?" + "&".join("class_id=1" for _ in range(100))
    deaf = []
    for _ in range(2):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(crowded.address)
        one.sendall(whole("POST", path, PICTURE) * 4)  # one after the other, unread
        deaf.append(one)

    def all_places_are_free():
        with ExitStack() as stack:
            held = [
                stack.enter_context(socket.create_connection(crowded.address, 20)) for _ in "123"
            ]
            for one in held:
                one.sendall(head("GET", "/v2", {}))
            return [read_answer(one).status for one in held] == [200] * 3

    eventually(all_places_are_free, "their places")
    for one in deaf:
        one.close()
