"""Why one class and not another, asked of a server."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tame_deploy import connect, load
from tame_deploy.artifact.contrast import encode_contrast

RING, STAR = 5, 3
FILE = Path("tame_deploy/data/pictures/star-1.png").absolute()


@pytest.fixture(scope="module")
def here(demo_export):
    with load(demo_export, backend="onnxruntime", threads=1) as explainer:
        yield explainer.explain(FILE, versus="ring")


def explained(server, query, **headers):
    url = f"{server.http}/v2/models/demo/explain?{query}"
    return httpx.post(url, content=FILE.read_bytes(), headers=headers)


@pytest.mark.parametrize("versus", ["ring", "RING", "5"])
def test_a_query_names_the_other_class_by_name_or_number(server, here, versus):
    told = explained(server, f"versus={versus}").json()
    [shown] = told["explained"]
    assert shown["name"] == "star"
    assert (shown["versus"]["class_id"], shown["versus"]["name"]) == (RING, "ring")
    found = np.asarray(shown["map"]["data"], np.float32)
    assert found.min() < 0 < found.max()
    assert np.abs(found - here.maps[0, 0]).max() < 1e-3


def test_maps_and_overlays_have_two_colours(server, here):
    told = explained(server, "versus=ring&maps=png&overlay=true").json()
    [shown] = told["explained"]
    layer, drawn = (
        Image.open(io.BytesIO(base64.b64decode(shown[name]))) for name in ("map_png", "overlay_png")
    )
    assert layer.mode == "RGBA"
    expected = np.asarray(here[0].overlay()).astype(int)
    assert np.abs(np.asarray(drawn.convert("RGB")).astype(int) - expected).max() <= 8
    answer = explained(server, "versus=ring", accept="image/png")
    assert answer.headers["x-class-id"] == str(STAR)
    assert answer.headers["x-versus-class-id"] == str(RING)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("versus=rign", "no class is called 'rign'. Nearest: ring"),
        ("versus=6", "no class is called '6'"),
        ("versus=ring&versus=star", "found versus more than once"),
        ("versus=ring&label=ring", "class 5 is to be explained and is also what it is contrasted"),
        ("class_id=-2", "class_id is '-2'; expected -1 to 5"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(server, query, words):
    answer = explained(server, query)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def inferred(server, *numbers):
    pixels = np.asarray(Image.open(FILE).convert("RGB"))
    inputs = [
        {"name": "images", "datatype": "UINT8", "shape": [1, 128, 128, 3],
         "data": pixels.ravel().tolist()},
        {"name": "class_ids", "datatype": "INT64", "shape": [1, len(numbers)],
         "data": list(map(int, numbers))},
    ]  # fmt: skip
    return httpx.post(f"{server.http}/v2/models/demo/infer", json={"inputs": inputs})


def test_a_client_of_the_protocol_asks_by_one_number(server, here):
    named = int(encode_contrast(np.array(STAR), RING, 6))
    outputs = {one["name"]: one for one in inferred(server, -2 - RING, named).json()["outputs"]}
    assert outputs["explained"]["data"] == [named, named]
    maps = np.reshape(outputs["maps"]["data"], outputs["maps"]["shape"])
    assert np.abs(maps - here.maps).max() < 1e-3


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (int(encode_contrast(np.array(RING), RING, 6)), "class 5 is contrasted with itself"),
        (-50, "class id -50 is out of range; expected -1 to 5, or the number of a contrast"),
        (6, "class id 6 is out of range; expected -1 to 5"),
    ],
)
def test_other_numbers_are_refused(server, number, words):
    answer = inferred(server, number)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_an_explainer_of_a_server_tells_classes_apart_as_one_of_the_artifact(server, here):
    pytest.importorskip("tritonclient.http")
    with connect(f"{server.http}/demo") as there:
        found = there.explain(FILE, versus="ring")
    assert found.versus_names == (("ring",),)
    assert np.abs(found.maps - here.maps).max() < 1e-3
