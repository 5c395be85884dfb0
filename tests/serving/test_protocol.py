"""The protocol by hand: plain HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

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


def test_json_in_and_out(client):
    images = np.zeros((2, 128, 128, 3), np.uint8)
    asked = {
        "id": "seven",
        "inputs": [
            {"name": "images", "shape": [2, 128, 128, 3], "datatype": "UINT8",
             "data": images.ravel().tolist()},
            {"name": "class_ids", "shape": [2, 2], "datatype": "INT64", "data": [[0, 1], [2, 3]]},
        ],
        "outputs": [{"name": "explained"}],
    }  # fmt: skip
    found = client.post("/v2/models/demo/infer", content=json.dumps(asked)).json()
    assert found["id"] == "seven"
    assert found["outputs"] == [
        {"name": "explained", "datatype": "INT64", "shape": [2, 2], "data": [0, 1, 2, 3]}
    ]
