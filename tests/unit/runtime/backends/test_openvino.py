"""OpenVINO as a backend: the same answers, and no precision of its own choice."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx
import pytest

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.errors import (
    BackendError,
    DeviceError,
    IncompatibleArtifactError,
    InputError,
    ParityError,
)
from tame_deploy.runtime.backends.openvino import OpenVinoBackend, computes_bfloat16
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.selection import auto
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import ParityReference
from tests.unit.runtime.backends.test_tensorrt import assert_same, expected_of, feeds_of

openvino = pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAME_DEPLOY_CACHE", str(tmp_path / "cache"))


def opened(path, **options):
    return OpenVinoBackend.of_artifact(open_artifact(path), BackendOptions(**options))


@pytest.mark.parametrize("options", [{}, {"mode": "throughput"}, {"threads": 1}], ids=str)
def test_it_gives_what_the_graph_gives(demo_export, options):
    artifact = open_artifact(demo_export)
    with opened(demo_export, **options) as backend:
        assert backend.name == "openvino on CPU in fp32"  # whatever the CPU would rather
        check_parity(backend, ParityReference.load(artifact), artifact)
        for count in (1, 3, 1):
            feeds = feeds_of(demo_export, count, explained=2)
            assert_same(backend.run(feeds), expected_of(demo_export, feeds))


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_threads_get_their_own_answers(demo_export, mode):
    asked = [feeds_of(demo_export, 1 + seed % 3, seed=seed) for seed in range(12)]
    with opened(demo_export, mode=mode) as backend, ThreadPoolExecutor(4) as pool:
        for feeds, found in zip(asked, pool.map(backend.run, asked), strict=True):
            assert_same(found, expected_of(demo_export, feeds))


def test_both_of_numpys_64_bit_integers_are_taken(demo_export):
    feeds = feeds_of(demo_export, 2)
    with opened(demo_export) as backend:
        for kind in ("l", "q"):
            found = backend.run(feeds | {"class_ids": feeds["class_ids"].astype(kind)})
            assert_same(found, expected_of(demo_export, feeds))


def test_bfloat16_is_used_only_when_asked_for(demo_export):
    if not computes_bfloat16():
        with pytest.raises(DeviceError, match="computes no bfloat16"):
            opened(demo_export, precision="bf16")
        return
    with opened(demo_export, precision="bf16") as backend:
        assert backend.name == "openvino on CPU in bf16"
        feeds = feeds_of(demo_export, 2)
        difference = np.abs(
            backend.run(feeds)["logits"] - expected_of(demo_export, feeds)["logits"]
        )
        assert 0 < difference.max() < 1


def test_a_closed_backend_and_bad_input_are_told(demo_export):
    with opened(demo_export) as backend, pytest.raises(InputError, match="expected images: uint8"):
        backend.run({**feeds_of(demo_export, 1), "images": np.zeros((1, 2, 2, 3), np.uint8)})
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run(feeds_of(demo_export, 1))


def test_a_graph_of_another_manifest_is_refused(demo_export):
    artifact = open_artifact(demo_export)
    edited = replace(artifact.manifest, backbone="other").with_identity()
    other = replace(artifact, manifest=edited)
    with pytest.raises(IncompatibleArtifactError, match="not exported with this manifest"):
        OpenVinoBackend.of_artifact(other, BackendOptions())


def test_a_graph_that_it_cannot_read_is_one_line(demo_export, tmp_path):
    manifest = open_artifact(demo_export).manifest
    path = tmp_path / "model.onnx"
    path.write_bytes(b"garbage")
    with pytest.raises(BackendError, match="openvino cannot read") as told:
        OpenVinoBackend(path, manifest.inputs, manifest.outputs, BackendOptions())
    assert "\n" not in str(told.value)


def test_layers_kept_in_float32_run_as_well():
    """For ONNX Runtime they are spelt com.microsoft.FusedConv."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>'
        " g (float[n, 2, 1, 1] x) => (float[n, 2, 1, 1] y)"
        " <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {1, -40}>"
        ' { y = com.microsoft.FusedConv <activation = "Relu", kernel_shape = [1, 1]> (x, w, b) }'
    )
    given, expected = np.array([[3, 4]], np.float32), [[12, 0]]
    inputs, outputs = (
        (TensorSpec(name, "float32", ("n", 2, 1, 1)),) for name in ("x", "y")
    )  # fmt: skip
    with OpenVinoBackend(model.SerializeToString(), inputs, outputs, BackendOptions()) as backend:
        found = backend.run({"x": given[:, :, None, None]})["y"]
    np.testing.assert_allclose(found[..., 0, 0], expected)


class Upside:
    """A backend that turns maps upside down."""

    name, max_batch = "upside", None

    def __init__(self, backend):
        self.backend, self.inputs, self.outputs = backend, backend.inputs, backend.outputs

    def run(self, feeds):
        found = self.backend.run(feeds)
        return {**found, "maps": found["maps"][:, :, ::-1]}

    def close(self):
        self.backend.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def test_auto_never_takes_what_answers_wrongly(demo_copy, monkeypatch, caplog):
    artifact, honest = open_artifact(demo_copy), OpenVinoBackend.of_artifact
    monkeypatch.setattr(
        OpenVinoBackend, "of_artifact", lambda *given: Upside(honest(*given))
    )  # fmt: skip
    with open_backend(artifact, "auto", BackendOptions(threads=1)) as backend:
        assert backend.name == "onnxruntime on CPU"
    assert "openvino is left out: maps[" in caplog.text
    assert "off by" in caplog.text


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_quantized_graph_is_held_to_its_reference(demo_copy, monkeypatch, precision):
    artifact, honest = open_artifact(demo_copy), OpenVinoBackend.of_artifact
    half = replace(artifact, manifest=replace(artifact.manifest, precision="fp16"))
    upside = Upside(honest(artifact, BackendOptions()))
    monkeypatch.setattr(OpenVinoBackend, "of_artifact", lambda *_: upside)
    with pytest.raises(ParityError, match="computes this fp16 graph otherwise .*onnxruntime"):
        open_backend(half, "openvino", BackendOptions(precision=precision))


def test_auto_measures_once_and_remembers(demo_copy, caplog):
    pytest.importorskip("onnxruntime")
    artifact = open_artifact(demo_copy)
    caplog.set_level("INFO", "tame_deploy")
    with open_backend(artifact, "auto", BackendOptions(threads=1)) as backend:
        first = backend.name
    assert "measuring openvino and onnxruntime once" in caplog.text
    assert "is used from now on" in caplog.text
    caplog.clear()
    with open_backend(artifact, "auto", BackendOptions(threads=1)) as backend:
        assert backend.name == first
    assert "measuring" not in caplog.text
    with open_backend(artifact, "auto", BackendOptions(threads=2)):
        assert "measuring" in caplog.text  # another question


def test_a_choice_that_fails_later_is_passed_over(demo_copy, monkeypatch, caplog):
    artifact = open_artifact(demo_copy)
    monkeypatch.setattr(auto, "benchmark_backends", lambda *_: "openvino")

    def fails(*_):
        raise BackendError("not any more")

    monkeypatch.setattr(OpenVinoBackend, "of_artifact", fails)
    with open_backend(artifact, "auto", BackendOptions(threads=1)) as backend:
        assert backend.name == "onnxruntime on CPU"
    assert "openvino is left out: not any more" in caplog.text


def test_a_damaged_choice_is_measured_again(demo_copy, tmp_path, caplog):
    artifact = open_artifact(demo_copy)
    open_backend(artifact, "auto", BackendOptions(threads=1)).close()
    for kept in (tmp_path / "cache" / "backend-benchmark").iterdir():
        kept.write_text('{"chosen": "abacus"}')
    caplog.set_level("INFO", "tame_deploy")
    open_backend(artifact, "auto", BackendOptions(threads=1)).close()
    assert "measuring" in caplog.text
    shutil.rmtree(tmp_path / "cache" / "backend-benchmark")
    (tmp_path / "cache" / "backend-benchmark").write_text("in the way")
    open_backend(artifact, "auto", BackendOptions(threads=1)).close()
    assert "will be measured again" in caplog.text


def test_precision_and_mode_narrow_auto_down(demo_export):
    artifact = open_artifact(demo_export)
    with open_backend(artifact, "auto", BackendOptions(precision="fp32")) as backend:
        assert backend.name.startswith("openvino")
    with pytest.raises(InputError, match="precision has no meaning for backend onnxruntime"):
        open_backend(artifact, "onnxruntime", BackendOptions(precision="bf16"))
    for wrong in ({"precision": "fp8"}, {"mode": "fast"}):
        with pytest.raises(InputError):
            BackendOptions(**wrong)
