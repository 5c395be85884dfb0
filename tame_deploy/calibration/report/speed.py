"""How fast one graph is beside another, on this machine, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from tame_deploy.metrics.evaluation_set import EvaluationSet
from tame_deploy.runtime.predict.predictor import Predictor

__all__ = ["time_against_float32", "time_models"]

_ROUNDS = 5
_WARM_UPS = 3
_RUNS = 8


def time_against_float32(
    pictures: EvaluationSet, float32: bytes, model: bytes, batch: int
) -> dict[str, float]:
    """Return "fp32_ms" and "ms", medians for a batch, and "speedup", the first by the second.

    Raises:
        BackendError: if one cannot be run.
    """
    before, after = time_models(pictures, [float32, model], batch)
    return {"fp32_ms": before, "ms": after, "speedup": before / after}


def time_models(pictures: EvaluationSet, models: Sequence[bytes], batch: int) -> list[float]:
    """Return the median milliseconds of each model for a batch, measured in turns.

    A noisy moment hits all. Only one session is open at a time: the idle threads of another would
    spin, and take the cores from the one that is measured.

    Raises:
        BackendError: if one cannot be run.
    """
    times: list[list[float]] = [[] for _ in models]
    for _ in range(_ROUNDS):
        for model, found in zip(models, times, strict=True):
            with pictures.open(model) as backend:
                found.extend(_runs(Predictor.of(pictures.manifest, backend), batch))
    return [statistics.median(found) for found in times]


def _runs(predictor: Predictor, batch: int) -> list[float]:
    feeds = predictor.blank_feeds(batch)
    for _ in range(_WARM_UPS):
        predictor.backend.run(feeds)
    found = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        predictor.backend.run(feeds)
        found.append(1e3 * (time.perf_counter() - started))
    return found
