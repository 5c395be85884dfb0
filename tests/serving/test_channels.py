"""Grey of 16 bits and pictures of five channels, served as files and as tensors."""

from __future__ import annotations

import base64
import io

import httpx
import numpy as np
import pytest
from PIL import Image

import tame_deploy
from tame_deploy.artifact.directory import open_artifact
from tame_deploy.data.shapes import draw_levels
from tame_deploy.picture.preprocess import load_picture, prepare_batch, shown
from tests.golden.test_artifacts import ARTIFACTS
from tests.serving.running import PLAIN, running

GREY16, FIVE = (ARTIFACTS[0].parent / name for name in ("schema-3-grey16", "schema-3-five"))
IMAGES = {"grey": open_artifact(GREY16).manifest.image, "five": open_artifact(FIVE).manifest.image}
DEEP = np.random.default_rng(0).integers(0, 4096, (50, 30)).astype(np.uint16)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("channels")
    with running(folder, f"grey={GREY16}", f"five={FIVE}", *PLAIN) as one:
        yield one


def png(levels):
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def pages():
    file = io.BytesIO()
    first, *others = map(Image.fromarray, np.moveaxis(draw_levels(2, IMAGES["five"]), 2, 0))
    first.save(file, "TIFF", save_all=True, append_images=others)
    return file.getvalue()


def asked(server, model, file, query=""):
    return httpx.post(f"{server.http}/v2/models/{model}/explain{query}", content=file)


def picture_of(text):
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("model", "path", "file"), [("grey", GREY16, png(DEEP)), ("five", FIVE, pages())]
)
def test_files_are_explained_and_shown_as_they_are_here(server, model, path, file):
    with tame_deploy.load(path, backend="onnxruntime") as explainer:
        expected = explainer.explain(file)[0]
    found = asked(server, model, file, "?overlay=true&picture=true").json()
    probabilities = [one["probability"] for one in found["classes"]]
    assert probabilities == pytest.approx([one.probability for one in expected.top()], abs=1e-5)
    assert np.array_equal(picture_of(found["picture_png"]), np.asarray(expected.picture))
    drawn = picture_of(found["explained"][0]["overlay_png"]).astype(int)
    assert np.abs(drawn - np.asarray(expected.overlay())).max() <= 1
    assert "picture_png" not in asked(server, model, file).json()


def test_the_box_of_a_letterboxed_picture_goes_beyond_it(server):
    left, top, right, bottom = asked(server, "grey", png(DEEP)).json()["visible_box"]
    assert (top, bottom) == (0, 50)
    assert left < 0
    assert right > 30


@pytest.mark.parametrize(
    ("model", "file", "message"),
    [
        ("five", png(DEEP), "picture has one page (I;16); the network takes 5 channels: expected"),
        ("grey", b"no picture", "is not a picture in"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(server, model, file, message):
    found = asked(server, model, file)
    assert found.status_code == 400
    assert message in found.json()["error"]


@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("model", ["grey", "five"])
def test_tensors_of_the_networks_levels_are_taken(server, transport, model):
    pytest.importorskip("tritonclient")
    address = server.http if transport == "http" else f"grpc://{server.grpc}"
    source = draw_levels(2, IMAGES[model])
    with (
        tame_deploy.connect(f"{address}/{model}") as there,
        tame_deploy.load({"grey": GREY16, "five": FIVE}[model], backend="onnxruntime") as here,
    ):
        found, expected = there.explain(source), here.explain(source)
        assert np.abs(found.logits - expected.logits).max() < 1e-4
        assert np.array_equal(np.asarray(found[0].picture), np.asarray(shown(source)))


def test_numbers_in_json_are_taken_and_drawn(server):
    image = IMAGES["grey"]
    tensor = prepare_batch([load_picture(DEEP, image)], image)
    port = {"name": "images", "datatype": "UINT16", "shape": tensor.shape}
    request = {
        "inputs": [port | {"data": tensor.ravel().tolist()}],
        "outputs": [{"name": "logits"}, {"name": "overlay"}],
    }
    told = httpx.post(f"{server.http}/v2/models/grey/infer", json=request).json()
    logits, overlay = told["outputs"]
    assert len(logits["data"]) == 5
    assert picture_of(overlay["data"][0]).shape == (32, 40, 3)
    refused = request | {"inputs": [port | {"datatype": "UINT8", "data": [0] * tensor.size}]}
    found = httpx.post(f"{server.http}/v2/models/grey/infer", json=refused)
    assert found.json()["error"] == (
        "found images UINT8 [1, 32, 40, 1]; expected UINT16 [-1, 32, 40, 1]"
    )
