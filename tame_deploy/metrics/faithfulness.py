"""A backend assessed on an evaluation set: its predictions, and whether its maps are faithful."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.manifest import FidelityReport
from tame_deploy.metrics.evaluated_model import EvaluatedModel
from tame_deploy.metrics.evaluation_set import BATCH, EvaluationSet, NormalisedPredictions
from tame_deploy.metrics.families import SHARES, average_drop_and_increase
from tame_deploy.metrics.fidelity import measure_fidelity
from tame_deploy.runtime.backends.protocol import Backend
from tame_deploy.runtime.predict.predictor import Predictor

__all__ = ["Assessment", "assess", "drop_and_increase", "fidelity_report"]


@dataclass(frozen=True)
class Assessment:
    """What a backend predicts for an evaluation set, and its AD and IC (`drop_and_increase`)."""

    predictions: NormalisedPredictions
    drop_and_increase: Mapping[str, float]


def assess(
    evaluation_set: EvaluationSet,
    backend: Backend,
    class_ids: NDArray[np.int64] | None = None,
    *,
    batch: int = BATCH,
) -> Assessment:
    """Return what a backend predicts, and how faithful its maps are to itself.

    Args:
        evaluation_set: the pictures.
        backend: keeps the contract of their manifest.
        class_ids: int64 (N), the classes whose maps are compared with another backend's; the
            backend's own most likely by default. AD and IC are of its own in any case.
        batch: how many pictures are run at a time.

    Raises:
        BackendError: if it cannot be run, or gives NaN or infinity.
    """
    predictions = evaluation_set.predict(backend, class_ids, batch)
    return Assessment(predictions, drop_and_increase(evaluation_set, backend, batch))


def fidelity_report(
    evaluation_set: EvaluationSet, float32: Assessment, found: Assessment
) -> FidelityReport:
    """Return the whole report of a backend beside float32.

    Args:
        evaluation_set: what both were assessed on.
        float32: the original.
        found: what came of it, assessed with the classes that float32 predicts.

    Raises:
        InputError: if no two maps are of the same class.
    """
    image = evaluation_set.manifest.image
    report = measure_fidelity(
        float32.predictions,
        found.predictions,
        evaluation_set.names,
        evaluation_set.labels,
        (image.height, image.width),
    )
    before, after = float32.drop_and_increase, found.drop_and_increase
    drop, increase = (
        {str(share): after[f"{kind}_{share}"] - before[f"{kind}_{share}"] for share in SHARES}
        for kind in ("average_drop", "increase")
    )
    return replace(report, average_drop=drop, increase=increase)


def drop_and_increase(
    evaluation_set: EvaluationSet, backend: Backend, batch: int = BATCH
) -> dict[str, float]:
    """Return AD and IC in percent of a backend's maps of the classes that it predicts itself.

    Keys are `average_drop_SHARE` and `increase_SHARE` (metrics/families.py).

    Raises:
        BackendError: if it cannot be run, or gives NaN or infinity.
    """
    manifest = evaluation_set.manifest
    sums: dict[str, float] = defaultdict(float)
    model = EvaluatedModel(
        name=manifest.name,
        predictor=Predictor.of(manifest, backend),
        labels=(),
        backbone=manifest.backbone,
    )
    for start in range(0, len(evaluation_set.pixels), batch):
        pixels = evaluation_set.pixels[start : start + batch].astype(np.float32) / np.float32(255)
        indices = range(start, start + len(pixels))
        explained = model.explained(pixels, model.predict(pixels), indices)
        for name, values in average_drop_and_increase(explained).items():
            sums[name] += float(values.sum())
    return {name: total / len(evaluation_set.pixels) for name, total in sums.items()}
