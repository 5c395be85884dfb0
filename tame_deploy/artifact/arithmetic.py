"""What quantization.json says of integer arithmetic: how true the graph is on which processors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tame_deploy.artifact.decoding import decode, parse_object
from tame_deploy.artifact.directory import Artifact
from tame_deploy.errors import ManifestError

__all__ = ["QUANTIZATION_FILE", "ArithmeticReport", "Figures", "read_arithmetic"]

QUANTIZATION_FILE = "quantization.json"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a floor is of, against float32 and in [0, 1] (metrics/fidelity.py)."""

    top1: float
    iou15: float
    pearson5: float


@dataclass(frozen=True, kw_only=True)
class ArithmeticReport:
    """How true a graph for CPUs is in exact arithmetic, and where pairs of products saturate.

    Attributes:
        layers: how many run on integers.
        may_saturate: names of those that may saturate on x86-64 without VNNI; where there are none,
            every processor gives the same, which the weights prove.
        pictures: how many held-out pictures saturating arithmetic was computed for; 0 where none
            were needed.
        exact: with VNNI, and on ARM.
        saturating: without.
    """

    layers: int
    may_saturate: tuple[str, ...]
    pictures: int
    exact: Figures
    saturating: Figures


def read_arithmetic(artifact: Artifact) -> ArithmeticReport | None:
    """Return what an artifact records; None for one that is not for CPUs, or of before.

    Raises:
        ManifestError: if the record is malformed.
    """
    if QUANTIZATION_FILE not in artifact.manifest.files:
        return None
    path = artifact.file(QUANTIZATION_FILE)
    try:
        raw = parse_object(path.read_text(encoding="utf-8"), path.name).get("arithmetic")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} cannot be read: {error}") from None
    if raw is None:
        return None
    return cast(ArithmeticReport, decode(ArithmeticReport, raw, f"{path.name}: arithmetic"))
