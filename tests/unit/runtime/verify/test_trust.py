"""Graphs of lower precision are held to their reference pictures once on each processor."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.errors import BackendError, IncompatibleArtifactError, ParityError
from tame_deploy.runtime.backends import processor, table
from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tame_deploy.runtime.backends.openvino import OpenVinoBackend
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.backends.table import backend_spec
from tame_deploy.runtime.backends.tensorrt.backend import TensorRTBackend
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.trust import describe_here
from tests.simulated.engines import simulate, write_engine

ONE_THREAD = BackendOptions(threads=1)
GOLDEN = Path(__file__).parents[3] / "golden"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Return where verdicts are kept."""
    monkeypatch.setenv("TAME_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "verdicts"


@pytest.fixture
def half(demo_copy, kept):
    """Return an artifact that passes for one of lower precision."""
    artifact = open_artifact(demo_copy)
    return replace(artifact, manifest=replace(artifact.manifest, precision="fp16"))


@pytest.fixture
def backends(monkeypatch):
    """Count the runs of what is opened, and change its outputs by `change`."""
    return Watched(monkeypatch)


class Watched:
    def __init__(self, monkeypatch):
        self.runs, self.closed, self.change = 0, 0, lambda found: found
        for kind in (OnnxRuntimeBackend, OpenVinoBackend, TensorRTBackend):
            monkeypatch.setattr(kind, "run", self._running(kind.run))
            monkeypatch.setattr(kind, "close", self._closing(kind.close))

    def _running(self, honest):
        def run(backend, feeds):
            self.runs += 1
            return self.change(honest(backend, feeds))

        return run

    def _closing(self, honest):
        def close(backend):
            self.closed += 1
            honest(backend)

        return close

    def runs_of(self, artifact, name="onnxruntime", options=ONE_THREAD, **given):
        """Open and close; return how many runs that took."""
        before = self.runs
        open_backend(artifact, name, options, **given).close()
        return self.runs - before


def upside_down(found):
    return {**found, "maps": found["maps"][:, :, ::-1]}


def has_processor(monkeypatch, tmp_path, flags):
    path = tmp_path / f"cpuinfo {flags}"
    path.write_text(f"model name : Some CPU\nflags : {flags}\n\n")
    monkeypatch.setattr(processor, "_CPUINFO", path)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_it_is_asked_once(half, backends, kept, name):
    pytest.importorskip(name)
    assert backends.runs_of(half, name) == 4  # one picture and all, each by class and by rank
    assert backends.runs_of(half, name) == 0
    assert backends.runs_of(half, name, anew=True) == 4
    assert len(list(kept.iterdir())) == 1


def test_float32_is_left_alone(demo_export, backends, kept):
    assert backends.runs_of(open_artifact(demo_export)) == 0
    assert not kept.exists()


def test_it_is_asked_again_where_the_answer_may_be_another(half, backends, tmp_path, monkeypatch):
    has_processor(monkeypatch, tmp_path, "avx2 avx512f avx512_vnni")
    backends.runs_of(half)
    has_processor(monkeypatch, tmp_path, "avx2")
    assert backends.runs_of(half) == 4
    monkeypatch.setattr(table, "first_version", lambda *_: "99.1")
    assert backends.runs_of(half) == 4
    for name in ("model.onnx", "parity.npz"):
        files = half.manifest.files | {name: "0" * 64}
        other = replace(half, manifest=replace(half.manifest, files=files))
        assert backends.runs_of(other) == 4
    assert backends.runs_of(half) == 0


def test_what_fails_is_refused_in_a_line_now_and_later(half, backends, tmp_path, monkeypatch):
    has_processor(monkeypatch, tmp_path, "avx avx2")
    backends.change = upside_down
    messages = []
    for _ in range(2):
        with pytest.raises(ParityError) as told:
            open_backend(half, "onnxruntime", ONE_THREAD)
        messages.append(str(told.value))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    for part in (
        f"{half.path}: onnxruntime (CPU) ",
        "computes this fp16 graph otherwise than it was made, on Some CPU (avx2): ",
        r"% of their range here; where this artifact was made it was ",
        "Run the float32 artifact, or quantize here",
    ):
        assert part in messages[0]
    assert (backends.runs, backends.closed) == (4, 2)
    backends.change = lambda found: found
    with pytest.raises(ParityError):
        open_backend(half, "onnxruntime", ONE_THREAD)
    assert backends.runs_of(half, anew=True) == 4
    assert backends.runs_of(half) == 0


def test_what_a_graph_needs_is_named_where_it_is_missing(half, backends, tmp_path, monkeypatch):
    has_processor(monkeypatch, tmp_path, "avx avx2")
    for_vnni = replace(half, manifest=replace(half.manifest, target="cpu-vnni"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(IncompatibleArtifactError, match="with VNNI, and this one has none"):
        open_backend(for_vnni, "onnxruntime", ONE_THREAD)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused_and_remembered(half, backends, value):
    def spoil(found):
        found["maps"].flat[-1] = value
        return found

    backends.change = spoil
    for _ in range(2):
        with pytest.raises(ParityError, match=rf"maps\[.* is {value} at batch 1.*quantize here"):
            open_backend(half, "onnxruntime", ONE_THREAD)
    assert backends.runs <= 4


def test_a_failure_to_run_is_no_verdict(half, backends, kept):
    def fail(_):
        raise BackendError("no memory")

    backends.change = fail
    with pytest.raises(BackendError, match="no memory"):
        open_backend(half, "onnxruntime", ONE_THREAD)
    assert backends.closed == 1
    backends.change = lambda found: found
    assert backends.runs_of(half) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda _: "[]",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("logit_error", "logits"),
        lambda text: json.dumps(json.loads(text) | {"about": ["another graph"]}),
    ],
)
def test_a_damaged_verdict_is_measured_again(half, backends, kept, damage):
    backends.runs_of(half)
    (path,) = kept.iterdir()
    path.write_text(damage(path.read_text()))
    assert backends.runs_of(half) == 4
    assert backends.runs_of(half) == 0


def test_where_nothing_can_be_kept_it_is_measured_each_time(half, backends, kept, caplog):
    kept.parent.mkdir()
    kept.write_text("in the way")
    assert backends.runs_of(half) == backends.runs_of(half) == 4
    assert "the verdict is not kept, and will be measured again" in caplog.text


def test_without_recorded_errors_only_what_is_grossly_wrong_is_refused(half, backends):
    unrecorded = replace(half, manifest=replace(half.manifest, parity=None))
    assert backends.runs_of(unrecorded) == 4
    backends.change = upside_down
    with pytest.raises(ParityError, match="maps correlate by"):
        open_backend(unrecorded, "onnxruntime", ONE_THREAD, anew=True)


def test_engines_are_held_by_their_plan(half, backends, monkeypatch):
    simulate(monkeypatch)
    folder = write_engine(half.path, precision="fp16", batches=((1, 2, 4),))
    assert backends.runs_of(half, "tensorrt", BackendOptions()) > 0
    assert backends.runs_of(half, "tensorrt", BackendOptions()) == 0
    simulate(monkeypatch, driver=13060)
    assert backends.runs_of(half, "tensorrt", BackendOptions()) > 0
    backends.change = upside_down
    with pytest.raises(ParityError, match=r"tensorrt .* fp16 .* on Simulated \(compute cap"):
        open_backend(half, "tensorrt", BackendOptions(engine=folder.name), anew=True)


def test_the_verdict_of_an_engine_is_the_file_that_libtame_keeps(half, kept, monkeypatch):
    simulate(monkeypatch)
    folder = write_engine(half.path, precision="fp16", batches=((1, 2, 4),))
    monkeypatch.setattr(table, "first_version", lambda *_: "10.13.2.6")
    open_backend(half, "tensorrt").close()
    about = json.loads((GOLDEN / "engine_verdict.json").read_text())["about"]
    about[0] += json.loads((folder / "engine.json").read_text())["plan_sha256"]
    about[1] += half.manifest.files["parity.npz"]
    (path,) = kept.iterdir()
    assert json.loads(path.read_text())["about"] == about
    assert path.stem == hashlib.sha256("\n".join(about).encode()).hexdigest()


def test_auto_leaves_out_what_computes_it_wrongly(half, backends, monkeypatch, caplog):
    pytest.importorskip("openvino")
    honest = OpenVinoBackend.run
    monkeypatch.setattr(OpenVinoBackend, "run", lambda *given: upside_down(honest(*given)))
    with open_backend(half, "auto", ONE_THREAD) as backend:
        assert backend.name == "onnxruntime on CPU"
    assert "openvino is left out" in caplog.text


def test_auto_refuses_what_no_backend_computes_well(half, backends):
    backends.change = upside_down
    with pytest.raises(ParityError, match="onnxruntime .*computes this fp16 graph otherwise"):
        open_backend(half, "auto", ONE_THREAD)


def test_it_is_told_in_words_whether_it_is_verified(half, demo_export, backends):
    spec = backend_spec("onnxruntime", ONE_THREAD)
    assert describe_here(half, spec, ONE_THREAD) == "not yet verified here"
    backends.runs_of(half)
    assert describe_here(half, spec, ONE_THREAD).startswith("verified here: logits off by 0.0")
    backends.change = upside_down
    with pytest.raises(ParityError):
        open_backend(half, "onnxruntime", ONE_THREAD, anew=True)
    assert describe_here(half, spec, ONE_THREAD).startswith("refused here: logits off by 0.0")
    assert describe_here(open_artifact(demo_export), spec, ONE_THREAD) is None
