"""Clients that hold on, send slowly, read nothing or ask for much: the others go on."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from tame_deploy.serving.grpc.schema import SERVICE
from tests.serving.running import running
from tests.serving.test_operations import QUIET, TOKEN, explain, infer_body, method, wait_for

PICTURE = Path("tame_deploy/data/pictures/ring-1.png").read_bytes()


def connected(server):
    return socket.create_connection(server.address, timeout=20)


def head(path, size, *more):
    lines = (f"POST {path} HTTP/1.1", "host: x", f"content-length: {size}", *more)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def test_a_body_that_comes_while_its_artifact_is_replaced_is_answered(demo_export, tmp_path):
    served = tmp_path / "demo"
    shutil.copytree(demo_export, served)
    reloading = running(tmp_path, served, *QUIET, "--reload-s", 0.1)
    with reloading as server, connected(server) as half:
        half.sendall(head("/v2/models/demo/explain?maps=none", len(PICTURE)) + PICTURE[:9])
        (served / "manifest.json").touch()
        wait_for(server, 'tame_model_loads_total{model="demo",outcome="ok"} 2.0')
        time.sleep(0.5)  # the old one is closed
        half.sendall(PICTURE[9:])
        assert half.recv(65536).startswith(b"HTTP/1.1 200")


def test_who_reads_no_answer_does_not_keep_its_place(demo_export, tmp_path):
    few = ("--timeout-s", 1, "--keep-alive-s", 1, "--max-connections", 3)
    # Maps of 100 classes as JSON, more than any socket's buffers hold.
    path = "/v2/models/demo/explain?" + "&".join("class_id=1" for _ in range(100))
    with running(tmp_path, f"demo={demo_export}", *QUIET, *few) as server:
        deaf = []
        for _ in range(2):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(server.address)
            for _ in range(4):  # one after the other, unread
                one.sendall(head(path, len(PICTURE)) + PICTURE)
            deaf.append(one)
        time.sleep(4)
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda _: httpx.get(f"{server.http}/v2"), range(3)))
        assert {one.status_code for one in found} == {200}
        for one in deaf:
            one.close()


def test_so_many_connections_and_no_more(demo_export, tmp_path):
    with running(tmp_path, f"demo={demo_export}", *QUIET, "--max-connections", 2) as server:
        first, second = connected(server), connected(server)
        time.sleep(0.2)
        third = httpx.get(f"{server.http}/v2")
        assert third.status_code == 503
        assert third.headers["retry-after"] == "1"
        first.close()
        time.sleep(0.2)
        assert httpx.get(f"{server.http}/v2").status_code == 200
        second.close()


def test_requests_that_say_nothing_are_refused_at_once_without_a_token(demo_export, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    few = ("--token-file", tokens, "--max-connections", 6, "--drain-s", 5)
    guarded = running(tmp_path, f"demo={demo_export}", *QUIET, *few)
    with guarded as server, grpc.insecure_channel(server.grpc) as channel:
        silent = threading.Event()

        def nothing():
            silent.wait(20)
            yield from ()

        held = [channel.stream_stream(f"/{SERVICE}/ModelInfer")(nothing()) for _ in range(5)]
        for one in held:
            with pytest.raises(grpc.RpcError) as caught:
                next(one)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        time.sleep(0.2)
        infer = method(channel, "ModelInfer", "ModelInferResponse")
        allowed = (("authorization", f"Bearer {TOKEN}"),)
        assert infer(infer_body(), metadata=allowed, timeout=10).outputs
        silent.set()


def test_watchers_of_health_are_not_waited_for(demo_export, tmp_path):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    patient = running(tmp_path, f"demo={demo_export}", *QUIET, "--drain-s", 20)
    with patient as server, grpc.insecure_channel(server.grpc) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        idle = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter(lambda: time.sleep(9), 0))
        started = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - started < 5
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        idle.cancel()


def test_a_large_request_does_not_stop_the_others(server):
    numbers = json.dumps([7] * 3_000_000)
    body = ('{"inputs":[{"name":"images","datatype":"UINT8","shape":[8,128,128,3],"data":'
            f"{numbers}}}]}}").encode()  # fmt: skip
    strings = bytes(4 * 4_000_000)
    told = json.dumps(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1],
                     "parameters": {"binary_data_size": len(strings)}}]}
    ).encode()  # fmt: skip
    url = f"{server.http}/v2/models/demo/infer"
    key = "inference-header-content-length"
    asked = [(body, {key: str(len(body))}), (told + strings, {key: str(len(told))})]
    with ThreadPoolExecutor(2) as pool:
        large = [pool.submit(httpx.post, url, content=b, headers=h, timeout=30) for b, h in asked]
        slowest = 0.0
        while not all(one.done() for one in large):
            started = time.monotonic()
            httpx.get(f"{server.http}/v2/health/live").raise_for_status()
            slowest = max(slowest, time.monotonic() - started)
        assert [one.result().status_code for one in large] == [400, 400]
    assert slowest < 1.5


def test_so_many_overlays_and_no_more(server):
    url = f"{server.http}/v2/models/demo/explain?overlay=true&maps=none"
    many = "".join(f"&class_id={number % 6}" for number in range(33))
    found = httpx.post(url + many, content=PICTURE)
    assert found.status_code == 400
    assert "33 overlays are asked for; expected at most 32" in found.json()["error"]
    found = httpx.post(url + "&top_k=3", content=PICTURE).json()
    assert len({one["overlay_png"] for one in found["explained"]}) == 3


def test_large_pictures_are_not_kept(server):
    from PIL import Image

    from tests.serving.test_mutations import resident_mib

    stored = Path(server.log.parent) / "large.png"
    Image.new("RGB", (4000, 3000), "red").save(stored)  # 36 MB of pixels
    files = [stored.read_bytes()] * 8
    raw = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    told = json.dumps(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [8],
                     "parameters": {"binary_data_size": len(raw)}}],
         "outputs": [{"name": "logits"}]}
    ).encode()  # fmt: skip
    highest = before = resident_mib(server)
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(httpx.post, f"{server.http}/v2/models/demo/infer", content=told + raw,
                        headers={"inference-header-content-length": str(len(told))}, timeout=60)
            for _ in range(3)
        ]  # fmt: skip
        while not all(one.done() for one in asked):
            highest = max(highest, resident_mib(server))
            time.sleep(0.02)
        assert {one.result().status_code for one in asked} == {200}
    assert highest - before < 400  # all 24 would be 860 MB


def test_an_id_can_fake_no_line_of_the_log(server):
    for told in ("a" * 3000, "two words] 200", ""):
        found = httpx.get(f"{server.http}/v2", headers={"x-request-id": told})
        assert len(found.headers["x-request-id"]) == 32
    forged = {"x-forwarded-for": "6.6.6.6"}
    httpx.get(f"{server.http}/nowhere", headers=forged).json()
    server.wait_until_said("http GET /nowhere 404")  # the log has a thread of its own
    assert "6.6.6.6" not in server.said


def test_on_ipv6(demo_export, tmp_path):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    from tame_deploy import connect

    with running(tmp_path, f"demo={demo_export}", *QUIET, "--host", "::1") as server:
        assert explain(server.http).status_code == 200
        with connect(f"grpc://{server.grpc}/demo") as explainer:
            assert explainer.explain(PICTURE).class_names == (("ring",),)
