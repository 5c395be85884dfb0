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
from tame_deploy.calibration.graph import check_float32, load_graph
from tame_deploy.calibration.observing.choice import Choice, PicturesToChooseFrom, choose_pictures
from tame_deploy.calibration.observing.observe import observe
from tame_deploy.calibration.observing.record import (
    CALIBRATION_FILE,
    Calibration,
    CalibrationInputs,
)
from tame_deploy.files import cache_directory

__all__ = [
    "Calibrated",
    "calibrate_artifact",
    "calibration_cache",
    "calibration_inputs",
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
    calibration_size: int = 128,
    seed: int = 0,
    choosing: Callable[[int], None] = lambda _: None,
    advance: Callable[[int], None] = lambda _: None,
) -> Calibrated:
    """Observe an artifact's activations on a seeded choice of pictures; keep the record in it.

    An interrupted run goes on where it was, and a finished one is not repeated: both are in the
    user's cache, by the hash of model, pictures, preprocessing and methods.

    Args:
        artifact: in float32.
        source: the pictures, prepared as the artifact says.
        calibration_size: how many to choose.
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
    chosen, unreadable = choose_pictures(source, calibration_size, seed, advance=choosing)
    inputs = calibration_inputs(artifact, source, chosen, seed)
    record = observe(graph, inputs, source, cache=calibration_cache(), advance=advance)
    _write(artifact, record)
    return Calibrated(open_artifact(artifact.path), record, unreadable)


def _write(artifact: Artifact, record: Calibration) -> None:
    """Write an artifact anew, with the record in it."""
    with create_artifact(artifact.path.resolve(), overwrite=True) as staging:
        artifact.copy_files(staging)
        if (artifact.path / ENGINES_FOLDER).is_dir():
            # Their graph is the same as before.
            shutil.copytree(artifact.path / ENGINES_FOLDER, staging / ENGINES_FOLDER)
        (staging / CALIBRATION_FILE).write_text(record.to_json(), encoding="utf-8")
        files = artifact.manifest.files | {
            CALIBRATION_FILE: file_sha256(staging / CALIBRATION_FILE)
        }
        manifest = replace(artifact.manifest, files=files, calibration=record.summary())
        write_manifest(manifest, staging)


def calibration_inputs(
    artifact: Artifact, source: PicturesToChooseFrom, chosen: Choice, seed: int
) -> CalibrationInputs:
    """Return what a calibration of an artifact's own graph is made from."""
    return CalibrationInputs(
        model_sha256=artifact.manifest.files["model.onnx"],
        source=source.source,
        seed=seed,
        pictures=chosen,
        image=source.image,
    )


def calibration_cache() -> Path:
    """Return the folder of finished and unfinished calibrations.

    Those in `calibration`, of earlier versions, counted the pictures of queries, keys, values and
    windows along the wrong axis.
    """
    return cache_directory() / "calibration-2"
