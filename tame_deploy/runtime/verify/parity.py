"""Holding a backend to what the PyTorch network gave for the same pictures.

The reference values travel in the artifact (`parity.npz`), so the check runs wherever the artifact
does, without torch and without the checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.manifest import ParityReport
from tame_deploy.artifact.types import MapKind
from tame_deploy.errors import ParityError
from tame_deploy.runtime.backends.protocol import Backend
from tame_deploy.runtime.predict.predictor import Predictor
from tame_deploy.runtime.verify.comparison import (
    LOGIT_TOLERANCE,
    MAP_TOLERANCE,
    Comparison,
    count_same,
    is_flat,
)
from tame_deploy.runtime.verify.reference import ParityReference

__all__ = ["Arithmetic", "Deviation", "check_parity", "measure_deviation", "require_near"]

#: What a backend computes in: the artifact's own precision, or a lower one that was asked for.
Arithmetic: TypeAlias = Literal["own", "tf32", "bf16"]

#: TF32 multiplies with ten bits: its errors are some times those of float32 kernels.
TF32_SLACK = 10.0
#: How many times the recorded error a graph of lower precision may show on another machine.
RECORDED_FACTOR = 1.5
#: What no precision does: logits further off, or maps less alike.
ROUGH_LOGITS, ROUGH_MAPS = 0.2, 0.8


@dataclass(frozen=True)
class Deviation:
    """How far a backend is from PyTorch, in the worst case (`ParityReport` has the same fields).

    Attributes:
        logit_error: of a logit, as a share of the range of its picture's logits.
        map_error: of a map's value, as a share of the map's range.
        map_correlation: the least of a map with PyTorch's, in [-1, 1].
    """

    logit_error: float
    map_error: float
    map_correlation: float

    @classmethod
    def of(cls, report: ParityReport) -> Deviation:
        """Return that of a report."""
        return cls(report.logit_error, report.map_error, report.map_correlation)


def check_parity(
    backend: Backend,
    reference: ParityReference,
    artifact: Artifact,
    *,
    batches: Sequence[int] | None = None,
    arithmetic: Arithmetic = "own",
) -> ParityReport:
    """Run the reference's pictures one by one and together, and compare.

    A float32 graph is held to tolerances, one of lower precision to the errors that its manifest
    records, if it does.

    Args:
        backend: what is compared.
        reference: what PyTorch gave.
        artifact: whose reference it is.
        batches: how many pictures at a time, repeated where there are fewer; one, and all.
        arithmetic: "tf32" has ten times the tolerances of float32; of "bf16", only what is grossly
            wrong is refused.

    Raises:
        ParityError: naming the output and the place of the largest error beyond tolerance, or of
            NaN or infinity.
        BackendError: if the graph cannot be run.
    """
    runs = _compare(backend, reference, artifact, batches or (1, len(reference.images)))
    exact, recorded = artifact.manifest.precision == "fp32", artifact.manifest.parity
    if exact and arithmetic != "bf16":
        for run in runs:
            run.require_within_tolerance(TF32_SLACK if arithmetic == "tf32" else 1.0)
    report = _report(runs, len(reference.images), artifact.manifest.graph.maps)
    if arithmetic == "bf16" or (not exact and recorded is not None):
        require_near(Deviation.of(report), artifact, arithmetic)
    return report


def measure_deviation(
    backend: Backend, reference: ParityReference, artifact: Artifact
) -> Deviation:
    """Run the reference's pictures one by one and together, and say how far from PyTorch they are.

    Raises:
        ParityError: for NaN or infinity, maps of another shape, or -1 that names another class.
        BackendError: if the graph cannot be run.
    """
    batches = (1, len(reference.images))
    runs = _compare(backend, reference, artifact, batches)
    return Deviation.of(_report(runs, len(reference.images), artifact.manifest.graph.maps))


def require_near(found: Deviation, artifact: Artifact, arithmetic: Arithmetic) -> None:
    """Hold a graph of lower precision to the errors that its manifest records.

    In bfloat16, and where none are recorded, only what is grossly wrong is refused.

    Raises:
        ParityError: with the errors here and there, and the remedy.
    """
    recorded = artifact.manifest.parity
    if arithmetic == "bf16" or recorded is None:
        _require_roughly_alike(found)
    else:
        _require_as_recorded(found, recorded)


def _compare(
    backend: Backend, reference: ParityReference, artifact: Artifact, batches: Sequence[int]
) -> list[Comparison]:
    """Return comparisons by rising batch size."""
    graph, predictor = artifact.manifest.graph, Predictor.of(artifact.manifest, backend)
    runs = []
    for batch in sorted(set(batches)):
        some = reference.repeated(batch)
        class_ids = some.class_ids if graph.explain == "selectable" else None
        found = predictor.predict(some.images, class_ids, allow_non_finite=True)
        runs.append(Comparison(some, found, graph.maps, predictor.task))
        if graph.explain == "selectable":
            _check_ranking(predictor, some)
    return runs


def _report(runs: Sequence[Comparison], pictures: int, kind: MapKind) -> ParityReport:
    """Return the worst of several comparisons, and what is odd about the maps of the largest."""
    maps, is_contrast = runs[-1].maps, runs[-1].is_contrast
    return ParityReport(
        pictures=len(maps),
        top1_agreement=min(run.top1_agreement for run in runs),
        logit_error=max(run.logit_error for run in runs),
        map_error=max(run.map_error for run in runs),
        map_correlation=min(run.map_correlation for run in runs),
        flat_maps=sum(is_flat(heat, kind) for heat in maps[~is_contrast]),
        same_for_pictures=count_same(maps[:pictures, 0]),
        same_for_classes=sum(
            count_same(row[~differs]) for row, differs in zip(maps, is_contrast, strict=True)
        ),
    )


def _require_roughly_alike(found: Deviation) -> None:
    if found.logit_error <= ROUGH_LOGITS and found.map_correlation >= ROUGH_MAPS:
        return
    raise ParityError(
        f"logits are off by {found.logit_error:.0%} of their range and maps correlate by "
        f"{found.map_correlation:.2f} with PyTorch's"
    )


def _require_as_recorded(found: Deviation, recorded: ParityReport) -> None:
    """Integer kernels differ between machines, some of which saturate; a little is no matter."""
    if (
        found.logit_error <= RECORDED_FACTOR * recorded.logit_error + LOGIT_TOLERANCE
        and found.map_error <= RECORDED_FACTOR * recorded.map_error + MAP_TOLERANCE
    ):
        return
    raise ParityError(
        f"logits are off by {found.logit_error:.2%} and maps by {found.map_error:.2%} of their "
        f"range here; where this artifact was made it was {recorded.logit_error:.2%} and "
        f"{recorded.map_error:.2%}. Run the float32 artifact, or quantize here"
    )


def _check_ranking(predictor: Predictor, reference: ParityReference) -> None:
    """-1 in place j must name the graph's own j-th most likely class."""
    ranks = predictor.graph.ranks
    found = predictor.predict(
        reference.images,
        predictor.class_ids(len(reference.images), top_k=ranks),
        allow_non_finite=True,
    )
    explained, logits = found.class_ids, found.logits
    best = np.argsort(-logits, axis=1, kind="stable")[:, :ranks]
    # By their logits, because classes that tie have no order.
    named, likeliest = (np.take_along_axis(logits, ids, 1) for ids in (explained, best))
    if (named != likeliest).any():
        raise ParityError(
            f"-1 gave classes {explained.tolist()}; the likeliest are {best.tolist()}"
        )
