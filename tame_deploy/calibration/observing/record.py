"""calibration.json: what pictures showed of every tensor, for any target."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, replace
from typing import cast

from tame_deploy.artifact.decoding import decode, parse_object
from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.manifest import CalibrationSummary
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.calibration.observing.choice import Choice
from tame_deploy.calibration.observing.histogram import BINS, MOMENTUM, TensorStatistics
from tame_deploy.calibration.observing.ranges import (
    METHODS,
    PERCENTILE,
    Range,
    RangeMethod,
    ranges_of,
)
from tame_deploy.errors import ManifestError

__all__ = [
    "CALIBRATION_FILE",
    "Calibration",
    "CalibrationInputs",
    "TensorRanges",
    "read_calibration",
]

CALIBRATION_FILE = "calibration.json"

#: What the ranges depend on besides the model and the pictures; a change makes old caches invalid.
SETTINGS: dict[str, float] = {
    "version": 1,
    "bins": BINS,
    "momentum": MOMENTUM,
    "percentile": PERCENTILE,
}


@dataclass(frozen=True)
class TensorRanges:
    """One tensor: its range by each method, and each channel's (axis 1) peak and mean."""

    ranges: dict[RangeMethod, Range]
    channel_peaks: tuple[float, ...]
    channel_means: tuple[float, ...]


@dataclass(frozen=True)
class CalibrationInputs:
    """What a calibration was made from; its key names it.

    `model_sha256` is of the graph that was watched, `source` what the user called the data set,
    `seed` what chose `pictures` from it.
    """

    model_sha256: str
    source: str
    seed: int
    pictures: Choice
    image: ImageSpec

    @property
    def key(self) -> str:
        """Return the sha256 of model, pictures, preprocessing and methods."""
        described = {
            "model": self.model_sha256,
            "pictures": self.pictures.sha256,
            "image": dataclasses.asdict(self.image),
            "settings": SETTINGS,
        }
        canonical = json.dumps(described, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Calibration:
    """The record of a finished calibration, field by field as in calibration.json."""

    key: str
    subject: CalibrationInputs
    settings: dict[str, float]
    tensors: dict[str, TensorRanges]

    @classmethod
    def of(cls, subject: CalibrationInputs, statistics: dict[str, TensorStatistics]) -> Calibration:
        """Return the record of what was seen."""
        tensors = {
            name: TensorRanges(
                ranges_of(seen),
                tuple(seen.channel_peaks.tolist()),
                tuple(seen.channel_means.tolist()),
            )
            for name, seen in statistics.items()
        }
        return cls(subject.key, subject, SETTINGS, tensors)

    def ranges(self, method: RangeMethod) -> dict[str, Range]:
        """Return every tensor's range by one method."""
        return {name: tensor.ranges[method] for name, tensor in self.tensors.items()}

    def summary(self) -> CalibrationSummary:
        """Return what the manifest says of it."""
        made_from = self.subject
        return CalibrationSummary(
            self.key, made_from.source, len(made_from.pictures), made_from.seed
        )

    def to_json(self) -> str:
        """Return the text of calibration.json."""
        described = dataclasses.asdict(self)
        tensors = described.pop("tensors")
        lines = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(tensor, allow_nan=False)}"
            for name, tensor in tensors.items()
        )
        head = json.dumps(described, indent=1, allow_nan=False).removesuffix("\n}")
        return f'{head},\n "tensors": {{\n{lines}\n }}\n}}\n'

    @classmethod
    def from_json(cls, text: str, name: str = CALIBRATION_FILE) -> Calibration:
        """Read a record, checked field by field.

        Raises:
            ManifestError: if it is malformed, or its key is not that of what it describes.
        """
        record = cast(Calibration, decode(cls, parse_object(text, name), name))
        if record.key != record.subject.key or record.settings != SETTINGS:
            raise ManifestError(
                f"{name} was altered, or made by another version: its key is {record.key[:16]}…, "
                f"of what it describes {record.subject.key[:16]}…. Calibrate again"
            )
        for tensor, seen in record.tensors.items():
            _check(tensor, seen, name)
        # A file may spell 1.0 as 1; what is written of it again must not depend on that.
        return replace(record, settings=SETTINGS)


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


def _check(tensor: str, seen: TensorRanges, name: str) -> None:
    holding_zero = all(low <= 0 <= high for low, high in seen.ranges.values())
    alike = len(seen.channel_peaks) == len(seen.channel_means)
    if tuple(seen.ranges) != METHODS or not holding_zero or not alike:
        raise ManifestError(
            f"{name}: {tensor} has ranges {seen.ranges!s:.80}; expected one that holds zero for "
            f"each of {', '.join(METHODS)}, and as many channel peaks as means. Calibrate again"
        )
