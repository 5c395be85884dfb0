"""The protocol by hand: plain HTTP, and plain gRPC."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

import tame_deploy
from tame_deploy.serving.grpc.schema import message
from tame_deploy.serving.tensors import raw_bytes
from tests.serving.clients import method

PICTURE = Path("tame_deploy/data/pictures/ring-1.png")


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.http) as opened:
        yield opened


def test_a_file_is_explained(client):
    body = PICTURE.read_bytes()
    found = client.post("/v2/models/demo/explain", content=body).raise_for_status().json()
    assert found["classes"][0]["name"] == "ring"
    heat = np.array(found["explained"][0]["map"]["data"])
    assert heat.min() >= 0
    assert heat.max() <= 1
    drawn = client.post(
        "/v2/models/demo/explain", content=body, headers={"accept": "image/png"}
    )  # fmt: skip
    assert drawn.headers["content-type"] == "image/png"
    assert drawn.content.startswith(b"\x89PNG")


def test_maps_of_a_file_are_written_so_that_they_read_as_the_same_float32(client, demo_export):
    told = client.post("/v2/models/demo/explain", content=PICTURE.read_bytes()).json()
    read = np.array(told["explained"][0]["map"]["data"], np.float32)
    with tame_deploy.load(demo_export, backend="onnxruntime", threads=1) as explainer:
        np.testing.assert_array_equal(read, explainer.explain(PICTURE).maps[0, 0])


def test_json_in_and_out(client):
    images = np.zeros((2, 128, 128, 3), np.uint8)
    request = {
        "id": "seven",
        "inputs": [
            {"name": "images", "shape": [2, 128, 128, 3], "datatype": "UINT8",
             "data": images.ravel().tolist()},
            {"name": "class_ids", "shape": [2, 2], "datatype": "INT64", "data": [[0, 1], [2, 3]]},
        ],
        "outputs": [{"name": "explained"}],
    }  # fmt: skip
    found = client.post("/v2/models/demo/infer", content=json.dumps(request)).json()
    assert found["id"] == "seven"
    assert found["outputs"] == [
        {"name": "explained", "datatype": "INT64", "shape": [2, 2], "data": [0, 1, 2, 3]}
    ]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/demo/ready", {"name": "demo", "ready": True}),
        ("/v2/models/demo/versions/1/ready", {"name": "demo", "ready": True}),
    ],
)
def test_health_is_told_in_json(client, path, told):
    found = client.get(path)
    assert found.status_code == 200
    assert found.headers["content-type"] == "application/json"
    assert found.json() == told


def test_a_grpc_client_takes_large_answers_if_it_is_told_to(server):
    drawn = np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "PNG", compress_level=0)
    request = message("ModelInferRequest")(model_name="demo", outputs=[{"name": "overlay"}])
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(raw_bytes(np.array([file.getvalue()], object)))
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        method(channel)(request, timeout=30)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    told = re.compile(r"Received message larger than max \(\d+ vs\. 4194304\)")
    assert told.search(caught.value.details())
    assert told.search(Path("docs/serving.md").read_text())
    size = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=size) as channel:
        (overlay,) = method(channel)(request, timeout=30).raw_output_contents
    assert len(overlay) > 4 * 2**20
