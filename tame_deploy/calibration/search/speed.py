"""How fast one graph is beside another, on this machine, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.metrics.evaluation_set import EvaluationSet
from tame_deploy.picture.preprocess import as_input
from tame_deploy.runtime.backends.protocol import Backend

__all__ = ["time_models"]

_ROUNDS = 5
_WARM_UPS = 3
_RUNS = 8


def time_models(pictures: EvaluationSet, models: Sequence[bytes], batch: int) -> list[float]:
    """Return the median milliseconds of each model for a batch, measured in turns.

    A noisy moment hits all. Only one session is open at a time: the idle threads of another would
    spin, and take the cores from the one that is measured.

    Raises:
        BackendError: if one cannot be run.
    """
    pixels = np.resize(pictures.pixels, (batch, *pictures.pixels.shape[1:]))
    feeds: dict[str, NDArray[Any]] = {"images": as_input(pixels, pictures.manifest.image)}
    if pictures.manifest.graph.explain == "selectable":
        feeds["class_ids"] = np.full((batch, 1), -1, np.int64)
    times: list[list[float]] = [[] for _ in models]
    for _ in range(_ROUNDS):
        for model, found in zip(models, times, strict=True):
            with pictures.open(model) as backend:
                found.extend(_runs(backend, feeds))
    return [statistics.median(found) for found in times]


def _runs(backend: Backend, feeds: dict[str, NDArray[Any]]) -> list[float]:
    for _ in range(_WARM_UPS):
        backend.run(feeds)
    found = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        backend.run(feeds)
        found.append(1e3 * (time.perf_counter() - started))
    return found
