"""The manifest: a round trip for whatever is valid, one clear line for whatever is not."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tame_deploy.artifact.manifest import (
    SCHEMA_VERSION,
    CalibrationSummary,
    FidelityReport,
    GraphIdentity,
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
    tables = ("average_drop", "increase", "floor")
    worst = ("pearson_worst_picture", "spearman_worst_picture")
    kinds = (
        dict.fromkeys(counts, st.integers(0, 10**6))
        | dict.fromkeys(tables, st.dictionaries(names, unit, max_size=3))
        | dict.fromkeys(worst, names)
        | {"allowed_below": st.booleans()}
    )
    said = {field.name: draw(kinds.get(field.name, unit)) for field in fields(FidelityReport)}
    return FidelityReport(**said)


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
    manifest = Manifest(
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
        target=draw(st.sampled_from([None, "cpu", "cpu-vnni", "tensorrt"])),
        calibration=draw(st.none() | st.builds(CalibrationSummary, names, names, COUNTS, COUNTS)),
        fidelity=draw(st.none() | fidelities()),
        parity=None,
        tool_versions={},
        schema_version=SCHEMA_VERSION,
    )
    return manifest.with_identity()


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
    calibration=None,
    fidelity=None,
    parity=None,
    tool_versions={},
    schema_version=SCHEMA_VERSION,
).with_identity()


@pytest.mark.slow
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
    assert moved.with_identity().identity() != EXAMPLE.identity()


@pytest.mark.parametrize(
    ("changes", "edited"),
    [
        ({"image": ImageSpec(resize=200)}, "image is"),
        ({"parents": ("other 123",), "precision": "int8"}, "parents, precision are"),
        ({"labels": "model.onnx"}, "labels is"),
        ({"weights": {"head": WeightsSource("x"), "backbone": WeightsSource("y")}}, "weights is"),
    ],
)
def test_an_edit_of_what_fixes_the_graphs_meaning_is_refused(changes, edited):
    words = f"not exported with this manifest.json: {edited} not what identity_text says"
    with pytest.raises(IncompatibleArtifactError, match=words):
        Manifest.from_json(replace(EXAMPLE, **changes).to_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "manifest.identity_text is missing or empty"),
        ("[]", "manifest.identity_text holds a list"),
        ("{", "manifest.identity_text is not valid JSON"),
        ("{}", "manifest.identity_text.backbone, .* are missing"),
        ('{"image": 3, "name": ""}', "unknown key manifest.identity_text.name; known"),
    ],
)
def test_an_identity_text_is_not_believed(text, message):
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(replace(EXAMPLE, identity_text=text).to_json())


def test_the_hash_is_of_the_texts_bytes_however_it_is_written():
    spaced = json.dumps(json.loads(EXAMPLE.identity_text), indent=3).replace("0.485", "48.5e-2")
    found = Manifest.from_json(replace(EXAMPLE, identity_text=spaced).to_json())
    assert found.identity() == hashlib.sha256(spaced.encode()).hexdigest()


def older(text, **changes):
    """Return a manifest of schema 1, as version 0.1 wrote them."""
    raw = json.loads(text)
    del raw["identity_text"]
    return json.dumps(raw | {"schema_version": 1} | changes)


@given(manifests())
def test_an_older_manifest_becomes_one_of_today_that_keeps_its_identity(manifest):
    found = Manifest.from_json(older(manifest.to_json()))
    said = json.loads(manifest.identity_text) | {"schema_version": 1}
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert found.identity() == hashlib.sha256(canonical.encode()).hexdigest()
    assert replace(found, identity_text=manifest.identity_text) == manifest
    assert Manifest.from_json(found.to_json()) == found


def test_an_edited_manifest_of_schema_1_has_another_identity():
    found = Manifest.from_json(older(EXAMPLE.to_json()))
    edited = Manifest.from_json(older(EXAMPLE.to_json(), feature_layers=["c", "d"]))
    assert edited.identity() != found.identity()


OUTSIDE_THE_IDENTITY = {item.name for item in fields(Manifest)} - {
    item.name for item in fields(GraphIdentity)
}


@pytest.mark.parametrize("name", sorted(OUTSIDE_THE_IDENTITY))
def test_what_no_identity_text_repeats_cannot_be_left_out(name):
    whole = [EXAMPLE.to_dict(), json.loads(older(EXAMPLE.to_json()))]
    for manifest in [one for one in whole if name in one]:
        del manifest[name]
        with pytest.raises(ManifestError, match=f"manifest.{name} is missing"):
            Manifest.from_json(json.dumps(manifest))


@pytest.mark.parametrize("name", [item.name for item in fields(FidelityReport)])
@given(fidelities())
@settings(max_examples=1)
def test_nothing_can_be_left_out_of_a_report_of_fidelity(name, report):
    kept = asdict(report)
    del kept[name]
    with pytest.raises(ManifestError, match=f"manifest.fidelity.{name} is missing"):
        Manifest.from_json(spoiled(fidelity=kept))


def test_schema_1_beside_an_identity_text_is_told():
    message = "schema_version is 1 beside an identity_text, .*; expected 4. Undo the edit"
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(spoiled(schema_version=1))


@dataclass(frozen=True)
class LaterImage(ImageSpec):
    gamma: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LaterIdentity(GraphIdentity):
    image: LaterImage
    averaged_over: int = 1


@dataclass(frozen=True, kw_only=True)
class LaterManifest(LaterIdentity, Manifest):
    note: str = ""


@pytest.fixture
def later_version(monkeypatch):
    """Have the manifest as it is when it got new fields, each with a default."""
    monkeypatch.setattr("tame_deploy.artifact.manifest.GraphIdentity", LaterIdentity)
    return LaterManifest


STORED = {
    text: Manifest.from_json(text).identity()
    for text in (EXAMPLE.to_json(), older(EXAMPLE.to_json()))
}


@pytest.mark.parametrize("text", STORED)
def test_a_new_field_changes_no_identity_that_is_there(later_version, text):
    found = later_version.from_json(text)
    assert found.image.gamma == found.averaged_over == 1
    assert found.identity() == STORED[text]


@pytest.mark.parametrize("changes", [{"averaged_over": 2}, {"image": LaterImage(gamma=2.0)}])
def test_a_new_field_cannot_be_edited_into_an_older_artifact(later_version, changes):
    told = later_version.from_json(EXAMPLE.to_json())
    with pytest.raises(IncompatibleArtifactError, match="not what identity_text says"):
        later_version.from_json(replace(told, **changes).to_json())


def spoiled(**changes):
    return json.dumps(json.loads(EXAMPLE.to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "expected an object"),
        ('{"schema_version": NaN}', "NaN is not a JSON number"),
        (spoiled(surprise=1), "unknown key manifest.surprise; known: auxiliary, backbone"),
        ("{}", "manifest.backbone, manifest.calibration, .* are missing"),
        (spoiled(classes="10"), "manifest.classes is '10'; expected a whole number"),
        (spoiled(classes=True), "manifest.classes is True"),
        (spoiled(classes=11), "classes is 11 but the head has 10"),
        (spoiled(feature_layers=["a"]), "1 feature layers but a head for 2"),
        (spoiled(feature_layers="ab"), "expected a list"),
        (spoiled(kind="engine"), "manifest.kind is 'engine'; expected one of explainer"),
        (spoiled(files={}), "files does not list model.onnx"),
        (spoiled(schema_version=0), "schema_version is 0; expected 1 to 4"),
        (spoiled(image=ImageSpec().__dict__ | {"height": 0}), "image height is 0"),
        (spoiled(image=ImageSpec().__dict__ | {"mean": [0, 0]}), "image has 2 means"),
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
    with pytest.raises(IncompatibleArtifactError, match="reads up to 4. Upgrade"):
        Manifest.from_json(spoiled(schema_version=5, unheard_of=True))
