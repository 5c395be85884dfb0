"""A quantized artifact on disk: graph, records, pictures, and a manifest that says all of it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import onnx

from tame_deploy.artifact.directory import (
    Artifact,
    create_artifact,
    file_sha256,
    open_artifact,
    write_manifest,
)
from tame_deploy.artifact.manifest import FidelityReport, Manifest
from tame_deploy.calibration.graph import metadata_of, set_metadata
from tame_deploy.calibration.observing.calibrate import copy_files, summary_of
from tame_deploy.calibration.observing.choice import Choice
from tame_deploy.calibration.observing.record import CALIBRATION_FILE, Calibration
from tame_deploy.calibration.report.pictures import draw_before_after, draw_curve
from tame_deploy.calibration.search.repair import RepairStep
from tame_deploy.calibration.search.sensitivity import CurvePoint, Sensitivity
from tame_deploy.calibration.search.workshop import Plan
from tame_deploy.errors import BuildError
from tame_deploy.metrics.answers import Answers, Questions
from tame_deploy.metrics.fidelity import Floor
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.parity import PARITY_FILE, ParityReference, check_parity

__all__ = ["QUANTIZATION_FILE", "Judged", "Outcome", "write_quantized"]

QUANTIZATION_FILE = "quantization.json"

#: Pictures that judge, float32's answers to them, and the other graph's.
Judged: TypeAlias = tuple[Questions, Answers, Answers]
PICTURES_FILE = "before-after.png"
CURVE_FILE = "curve.png"


@dataclass(frozen=True)
class Outcome:
    """How a quantization came about.

    Attributes:
        plan: what was done.
        kept_share: share of the multiply-adds in higher precision.
        steps: the repairs and their gains.
        curve: plans from all layers quantized upwards; `chosen` was taken.
        chosen: its place on the curve.
        sensitivities: what restoring each layer alone gains.
        times: milliseconds beside float32's, by batch size; empty where it cannot run here.
        speedups: of the curve's points at batch 1, where they were measured.
        fidelity: on the pictures that judged.
        judges: those pictures.
    """

    plan: Plan
    kept_share: float
    steps: list[RepairStep]
    curve: list[CurvePoint]
    chosen: int
    sensitivities: list[Sensitivity]
    times: dict[str, dict[str, float]]
    speedups: list[float] | None
    fidelity: FidelityReport
    judges: Choice

    def to_json(self) -> str:
        """Return the text of quantization.json."""
        described = asdict(self)
        described["plan"] = _plain(described["plan"])
        for point in described["curve"]:
            point["plan"] = _plain(point["plan"])
        judges = described.pop("judges")
        described["judged_sha256"] = dict(zip(judges["names"], judges["sha256"], strict=True))
        return json.dumps(described, indent=1, allow_nan=False) + "\n"


def _plain(plan: dict[str, Any]) -> dict[str, Any]:
    return {**plan, "kept": sorted(plan["kept"]), "exceptions": dict(plan["exceptions"])}


def write_quantized(
    parent: Artifact,
    output: str | os.PathLike[str],
    model: onnx.ModelProto,
    calibration: Calibration,
    outcome: Outcome,
    shown: Judged,
    overwrite: bool,
) -> Artifact:
    """Write the artifact and return it, opened and checked.

    Raises:
        ArtifactError: if the output exists or cannot be written.
    """
    with create_artifact(output, overwrite=overwrite) as staging:
        copy_files(parent, staging, but_model=True)
        name = Path(os.path.abspath(output)).name
        manifest = _manifest(parent, name, model, calibration, outcome)
        metadata = {**metadata_of(model), "tame.manifest": manifest.identity()}
        set_metadata(model, metadata)
        model.producer_name, model.producer_version = "tame-deploy", metadata["tame.version"]
        onnx.save(model, staging / "model.onnx")
        (staging / CALIBRATION_FILE).write_text(calibration.to_json(), encoding="utf-8")
        (staging / QUANTIZATION_FILE).write_text(outcome.to_json(), encoding="utf-8")
        draw_before_after(*shown, staging / PICTURES_FILE, outcome.plan.precision)
        if len(outcome.curve) > 1:
            floor = Floor(**outcome.fidelity.floor)
            draw_curve(outcome.curve, outcome.speedups, outcome.chosen, floor, staging / CURVE_FILE)
        names = sorted(path.name for path in staging.iterdir() if not path.name.startswith("."))
        manifest = replace(manifest, files={name: file_sha256(staging / name) for name in names})
        if PARITY_FILE in manifest.files:
            manifest = _with_parity(Artifact(staging, manifest))
        write_manifest(manifest, staging)
    return open_artifact(output)


def _manifest(
    parent: Artifact, name: str, model: onnx.ModelProto, calibration: Calibration, outcome: Outcome
) -> Manifest:
    before = parent.manifest
    opset = next(item.version for item in model.opset_import if item.domain == "")
    described = replace(
        before,
        name=name,
        files={},
        graph=replace(before.graph, opset=opset),
        precision=outcome.plan.precision,
        target=outcome.plan.target,
        calibration=summary_of(calibration),
        fidelity=outcome.fidelity,
        parity=None,
        parents=(*before.parents, f"{before.name} {before.identity()}"),
    )
    return described.with_identity()


def _with_parity(artifact: Artifact) -> Manifest:
    """Note how far the graph is from PyTorch on the pictures that `verify` will run again."""
    with open_backend(artifact, "onnxruntime") as backend:
        parity = check_parity(backend, ParityReference.load(artifact), artifact)
    if not (math.isfinite(parity.logit_error) and math.isfinite(parity.map_error)):
        raise BuildError("the graph gives NaN or infinity for the pictures of the parity check")
    return replace(artifact.manifest, parity=parity)
