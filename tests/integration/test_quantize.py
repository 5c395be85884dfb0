import json
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tame_deploy import load
from tame_deploy.artifact.arithmetic import read_arithmetic
from tame_deploy.artifact.directory import file_sha256, open_artifact
from tame_deploy.calibration.arithmetic.integer_layers import overflowing_layers
from tame_deploy.calibration.calibrate import calibrate_artifact
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
from tame_deploy.calibration.observing.record import read_calibration
from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.quantize import quantize_artifact
from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures
from tame_deploy.errors import (
    ArtifactError,
    FidelityError,
    IncompatibleArtifactError,
    InputError,
    ManifestError,
    ParityError,
)
from tame_deploy.metrics.fidelity import Floor
from tame_deploy.metrics.similarity import correlations
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import ParityReference
from tests.conftest import OTHER_CONTRACTS

#: Between the fifth percentiles of the demo's maps in exact and in saturating arithmetic.
SPOILT = 0.99
QUICK = {"calibration_size": 24, "held_out_size": 32, "budget_s": 0.0}
#: An artifact for TensorRT by precision; FP16 needs no recovery.
FOR_TENSORRT = {
    "int8": {"recovery": (), "floor": Floor(1, 1, 1), "allow_low_fidelity": True},
    "fp16": {},
    "int8+fp16": {"recovery": ("equalize",)},
}


def drawn(artifact, count=120):
    return PicturesToChooseFrom(
        DrawnPictures(HELD_OUT_SEED, count), f"demo-held-out:{count}", artifact.manifest.image
    )


@pytest.fixture(scope="module", autouse=True)
def short_measurements_of_speed():
    """What is measured here says little: tests look at whether it was, not at how much it is."""
    with pytest.MonkeyPatch.context() as patched:
        for name, count in (("_ROUNDS", 1), ("_WARM_UPS", 0), ("_RUNS", 2)):
            patched.setattr(f"tame_deploy.calibration.report.speed.{name}", count)
        yield


@pytest.fixture(scope="module")
def quantized(demo_export, tmp_path_factory):
    """Return a function that quantizes the demo, each choice of options once."""

    @cache
    def make(**options):
        artifact = open_artifact(demo_export)
        output = tmp_path_factory.mktemp("quantized") / "demo"
        return quantize_artifact(artifact, drawn(artifact), output, QuantizeOptions(**options))

    return make


@pytest.fixture(scope="module")
def made(quantized):
    """The demo in eight bits for CPUs, with all recovery that costs no speed."""
    return quantized(**QUICK, recovery=("rounding", "equalize", "ranges", "bias"))


@pytest.fixture(scope="module")
def for_tensorrt(quantized):
    """Return a function that gives the demo in a precision for TensorRT."""
    return lambda precision: quantized(
        **QUICK, precision=precision, target="tensorrt", **FOR_TENSORRT[precision]
    )


def test_a_quantized_artifact_explains_as_its_parent_does(made, demo_export):
    pictures = [DrawnPictures(0, 12).image(index) for index in range(12)]
    with load(demo_export) as before, load(made.artifact.path) as after:
        expected, found = before.explain(pictures), after.explain(pictures)
    assert (expected.class_ids == found.class_ids).mean() > 0.9
    assert np.abs(expected.maps - found.maps).mean() < 0.05
    assert np.abs(expected.maps - found.maps).max() > 0  # it is not the same graph


def test_its_manifest_says_what_it_is_and_how_true(made, demo_export):
    manifest, parent = made.artifact.manifest, open_artifact(demo_export).manifest
    assert (manifest.precision, manifest.target) == ("int8", "cpu")
    assert manifest.parents == (f"demo {parent.identity()}",)
    assert manifest.calibration.pictures == 24
    fidelity = manifest.fidelity
    assert fidelity.pictures == 32
    assert fidelity.top1_agreement > 0.9
    assert fidelity.iou_15 > 0.85
    assert fidelity.floor == {"top1": 0.94, "iou15": 0.90, "pearson5": 0.98}
    assert not fidelity.allowed_below
    assert set(fidelity.average_drop) == set(fidelity.increase) == {"100", "50", "15"}
    assert {"calibration.json", "quantization.json", "before-after.png"} <= set(manifest.files)


def test_its_records_tell_recovery_speed_and_held_out_pictures(made):
    record = json.loads(made.artifact.file("quantization.json").read_text())
    names = ["plain", "rounding", "equalize", "ranges", "bias"]
    assert [step["name"] for step in record["steps"]] == names
    after = {step["name"]: step for step in record["steps"]}
    assert after["rounding"]["used"]
    assert record["plan"]["rounded"]
    assert set(record["times"]) == {"1", "8"}
    assert record["times"]["8"]["ms"] > 0
    held_out = set(record["judged_sha256"].values())
    calibration = read_calibration(made.artifact)
    assert len(held_out) == 32
    assert not held_out & set(calibration.subject.pictures.sha256)


def test_it_is_checked_again_by_verify_and_noticed_when_worse(made, monkeypatch):
    artifact = made.artifact
    reference = ParityReference.load(artifact)
    with open_backend(artifact, "onnxruntime") as backend:
        again = check_parity(backend, reference, artifact)
        assert again.map_error == pytest.approx(artifact.manifest.parity.map_error, abs=0.02)
        monkeypatch.setattr("tame_deploy.runtime.verify.parity.RECORDED_FACTOR", 0.1)
        with pytest.raises(ParityError, match="quantize here"):
            check_parity(backend, reference, artifact)


def test_for_every_processor_no_sum_saturates_and_the_record_says_so(made):
    found = read_arithmetic(made.artifact)
    assert found == made.record.arithmetic
    assert (found.may_saturate, found.pictures) == ((), 0)
    assert found.layers > 5
    assert found.exact == found.saturating
    assert found.exact.iou15 == pytest.approx(made.artifact.manifest.fidelity.iou_15)
    assert overflowing_layers(onnx.load(made.artifact.model)) == []


def test_what_a_processor_without_vnni_would_spoil_is_refused_on_any(
    demo_export, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "tame_deploy.calibration.passes.placement.step_overrides", lambda *_, **__: {}
    )
    monkeypatch.setattr("tame_deploy.calibration.quantize._BLAME_S", 0.0)
    artifact = open_artifact(demo_export)
    options = QuantizeOptions(**QUICK, recovery=(), floor=Floor(0.5, 0.5, SPOILT))
    with pytest.raises(FidelityError, match="int8 for cpu is below the floor"):
        quantize_artifact(artifact, drawn(artifact), tmp_path / "out", options)


def test_an_artifact_for_vnni_says_what_others_would_make_of_it(quantized, monkeypatch, tmp_path):
    for user in ("calibration.quantize", "runtime.backends.vnni"):
        monkeypatch.setattr(f"tame_deploy.{user}.saturates", lambda: False)
    made = quantized(**QUICK, target="cpu-vnni", recovery=(), allow_low_fidelity=True)
    assert made.artifact.manifest.target == "cpu-vnni"
    found = read_arithmetic(made.artifact)
    assert len(found.may_saturate) > 5
    assert found.pictures == 16
    assert found.exact.pearson5 > SPOILT > found.saturating.pearson5
    with load(made.artifact.path) as explainer:
        assert len(explainer.explain([DrawnPictures(0, 1).image(0)])) == 1
    monkeypatch.setattr("tame_deploy.runtime.backends.vnni.saturates", lambda: True)
    with pytest.raises(IncompatibleArtifactError, match="with VNNI, and this one has none"):
        load(made.artifact.path)


def test_for_vnni_nothing_is_made_where_there_is_none(demo_export, tmp_path, monkeypatch):
    monkeypatch.setattr("tame_deploy.calibration.quantize.saturates", lambda: True)
    artifact = open_artifact(demo_export)
    with pytest.raises(InputError, match="cpu-vnni is judged on a processor with VNNI"):
        quantize_artifact(
            artifact, drawn(artifact), tmp_path / "out", QuantizeOptions(target="cpu-vnni")
        )
    with pytest.raises(InputError, match="fp16 needs no VNNI"):
        QuantizeOptions(target="cpu-vnni", precision="fp16")


def test_quantized_twice_is_refused(made, tmp_path):
    with pytest.raises(IncompatibleArtifactError, match="int8 for cpu already; start from"):
        quantize_artifact(made.artifact, drawn(made.artifact), tmp_path / "o", QuantizeOptions())
    with pytest.raises(IncompatibleArtifactError):
        calibrate_artifact(made.artifact, drawn(made.artifact))


def test_below_the_floor_nothing_is_kept_and_layers_are_blamed(demo_export, tmp_path):
    artifact = open_artifact(demo_export)
    options = QuantizeOptions(**QUICK, floor=Floor(1, 1, 1), recovery=())
    with pytest.raises(FidelityError) as caught:
        quantize_artifact(artifact, drawn(artifact), tmp_path / "out", options)
    message = str(caught.value)
    assert "below the floor on 32 held-out pictures" in message
    assert "Layers that hurt most: " in message
    assert "Accuracy recovery not tried: rounding,equalize,ranges,bias,layers" in message
    assert not (tmp_path / "out").exists()


def test_what_is_allowed_below_the_floor_says_so(for_tensorrt):
    found = for_tensorrt("int8")
    assert found.artifact.manifest.fidelity.allowed_below
    assert found.record.times == {}


def test_the_search_excludes_layers_until_little_is_lost(demo_export, tmp_path):
    artifact = open_artifact(demo_export)
    options = QuantizeOptions(
        calibration_size=24, held_out_size=32, budget_s=60, floor=Floor(0.999, 0.97, 0.999),
        recovery=("layers",), allow_low_fidelity=True,
    )  # fmt: skip
    found = quantize_artifact(artifact, drawn(artifact), tmp_path / "out", options)
    curve = found.record.search.curve
    assert len(curve) > 2
    assert curve[-1].score.error < 0.5 * curve[0].score.error
    shares = [point.excluded_share for point in curve]
    assert shares == sorted(shares)
    assert found.record.search.sensitivities[0].gain > 0
    model = onnx.load(found.artifact.model)
    floating = {node.name for node in model.graph.node if node.op_type == "FusedConv"}
    assert floating <= found.record.search.plan.excluded
    assert "curve.png" in found.artifact.manifest.files


@pytest.mark.parametrize("precision", ["fp16", "int8+fp16"])
def test_half_precision_runs_and_is_true(for_tensorrt, precision):
    found = for_tensorrt(precision)
    assert found.artifact.manifest.fidelity.iou_15 > (0.98 if precision == "fp16" else 0.9)
    types = {t.data_type for t in onnx.load(found.artifact.model).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types


def test_calibrating_keeps_all_else_and_is_taken_up_by_quantize(demo_copy, tmp_path):
    artifact = open_artifact(demo_copy)
    found = calibrate_artifact(artifact, drawn(artifact), calibration_size=24)
    after = open_artifact(demo_copy)
    assert after.manifest.calibration.key == found.calibration.key
    assert after.manifest.files["model.onnx"] == artifact.manifest.files["model.onnx"]
    assert read_calibration(after) == found.calibration
    options = QuantizeOptions(**QUICK, recovery=(), allow_low_fidelity=True)
    same = quantize_artifact(after, drawn(after), tmp_path / "same", options)
    assert same.notes == []
    other = quantize_artifact(after, drawn(after, 110), tmp_path / "other", options)
    assert "was calibrated on other pictures" in other.notes[0]


def test_a_calibration_of_another_model_is_refused(demo_copy):
    artifact = open_artifact(demo_copy)
    calibrate_artifact(artifact, drawn(artifact), calibration_size=8)
    manifest = json.loads((demo_copy / "manifest.json").read_text())
    record = json.loads((demo_copy / "calibration.json").read_text())
    record["subject"]["model_sha256"] = "0" * 64
    (demo_copy / "calibration.json").write_text(json.dumps(record))
    manifest["files"]["calibration.json"] = file_sha256(demo_copy / "calibration.json")
    (demo_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match="altered"):
        read_calibration(open_artifact(demo_copy))


def test_too_few_pictures_are_refused_before_anything_runs(demo_export, tmp_path):
    artifact = open_artifact(demo_export)
    with pytest.raises(InputError, match="found 20 different pictures .* expected 24"):
        quantize_artifact(artifact, drawn(artifact, 20), tmp_path / "o", QuantizeOptions(**QUICK))
    with pytest.raises(InputError, match="besides the 24 chosen first; expected at least 32"):
        quantize_artifact(artifact, drawn(artifact, 40), tmp_path / "o", QuantizeOptions(**QUICK))
    assert not (tmp_path / "o").exists()


def build_engine(path):
    """Return the size of an engine that the TensorRT-RTX builder makes; it needs no GPU."""
    bindings = pytest.importorskip("tensorrt_rtx_bindings.tensorrt_rtx")
    logger = bindings.Logger(bindings.Logger.ERROR)
    builder = bindings.Builder(logger)
    network = builder.create_network(0)
    parser = bindings.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    assert parsed, [str(parser.get_error(number)) for number in range(parser.num_errors)]
    settings, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        sizes = [
            [count if place == 0 and size == -1 else max(size, 1)
             for place, size in enumerate(tensor.shape)]
            for count in (1, 4, 4)
        ]  # fmt: skip
        profile.set_shape(tensor.name, *sizes)
    settings.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, settings)
    assert engine is not None
    return engine.nbytes


@pytest.mark.parametrize("precision", ["int8", "fp16", "int8+fp16"])
def test_tensorrt_parses_and_builds_the_graph(for_tensorrt, precision):
    pytest.importorskip("tensorrt_rtx_bindings")
    assert build_engine(for_tensorrt(precision).artifact.model) > 0


def predictions_node_by_node(artifact, pictures):
    """Return what a graph predicts where ONNX Runtime runs its nodes as they are written.

    On processors without VNNI its fused integer kernels saturate, so what they give depends on
    the machine.
    """
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with open_backend(artifact, "onnxruntime") as backend:
        backend._session = ort.InferenceSession(artifact.model, settings)
        return pictures.predict(backend)


#: For each contract. float32 pictures meet both targets here; uint8 ones do in the tests above.
TARGETS = (("cpu", "tensorrt"), ("cpu",), ("tensorrt",))


@pytest.mark.parametrize(
    ("contract", "target"),
    [
        (contract, target)
        for contract, targets in zip(OTHER_CONTRACTS, TARGETS, strict=True)
        for target in targets
    ],
    ids=str,
)
def test_graphs_with_other_contracts_are_quantized_too(demo_with, tmp_path, contract, target):
    artifact = open_artifact(demo_with(**contract))
    recovery = ("equalize", "bias") if target == "cpu" else ()
    options = QuantizeOptions(**QUICK, target=target, recovery=recovery, allow_low_fidelity=True)
    made = quantize_artifact(artifact, drawn(artifact, 60), tmp_path / "out", options)
    pictures = made.record.comparison.pictures
    expected = predictions_node_by_node(artifact, pictures)
    found = predictions_node_by_node(made.artifact, pictures)
    same = np.flatnonzero(expected.class_ids == found.class_ids)
    assert len(same) > 26
    assert correlations(expected.rows(same), found.rows(same)).mean() > 0.98


def test_it_writes_over_nothing_and_leaves_the_parent_alone(demo_copy, tmp_path):
    artifact = open_artifact(demo_copy)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in demo_copy.iterdir())
    with pytest.raises(ArtifactError, match="exists; pass --overwrite"):
        quantize_artifact(artifact, drawn(artifact), demo_copy, QuantizeOptions(**QUICK))
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in demo_copy.iterdir())
