"""Clients that send or ask for much, or pretend to be others: the others go on."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image
from starlette.requests import Request

from tame_deploy import connect
from tame_deploy.serving.http.explain import picture_file
from tests.serving.clients import PICTURE, explain

#: Much more than the tenth of a second that others may wait, for machines that are slow and busy.
#: What these requests took before there were bounds was longer still.
NOTICED_S = 5.0
_ROW = "[" + "0," * 127 + "0]"


def _request(data: str, shape: str = "[8,128,128,3]") -> bytes:
    tensor = f'{{"name":"images","datatype":"UINT8","shape":{shape},"data":{data}}}'
    return f'{{"inputs":[{tensor}]}}'.encode()


#: Much JSON, with the status that it gets: what no request needs is not even parsed.
LARGE = {
    "nested-lists": (b'{"a":[' + b",".join([b"[[[]]]"] * 1_900_000) + b"]}", 413),
    "nested-objects": (b'{"a":[' + b",".join([b'{"b":{}}'] * 1_400_000) + b"]}", 413),
    "names": (b"{" + b",".join(b'"%d":1' % i for i in range(1_200_000)) + b"}", 413),
    "numbers": (_request("[" + "7," * 3_000_000 + "7]"), 413),
    "deep": (b"[" * 13_000_000, 413),
    "one-string": (_request('"' + "a" * 13_000_000 + '"'), 400),
    "one-number": (_request("1" * 13_000_000), 400),
    "more-than-ever": (b" " * (17 * 2**20), 413),
    "all-that-is-needed": (_request("[" + ",".join([_ROW] * 3072) + "]"), 200),
}


@pytest.mark.parametrize("name", LARGE)
def test_much_json_does_not_stop_the_others(server, name):
    body, status = LARGE[name]
    url = f"{server.http}/v2/models/demo/infer"
    with ThreadPoolExecutor(1) as pool, httpx.Client() as client:
        large = pool.submit(httpx.post, url, content=body, timeout=60)
        while not large.done():
            client.get(f"{server.http}/v2/health/live", timeout=NOTICED_S).raise_for_status()
            time.sleep(0.01)
        found = large.result()
        assert found.status_code == status, found.text
        if status == 413:
            assert "send tensors as raw bytes" in found.json()["error"]


def test_many_strings_behind_json_do_not_stop_the_others(server):
    strings = bytes(4 * 4_000_000)
    told = json.dumps(
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1],
                     "parameters": {"binary_data_size": len(strings)}}]}
    ).encode()  # fmt: skip
    headers = {"inference-header-content-length": str(len(told))}
    with ThreadPoolExecutor(1) as pool, httpx.Client() as client:
        large = pool.submit(
            httpx.post, f"{server.http}/v2/models/demo/infer", content=told + strings,
            headers=headers, timeout=60,
        )  # fmt: skip
        while not large.done():
            client.get(f"{server.http}/v2/health/live", timeout=NOTICED_S).raise_for_status()
        assert large.result().status_code == 400


def test_a_large_body_for_the_index_is_refused(server):
    found = httpx.post(f"{server.http}/v2/repository/index", content=b"[" * 100_000)
    assert found.status_code == 413


def test_others_have_their_turns_while_a_large_form_is_parsed():
    begin = b'--edge\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    picture, turns = bytes(8 * 2**20), 0
    headers = [(b"content-type", b"multipart/form-data; boundary=edge")]

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def parse():
        beside = asyncio.ensure_future(others())
        request = Request({"type": "http", "headers": headers})
        found = await picture_file(request, begin + picture + b"\r\n--edge--\r\n")
        beside.cancel()
        return found

    assert asyncio.run(parse()) == picture
    assert turns > 100


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
