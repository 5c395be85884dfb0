"""`calibrate`: an artifact gets its calibration.json, and nothing else about it changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tame_deploy.artifact.directory import (
    ENGINES_FOLDER,
    Artifact,
    check_output,
    create_artifact,
    file_sha256,
    open_artifact,
    write_manifest,
)
from tame_deploy.artifact.manifest import CalibrationSummary
from tame_deploy.calibration.graph import load_graph
from tame_deploy.calibration.observing.choice import Choice, PicturesToChooseFrom, choose_pictures
from tame_deploy.calibration.observing.observe import observe
from tame_deploy.calibration.observing.record import (
    CALIBRATION_FILE,
    Calibration,
    CalibrationSubject,
)
from tame_deploy.errors import IncompatibleArtifactError, ManifestError
from tame_deploy.files import cache_directory

__all__ = [
    "Calibrated",
    "calibrate_artifact",
    "calibration_cache",
    "check_float32",
    "copy_files",
    "read_calibration",
    "subject_of_choice",
    "summary_of",
]


@dataclass(frozen=True)
class Calibrated:
    """A calibrated artifact, its record, and what could not be read on the way."""

    artifact: Artifact
    calibration: Calibration
    unreadable: list[str]


def calibrate_artifact(
    artifact: Artifact,
    source: PicturesToChooseFrom,
    *,
    count: int = 128,
    seed: int = 0,
    choosing: Callable[[int], None] = lambda _: None,
    advance: Callable[[int], None] = lambda _: None,
) -> Calibrated:
    """Watch an artifact's activations on a seeded choice of pictures; keep the record in it.

    An interrupted run goes on where it was, and a finished one is not repeated: both are in the
    user's cache, by the hash of model, pictures, preprocessing and methods.

    Args:
        artifact: in float32.
        source: the pictures, prepared as the artifact says.
        count: how many to choose.
        seed: of the choice.
        choosing: told how many more pictures were looked at.
        advance: told how many more pictures were run.

    Raises:
        IncompatibleArtifactError: if the artifact is quantized already.
        InputError: if there are not enough pictures, or activations are NaN or infinite.
        ArtifactError: if the artifact cannot be written.
    """
    check_float32(artifact)
    check_output(artifact.path.resolve(), overwrite=True)
    graph = load_graph(artifact)
    chosen, unreadable = choose_pictures(source, count, seed, advance=choosing)
    subject = subject_of_choice(artifact, source, chosen, seed)
    record = observe(
        graph,
        subject,
        source,
        artifact.manifest.inputs,
        cache=calibration_cache(),
        advance=advance,
    )
    with create_artifact(artifact.path.resolve(), overwrite=True) as staging:
        copy_files(artifact, staging)
        if (artifact.path / ENGINES_FOLDER).is_dir():
            # Their graph is the same as before.
            shutil.copytree(artifact.path / ENGINES_FOLDER, staging / ENGINES_FOLDER)
        (staging / CALIBRATION_FILE).write_text(record.to_json(), encoding="utf-8")
        files = {
            **artifact.manifest.files,
            CALIBRATION_FILE: file_sha256(staging / CALIBRATION_FILE),
        }
        manifest = replace(artifact.manifest, files=files, calibration=summary_of(record))
        write_manifest(manifest, staging)
    return Calibrated(open_artifact(artifact.path), record, unreadable)


def subject_of_choice(
    artifact: Artifact, source: PicturesToChooseFrom, chosen: Choice, seed: int
) -> CalibrationSubject:
    """Return what a calibration of an artifact's own graph is of."""
    sha256 = artifact.manifest.files["model.onnx"]
    return CalibrationSubject(sha256, source.source, seed, chosen, artifact.manifest.image)


def calibration_cache() -> Path:
    """Return the folder of finished and unfinished calibrations."""
    return cache_directory() / "calibration"


def check_float32(artifact: Artifact) -> None:
    """Check that an artifact may be calibrated and quantized.

    Raises:
        IncompatibleArtifactError: if it is quantized already.
    """
    manifest = artifact.manifest
    if manifest.precision != "fp32":
        raise IncompatibleArtifactError(
            f"{artifact.path} is {manifest.precision} for {manifest.target} already; start from "
            f"the float32 artifact that it was made of ({', '.join(manifest.parents)})"
        )


def copy_files(artifact: Artifact, staging: Path, *, but_model: bool = False) -> None:
    """Copy every file that the manifest lists, or all but the graph and its calibration."""
    left_out = ("model.onnx", "model.onnx.data", CALIBRATION_FILE) if but_model else ()
    for name in (name for name in artifact.manifest.files if name not in left_out):
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.file(name), target)


def summary_of(record: Calibration) -> CalibrationSummary:
    """Return what the manifest says of a calibration."""
    subject = record.subject
    return CalibrationSummary(record.key, subject.source, len(subject.pictures), subject.seed)


def read_calibration(artifact: Artifact) -> Calibration | None:
    """Return an artifact's calibration, or None if it has none.

    Raises:
        ManifestError: if it is malformed, or of another model.
    """
    if CALIBRATION_FILE not in artifact.manifest.files:
        return None
    path = artifact.file(CALIBRATION_FILE)
    try:
        record = Calibration.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} cannot be read: {error}") from None
    model = artifact.manifest.files["model.onnx"]
    if artifact.manifest.precision == "fp32" and record.subject.model_sha256 != model:
        raise ManifestError(
            f"{path} is of another model ({record.subject.model_sha256[:16]}…); calibrate again"
        )
    return record
