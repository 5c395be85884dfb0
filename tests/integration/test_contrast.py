"""Why one class and not another: the difference of two maps, wherever it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tame_deploy import load
from tame_deploy.artifact.contrast import encode_contrast
from tame_deploy.errors import InputError
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.runtime.predict.predictor import Predictor
from tests.command_line import one_line, run, run_here

PICTURES = sorted(Path("tame_deploy/data/pictures").absolute().glob("*-1.png"))
OLDER = Path(__file__).parents[1] / "golden" / "artifacts" / "schema-3"
CIRCLE, SQUARE, RING = 0, 1, 5
ON_CPU = ("--backend", "onnxruntime")


@pytest.fixture(scope="module")
def explainer(demo_export):
    with load(demo_export, backend="onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def of_logits(demo_with):
    with load(demo_with(maps="logits"), backend="onnxruntime", threads=1) as opened:
        yield opened


def logit_maps(of_logits, class_id):
    return of_logits.explain(PICTURES, class_id).maps


def assert_near(found, expected):
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_it_is_the_difference_of_the_two_logit_maps(of_logits):
    found = of_logits.explain(PICTURES, [CIRCLE, SQUARE], versus=RING)
    for place, own in enumerate((CIRCLE, SQUARE)):
        difference = logit_maps(of_logits, own) - logit_maps(of_logits, RING)
        assert_near(found.maps[:, [place]], difference)
    assert found.class_ids.tolist() == [[CIRCLE, SQUARE]] * len(PICTURES)
    assert found.versus_names == (("ring", "ring"),) * len(PICTURES)


def test_pytorch_gives_the_same_difference():
    network = build_network(load_backbone(BackboneRequest("demo")), HeadRequest())
    backend = TorchBackend(network, graph_input="uint8", maps="logits")
    predictor = Predictor(backend, backend.graph, backend.image, 6)
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in PICTURES])
    maps = [
        predictor.predict(pixels, predictor.class_ids(len(pixels), class_id)).maps
        for class_id in (SQUARE, RING)
    ]
    asked = predictor.class_ids(len(pixels), SQUARE, versus=RING)
    found = predictor.predict(pixels, asked)
    assert_near(found.maps, maps[0] - maps[1])
    assert found.class_ids.tolist() == asked.tolist()


def test_the_likeliest_class_is_contrasted_as_if_it_had_been_named(explainer):
    found = explainer.explain(PICTURES, versus="ring")
    likeliest = found.logits.argmax(axis=1)
    assert found.class_ids[:, 0].tolist() == likeliest.tolist()
    for row, (picture, own) in enumerate(zip(PICTURES, likeliest, strict=True)):
        if own != RING:
            named = explainer.explain(picture, int(own), versus=RING)
            assert np.abs(named.maps - found.maps[row]).max() < 1e-5


@pytest.mark.parametrize("maps", ["minmax", "sigmoid"])
def test_finished_it_has_two_signs_and_keeps_its_zero(demo_with, of_logits, maps):
    chosen = {} if maps == "minmax" else {"maps": maps}
    difference = logit_maps(of_logits, SQUARE) - logit_maps(of_logits, RING)
    with load(demo_with(**chosen), backend="onnxruntime", threads=1) as explainer:
        found = explainer.explain(PICTURES, SQUARE, versus=RING)
    if maps == "minmax":
        expected = difference / np.abs(difference).max(axis=(2, 3), keepdims=True)
    else:
        expected = np.tanh(difference / 2)
    assert np.abs(found.maps - expected).max() < 1e-4
    assert found.maps.min() < 0 < found.maps.max()
    heat = found[0].heat()
    assert np.abs(heat).max() == pytest.approx(1)
    assert ((heat > 0) == (found.maps[0, 0] > 0)).all()


def test_a_class_beside_a_contrast_has_the_map_that_it_has_alone(explainer):
    predictor, pixels = explainer.predictor, np.asarray(Image.open(PICTURES[0]).convert("RGB"))
    alone = predictor.predict(pixels[None], np.array([[SQUARE, CIRCLE]]))
    contrast = int(encode_contrast(np.array(CIRCLE), RING, 6))
    beside = predictor.predict(pixels[None], np.array([[SQUARE, contrast]]))
    assert (beside.maps[:, 0] == alone.maps[:, 0]).all()
    assert beside.class_ids.tolist() == [[SQUARE, contrast]]


def test_the_likeliest_class_and_not_itself_has_nothing_to_tell_apart(explainer):
    ring = next(path for path in PICTURES if path.name.startswith("ring"))
    one = explainer.explain(ring, versus="ring")[0]
    assert not one.maps.any()
    assert one.headline().endswith("and itself: nothing to tell apart")
    assert np.array_equal(np.asarray(one.overlay()), np.asarray(one.picture))
    assert one.panel().size[0] > one.picture.width


def test_where_a_picture_speaks_for_the_other_class_it_is_blue(explainer):
    ring = next(path for path in PICTURES if path.name.startswith("ring"))
    one = explainer.explain(ring, CIRCLE, versus=RING)[0]
    gained = np.asarray(one.overlay(), int) - np.asarray(one.picture, int)
    assert one.maps.min() == pytest.approx(-1)
    assert (gained[..., 2] - gained[..., 0]).max() > 40
    assert one.headline().startswith("why circle (")


def test_of_the_likeliest_classes_each_is_contrasted_with_the_same(explainer):
    found = explainer.explain(PICTURES[0], top_k=3, versus=RING)[0]
    likeliest = tuple(one.class_id for one in found.top(3))
    assert tuple(one.class_id for one in found.explained) == likeliest
    assert found.versus_names == ("ring",) * 3
    alone = explainer.explain(PICTURES[0], top_k=3)[0]
    assert alone.versus == (None,) * 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"versus": 6}, "versus is class 6; expected 0 to 5"),
        ({"versus": -1}, "versus is class -1; expected 0 to 5"),
        ({"versus": "rign"}, "no class is called 'rign'. Nearest: ring"),
        ({"versus": "6"}, "no class is called '6', and numbers of classes are 0 to 5"),
        ({"versus": "-1"}, "no class is called '-1', and numbers of classes are 0 to 5"),
        ({"versus": 1.5}, "versus is 1.5; expected the number of a class"),
        ({"versus": RING, "class_ids": [0, RING]}, "class 5 is to be explained and is also"),
        ({"versus": RING, "class_ids": 0, "top_k": 2}, "both class_ids and top_k"),
        ({"class_ids": -2}, "class id -2 is out of range; expected -1 to 5"),
    ],
)
def test_what_cannot_be_contrasted_is_told(explainer, asked, message):
    for ask in (explainer.explain, explainer.stream):
        with pytest.raises(InputError, match=message):
            ask(PICTURES[:1], **asked)


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        ({"explain": "predicted", "top_k": 2, "input": "float32"}, "explains the top 2, each"),
        ({"explain": "all", "input": "float32", "maps": "logits"}, "explains every class, each"),
    ],
)
def test_an_artifact_of_predicted_classes_says_how_to_export_it(demo_with, contract, message):
    artifact = demo_with(**contract)
    done = run_here("explain", artifact, PICTURES[0], "--versus", "ring", *ON_CPU, expect=1)
    assert message in one_line(done)
    assert "export it with --explain selectable" in one_line(done)


def test_an_older_artifact_says_that_it_must_be_exported_again():
    done = run_here("explain", OLDER, PICTURES[0], "--versus", "2", *ON_CPU, expect=1)
    assert "an older tame-deploy wrote it; export it again" in one_line(done)


def test_the_command_draws_two_colours_and_records_both_classes(demo_export, tmp_path):
    out = tmp_path / "out"
    run(
        "explain", demo_export, *PICTURES, "--versus", "Ring", "-o", out, "--maps", "npz", *ON_CPU,
    )  # fmt: skip
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    for record in records:
        [shown] = record["explained"]
        assert shown["versus"]["name"] == "ring"
        assert ("note" in shown) == (shown["name"] == "ring")
    stored = np.load(out / "maps-00000.npz")
    assert (stored["versus_ids"] == RING).all()
    assert stored["maps"].min() < 0
    drawn = np.asarray(Image.open(out / "square-1-overlay.jpg")).astype(int)
    before = np.asarray(Image.open(PICTURES[0].with_name("square-1.png")).convert("RGB"), int)
    warmer = (drawn - before)[..., 0] - (drawn - before)[..., 2]
    assert warmer.max() > 60  # orange for the square
    same = run_here(
        "explain", demo_export, PICTURES[0], "--versus", "ring", "--label", "RING", "-o", out / "x",
        *ON_CPU, expect=1,
    )  # fmt: skip
    assert "class 5 is to be explained and is also what it is contrasted with" in one_line(same)
