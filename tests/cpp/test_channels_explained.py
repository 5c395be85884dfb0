"""libtame explains grey of 16 bits and many channels as Python does, overlays included."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import tame_deploy
from tame_deploy.artifact.directory import open_artifact
from tame_deploy.data.shapes import draw_levels
from tame_deploy.errors import BackendError, InputError
from tests.contract.libtame import LibtameBackend
from tests.cpp.pictures import encoded, gradient, in_order
from tests.cpp.test_channels import levels
from tests.golden.replay import LOGITS_RELATIVE, MAPS_ABSOLUTE
from tests.golden.test_artifacts import ARTIFACTS

GREY16, FIVE = (ARTIFACTS[0].parent / name for name in ("schema-3-grey16", "schema-3-five"))
TALL = levels(31, 57, 1, 16, 0) // 16
SOURCES = [
    (GREY16, TALL),
    (GREY16, levels(70, 20, 1, 8, 0)),
    (GREY16, encoded(Image.fromarray(TALL[..., 0]), "PNG")),
    (GREY16, encoded(gradient(40, 90), "JPEG")),
    (FIVE, draw_levels(1, open_artifact(FIVE).manifest.image)),
    (FIVE, levels(90, 60, 5, 16, 1)),
]


@in_order
@pytest.mark.parametrize(("path", "source"), SOURCES, ids=range(len(SOURCES)))
def test_the_same_answer_and_overlay(path, source):
    with tame_deploy.load(path, backend="onnxruntime") as explainer:
        expected = explainer.explain(source)
    with LibtameBackend(open_artifact(path)) as backend:
        found, overlay = backend.explain(source)
    apart = np.abs(found["logits"] - expected.logits).max()
    assert apart <= LOGITS_RELATIVE * np.abs(expected.logits).max()
    assert np.abs(found["maps"] - expected.maps).max() <= MAPS_ABSOLUTE
    drawn = np.asarray(expected[0].overlay()).astype(int)
    assert np.abs(overlay - drawn).max() <= 1


def test_tensors_of_16_bits_are_taken():
    artifact = open_artifact(GREY16)
    with (
        LibtameBackend(artifact) as backend,
        tame_deploy.load(GREY16, backend="onnxruntime") as explainer,
    ):
        images = np.random.default_rng(0).integers(0, 4096, (2, 32, 40, 1)).astype(np.uint16)
        ids = np.full((2, 1), -1, np.int64)
        found = backend.run({"images": images, "class_ids": ids})
        expected = explainer.predictor.predict(images, ids)
        assert np.abs(found["logits"] - expected.logits).max() < 1e-4


def test_what_a_network_does_not_take_is_told_by_picture():
    with (
        LibtameBackend(open_artifact(FIVE)) as backend,
        pytest.raises(InputError, match="picture 0: picture has 4 channels; the network takes 5: "),
    ):
        backend.explain(levels(9, 9, 4, 8, 0))


def test_a_window_beside_that_of_the_graph_is_refused():
    told = r"found window 1,9 for pictures; the graph has its own \(0,4095\), so leave it out"
    with pytest.raises(BackendError, match=told):
        LibtameBackend(open_artifact(GREY16), window=(1, 9))
