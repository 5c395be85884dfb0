"""How fast one graph is beside another, on this machine, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.calibration.answers import Questions
from tame_deploy.preprocess import as_input
from tame_deploy.runtime.backend import Backend

__all__ = ["Timing", "time_models"]

Timing = dict[str, float]

#: Runs in a row: the threads of the other session stop spinning during the first of them.
_BLOCK = 4
_ROUNDS = 6


def time_models(questions: Questions, models: Sequence[bytes], batch: int) -> list[float]:
    """Return the median milliseconds of each model for a batch, measured in turns.

    Every model runs in short blocks, one after the other, so that a noisy moment hits all.

    Raises:
        BackendError: if one cannot be run.
    """
    backends = [questions.open(model) for model in models]
    pixels = np.resize(questions.pixels, (batch, *questions.pixels.shape[1:]))
    feeds: dict[str, NDArray[Any]] = {"images": as_input(pixels, questions.manifest.image)}
    if questions.manifest.graph.explain == "selectable":
        feeds["class_ids"] = np.full((batch, 1), -1, np.int64)
    try:
        times: list[list[float]] = [[] for _ in models]
        for _ in range(_ROUNDS):
            for backend, found in zip(backends, times, strict=True):
                found.extend(_block(backend, feeds))
    finally:
        for backend in backends:
            backend.close()
    return [statistics.median(found) for found in times]


def _block(backend: Backend, feeds: dict[str, NDArray[Any]]) -> list[float]:
    backend.run(feeds)
    found = []
    for _ in range(_BLOCK):
        started = time.perf_counter()
        backend.run(feeds)
        found.append(1e3 * (time.perf_counter() - started))
    return found
