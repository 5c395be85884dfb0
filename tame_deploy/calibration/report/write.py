"""A quantized artifact on disk: graph, records, pictures, and a manifest that says all of it."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import onnx

from tame_deploy.artifact.arithmetic import QUANTIZATION_FILE
from tame_deploy.artifact.directory import (
    Artifact,
    create_artifact,
    file_sha256,
    open_artifact,
    write_manifest,
)
from tame_deploy.artifact.manifest import Manifest
from tame_deploy.calibration.graph import metadata_of, set_metadata
from tame_deploy.calibration.observing.record import CALIBRATION_FILE, Calibration
from tame_deploy.calibration.report.pictures import draw_before_after, draw_curve
from tame_deploy.calibration.report.quantization_record import QuantizationRecord
from tame_deploy.errors import BuildError
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.backends.table import backend_spec
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import PARITY_FILE, ParityReference

__all__ = ["write_quantized"]

PICTURES_FILE = "before-after.png"
CURVE_FILE = "curve.png"
_MODEL_FILES = ("model.onnx", "model.onnx.data")


def write_quantized(
    parent: Artifact,
    output: str | os.PathLike[str],
    model: onnx.ModelProto,
    calibration: Calibration,
    record: QuantizationRecord,
    *,
    overwrite: bool,
) -> Artifact:
    """Write the artifact and return it, opened and checked.

    Args:
        parent: the float32 artifact.
        output: directory of the new one.
        model: its graph.
        calibration: which ranges the graph was made with.
        record: how it came about.
        overwrite: whether an artifact that is there may be replaced.

    Raises:
        ArtifactError: if the output exists or cannot be written.
    """
    with create_artifact(output, overwrite=overwrite) as staging:
        parent.copy_files(staging, but=(*_MODEL_FILES, CALIBRATION_FILE))
        name = Path(os.path.abspath(output)).name
        manifest = _manifest(parent, name, model, calibration, record)
        metadata = {**metadata_of(model), "tame.manifest": manifest.identity()}
        set_metadata(model, metadata)
        model.producer_name, model.producer_version = "tame-deploy", metadata["tame.version"]
        onnx.save(model, staging / "model.onnx")
        _write_records(staging, calibration, record)
        names = sorted(path.name for path in staging.iterdir() if not path.name.startswith("."))
        manifest = replace(manifest, files={name: file_sha256(staging / name) for name in names})
        if PARITY_FILE in manifest.files:
            manifest = _with_parity(Artifact(staging, manifest))
        write_manifest(manifest, staging)
    return open_artifact(output)


def _write_records(folder: Path, calibration: Calibration, record: QuantizationRecord) -> None:
    (folder / CALIBRATION_FILE).write_text(calibration.to_json(), encoding="utf-8")
    (folder / QUANTIZATION_FILE).write_text(record.to_json(), encoding="utf-8")
    draw_before_after(record.comparison, folder / PICTURES_FILE, record.search.plan.precision)
    if len(record.search.curve) > 1:
        draw_curve(record, folder / CURVE_FILE)


def _manifest(
    parent: Artifact,
    name: str,
    model: onnx.ModelProto,
    calibration: Calibration,
    record: QuantizationRecord,
) -> Manifest:
    before = parent.manifest
    opset = next(item.version for item in model.opset_import if item.domain == "")
    described = replace(
        before,
        name=name,
        files={},
        graph=replace(before.graph, opset=opset),
        precision=record.search.plan.precision,
        target=record.search.plan.target,
        calibration=calibration.summary(),
        fidelity=record.fidelity,
        parity=None,
        parents=(*before.parents, f"{before.name} {before.identity()}"),
    )
    return described.with_identity()


def _with_parity(artifact: Artifact) -> Manifest:
    """Note how far the graph is from PyTorch on the pictures that `verify` will run again."""
    # Not by `open_backend`, which holds a graph to what is measured only now.
    options = BackendOptions()
    with backend_spec("onnxruntime", options).open(artifact, options) as backend:
        parity = check_parity(backend, ParityReference.load(artifact), artifact)
    if not (math.isfinite(parity.logit_error) and math.isfinite(parity.map_error)):
        raise BuildError("the graph gives NaN or infinity for the pictures of the parity check")
    return replace(artifact.manifest, parity=parity)
