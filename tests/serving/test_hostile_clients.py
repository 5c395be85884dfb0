"""Clients that send or ask for much, or pretend to be others: the others go on."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tame_deploy import connect
from tests.serving.clients import PICTURE, explain


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
    requests = [(body, {key: str(len(body))}), (told + strings, {key: str(len(told))})]
    with ThreadPoolExecutor(2) as pool:
        large = [
            pool.submit(httpx.post, url, content=b, headers=h, timeout=30) for b, h in requests
        ]
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
    stored = Path(server.log.parent) / "large.png"
    Image.new("RGB", (4000, 3000), "red").save(stored)  # 36 MB of pixels
    files = [stored.read_bytes()] * 8
    raw = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    told = json.dumps(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [8],
                     "parameters": {"binary_data_size": len(raw)}}],
         "outputs": [{"name": "logits"}]}
    ).encode()  # fmt: skip
    highest = before = server.resident_mib
    with ThreadPoolExecutor(3) as pool:
        requests = [
            pool.submit(httpx.post, f"{server.http}/v2/models/demo/infer", content=told + raw,
                        headers={"inference-header-content-length": str(len(told))}, timeout=60)
            for _ in range(3)
        ]  # fmt: skip
        while not all(one.done() for one in requests):
            highest = max(highest, server.resident_mib)
            time.sleep(0.02)
        assert {one.result().status_code for one in requests} == {200}
    assert highest - before < 400  # all 24 would be 860 MB


def test_an_id_can_fake_no_line_of_the_log(server):
    for told in ("a" * 3000, "two words] 200", ""):
        found = httpx.get(f"{server.http}/v2", headers={"x-request-id": told})
        assert len(found.headers["x-request-id"]) == 32
    forged = {"x-forwarded-for": "6.6.6.6"}
    httpx.get(f"{server.http}/nowhere", headers=forged).json()
    server.wait_until_said("http GET /nowhere 404")  # the log has a thread of its own
    assert "6.6.6.6" not in server.said


def test_on_ipv6(serve):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = serve("--host", "::1")
    assert explain(server.http).status_code == 200
    with connect(f"grpc://{server.grpc}/demo") as explainer:
        assert explainer.explain(PICTURE).class_names == (("ring",),)
