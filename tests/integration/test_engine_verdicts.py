"""Engines are judged on their device, for which ONNX Runtime stands here."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures
from tame_deploy.engine.verify import (
    batches_to_verify,
    float32_parent,
    verify_backend,
    write_verdict,
)
from tame_deploy.errors import (
    FidelityError,
    IncompatibleArtifactError,
)
from tame_deploy.metrics.fidelity import Floor
from tame_deploy.runtime.backends.tensorrt.engines import read_engine
from tame_deploy.runtime.selection.selection import open_backend
from tests.integration.test_engines import cache, compiled, options_for, request_for  # noqa: F401

pytest.importorskip("tensorrt_rtx")


def held_out_of(artifact, count=12):
    from tame_deploy.calibration.observing.choice import choose_pictures, evaluation_set

    source = PicturesToChooseFrom(
        DrawnPictures(HELD_OUT_SEED, 40), "demo-held-out:40", artifact.manifest.image
    )
    chosen, _ = choose_pictures(source, count, 0)
    return evaluation_set(artifact.manifest, source, chosen), artifact


def test_a_verdict_at_every_batch_size_is_kept_in_the_sidecar(demo_copy):
    engine = compiled(demo_copy, batches=((1, 4, 6),)).engine
    artifact = open_artifact(demo_copy)
    with open_backend(artifact, "onnxruntime") as backend:
        verdict = verify_backend(
            artifact, backend, batches_to_verify(engine.sidecar), held_out=held_out_of(artifact)
        )
    verdict.check()
    assert set(verdict.parity) == set(verdict.fidelity) == {"1", "4", "6"}
    assert verdict.fidelity["6"].pearson_5th == pytest.approx(1)
    assert verdict.fidelity["6"].average_drop["100"] == pytest.approx(0, abs=1e-3)
    write_verdict(engine, verdict, "Some GPU")
    kept = read_engine(engine.folder).sidecar
    assert (kept.parity, kept.fidelity) == (verdict.parity, verdict.fidelity)
    assert kept.verified_on == "Some GPU"
    assert compiled(demo_copy, batches=((1, 4, 6),)).origin == "artifact"  # still the same


def test_what_is_below_the_floor_at_one_batch_size_is_refused(demo_copy):
    artifact = open_artifact(demo_copy)

    class WrongAbove1:
        """Right one by one, wrong in batches: it has been seen on devices."""

        name, inputs, outputs = "wrong", artifact.manifest.inputs, artifact.manifest.outputs
        max_batch = None

        def __init__(self, backend):
            self.backend = backend

        def run(self, feeds):
            found = self.backend.run(feeds)
            if len(feeds["images"]) > 1:
                found["maps"] = found["maps"][:, :, ::-1]
            return found

    with open_backend(artifact, "onnxruntime") as backend:
        held_out = held_out_of(artifact)
        loose = replace(
            artifact, manifest=replace(artifact.manifest, precision="fp16", parity=None)
        )
        verdict = verify_backend(
            loose, WrongAbove1(backend), [1, 4], held_out=held_out, floor=Floor()
        )
    with pytest.raises(FidelityError, match="below the floor at batch 4, on 12 pictures: IoU"):
        verdict.check()


def test_the_float32_parent_is_found_beside_its_child(demo_copy, tmp_path):
    artifact = open_artifact(demo_copy)
    assert float32_parent(artifact, None) is artifact
    parents = (f"demo {artifact.manifest.identity()}",)
    child = replace(artifact, manifest=replace(artifact.manifest, parents=parents))
    assert float32_parent(child, None).path == demo_copy
    elsewhere = shutil.move(demo_copy, tmp_path / "elsewhere")
    with pytest.raises(IncompatibleArtifactError, match="which is not beside it; say where"):
        float32_parent(child, None)
    assert float32_parent(child, str(elsewhere))
    other = replace(child, manifest=replace(child.manifest, parents=("demo 123",)))
    with pytest.raises(IncompatibleArtifactError, match="is not the artifact"):
        float32_parent(other, str(elsewhere))
