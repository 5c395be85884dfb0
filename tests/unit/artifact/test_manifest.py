"""The manifest: a round trip for whatever is valid, one clear line for whatever is not."""

import json
from dataclasses import MISSING, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tame_deploy.artifact.manifest import (
    CalibrationSummary,
    FidelityReport,
    GraphSpec,
    Manifest,
    ParityReport,
    WeightsSource,
)
from tame_deploy.artifact.types import VARIANTS, ImageSpec, TensorSpec, variant_config
from tame_deploy.errors import IncompatibleArtifactError, ManifestError

names = st.text(min_size=1, max_size=20)
unit = st.floats(0, 1, allow_nan=False)
triples = st.tuples(unit, unit, unit)
COUNTS = st.integers(0, 10**6)


CLASS_IDS = TensorSpec("class_ids", "int64", ("batch", "k"))


def outputs(classes):
    return (
        TensorSpec("logits", "float32", ("batch", classes)),
        TensorSpec("explained", "int64", ("batch", "k")),
        TensorSpec("maps", "float32", ("batch", "k", 28, 28)),
    )


@st.composite
def fidelities(draw) -> FidelityReport:
    counts = ("pictures", "maps", "flat_maps", "flat_maps_fp32")
    values = {
        field.name: draw(st.integers(0, 10**6) if field.name in counts else unit)
        for field in fields(FidelityReport)
        if field.default is MISSING and field.default_factory is MISSING
    }
    worst = {name: draw(names) for name in ("pearson_worst_picture", "spearman_worst_picture")}
    floor = draw(st.dictionaries(names, unit, max_size=3))
    return FidelityReport(**values | worst, floor=floor, allowed_below=draw(st.booleans()))


@st.composite
def manifests(draw) -> Manifest:
    channels = tuple(draw(st.lists(st.integers(1, 4096), min_size=1, max_size=4)))
    classes = draw(st.integers(1, 2000))
    image = ImageSpec(
        height=draw(st.integers(1, 1024)),
        width=draw(st.integers(1, 1024)),
        resize=draw(st.integers(1, 1024)),
        crop=draw(st.sampled_from(["center", "none"])),
        mean=draw(triples),
        std=tuple(value + 0.1 for value in draw(triples)),
    ).for_input(draw(st.sampled_from(["uint8", "float32"])))
    return Manifest(
        name=draw(names),
        backbone=draw(names),
        feature_layers=tuple(draw(names) for _ in channels),
        head=variant_config(draw(st.sampled_from(list(VARIANTS))), channels, classes),
        classes=classes,
        inputs=(TensorSpec("images", image.dtype, image.input_shape("batch")), CLASS_IDS),
        outputs=outputs(classes),
        image=image,
        graph=GraphSpec("selectable", 1, "minmax", 18),
        weights={
            "head": WeightsSource(draw(names), draw(st.booleans())),
            "backbone": WeightsSource(draw(names)),
        },
        files={"model.onnx": "0" * 64, "labels.txt": "1" * 64},
        precision=draw(st.sampled_from(["fp32", "fp16", "int8", "int8+fp16"])),
        target=draw(st.sampled_from([None, "cpu", "tensorrt"])),
        calibration=draw(st.none() | st.builds(CalibrationSummary, names, names, COUNTS, COUNTS)),
        fidelity=draw(st.none() | fidelities()),
    )


EXAMPLE = Manifest(
    name="example",
    backbone="vgg16",
    feature_layers=("a", "b"),
    head=variant_config("tame", (4, 8), 10),
    classes=10,
    inputs=(TensorSpec("images", "uint8", ("batch", 224, 224, 3)), CLASS_IDS),
    outputs=outputs(10),
    image=ImageSpec(),
    graph=GraphSpec("selectable", 5, "minmax", 18),
    weights={"head": WeightsSource("file"), "backbone": WeightsSource("file")},
    files={"model.onnx": "0" * 64, "labels.txt": "1" * 64},
)


@given(manifests())
def test_json_round_trip(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest


@given(manifests())
def test_speed_only_is_said_if_any_weights_are_random(manifest):
    assert manifest.speed_only == manifest.weights["head"].random


def test_identity_follows_the_meaning_and_not_the_name():
    renamed = replace(
        EXAMPLE, name="other", files={}, parity=ParityReport(3, 1.0, 0.0, 0.0, 1.0, 0, 0, 0)
    )
    assert renamed.identity() == EXAMPLE.identity()
    moved = replace(EXAMPLE, image=ImageSpec(mean=(0.5, 0.5, 0.5)))
    assert moved.identity() != EXAMPLE.identity()


def spoiled(**changes):
    return json.dumps(json.loads(EXAMPLE.to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "expected an object"),
        ('{"schema_version": NaN}', "NaN is not a JSON number"),
        (spoiled(surprise=1), "unknown key manifest.surprise; known: backbone, calibration"),
        ("{}", "manifest.backbone, manifest.classes, .* are missing"),
        (spoiled(classes="10"), "manifest.classes is '10'; expected a whole number"),
        (spoiled(classes=True), "manifest.classes is True"),
        (spoiled(classes=11), "classes is 11 but the head has 10"),
        (spoiled(feature_layers=["a"]), "1 feature layers but a head for 2"),
        (spoiled(feature_layers="ab"), "expected a list"),
        (spoiled(kind="engine"), "manifest.kind is 'engine'; expected one of explainer"),
        (spoiled(files={}), "files does not list model.onnx"),
        (spoiled(schema_version=0), "schema_version is 0; expected 1"),
        (spoiled(image=ImageSpec().__dict__ | {"height": 0}), "image height is 0"),
        (spoiled(image=ImageSpec().__dict__ | {"mean": [0, 0]}), "has 2 entries; expected 3"),
        (spoiled(image=ImageSpec().__dict__ | {"std": [1, 1, 0]}), "positive"),
        (spoiled(weights={}), "weights names \\[\\]; expected backbone and head"),
        (spoiled(outputs=[]), "outputs is \\[\\]; expected logits, explained, maps"),
        (spoiled(inputs=[]), "expected images, class_ids"),
        (spoiled(parity={"pictures": 1}), "manifest.parity.flat_maps, .* are missing"),
        (spoiled(image=ImageSpec().__dict__ | {"mean": [10**400, 0, 0]}), "expected a number"),
        (spoiled(weights={"head": 3}), "manifest.weights.head is 3; expected an object"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(text)


def test_a_newer_schema_says_upgrade():
    with pytest.raises(IncompatibleArtifactError, match="reads up to 1. Upgrade"):
        Manifest.from_json(spoiled(schema_version=2, unheard_of=True))
