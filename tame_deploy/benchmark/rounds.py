"""Timing in turns: each round opens every candidate once, in an order drawn anew, and times it."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tame_deploy.benchmark.candidates import Candidate
from tame_deploy.errors import TameError
from tame_deploy.runtime.backends.protocol import Backend

__all__ = ["Timing", "measure"]

_WARM_UPS = 2
_LEAST_RUNS = 3
#: Medians of rounds further apart than this share say more of the machine than of the candidate.
NOISY = 0.15


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a candidate took for a batch.

    Attributes:
        candidate: what was timed.
        batch: pictures at a time.
        milliseconds: of every call that counts.
        medians: of the rounds.
        failure: why it could not be timed.
    """

    candidate: Candidate
    batch: int
    milliseconds: tuple[float, ...] = ()
    medians: tuple[float, ...] = ()
    failure: str | None = None

    @property
    def median(self) -> float:
        """The median in milliseconds."""
        return statistics.median(self.milliseconds)

    def percentile(self, share: float) -> float:
        """Return a percentile in milliseconds."""
        return float(np.percentile(self.milliseconds, share))

    @property
    def throughput(self) -> float:
        """Pictures a second, one call after the other."""
        return 1e3 * self.batch / self.median

    @property
    def spread(self) -> float:
        """How far the rounds' medians are apart, as a share of their median."""
        if len(self.medians) < 2:
            return 0.0
        low, high = np.percentile(self.medians, (25, 75))
        return float((high - low) / statistics.median(self.medians))


def measure(
    candidates: Sequence[Candidate],
    batch: int,
    *,
    rounds: int,
    seconds: float,
    advance: Callable[[str], None] = lambda _: None,
) -> list[Timing]:
    """Time candidates for a batch size; one that cannot be run is told with its reason.

    Only one is open at a time: idle threads of another would take the cores.

    Args:
        candidates: to be timed.
        batch: pictures at a time.
        rounds: how many times each is opened and timed.
        seconds: for a candidate in all, without opening it.
        advance: told what is timed next.
    """
    found: dict[int, list[list[float]]] = {place: [] for place in range(len(candidates))}
    failures: dict[int, str] = {}
    generator = random.Random(0)  # noqa: S311  (an order, not a secret)
    for _ in range(rounds):
        for place in generator.sample(list(found), len(found)):
            candidate = candidates[place]
            advance(f"{candidate.artifact.manifest.name} on {candidate.name}, batch {batch}")
            if place in failures:
                continue
            try:
                with candidate.open() as backend:
                    found[place].append(_timed(backend, batch, seconds / rounds))
            except TameError as error:
                failures[place] = str(error)
    return [
        Timing(candidate=candidate, batch=batch, failure=failures[place])
        if place in failures
        else Timing(
            candidate=candidate,
            batch=batch,
            milliseconds=tuple(ms for one in found[place] for ms in one),
            medians=tuple(statistics.median(one) for one in found[place]),
        )
        for place, candidate in enumerate(candidates)
    ]


def feeds_of(backend: Backend, batch: int) -> dict[str, NDArray[np.generic]]:
    """Return drawn noise for a batch, and the most likely class to explain."""
    noise = np.random.default_rng(0)
    feeds: dict[str, NDArray[np.generic]] = {}
    for spec in backend.inputs:
        shape = (batch, *(size if isinstance(size, int) else 1 for size in spec.shape[1:]))
        if spec.name == "class_ids":
            feeds[spec.name] = np.full(shape, -1, np.int64)
        elif spec.dtype in ("uint8", "uint16"):
            levels = np.dtype(spec.dtype)
            feeds[spec.name] = noise.integers(0, np.iinfo(levels).max + 1, shape, levels.type)
        else:
            feeds[spec.name] = noise.standard_normal(shape, np.float32)
    return feeds


def feeds_of_parts(backend: Backend, batch: int) -> list[dict[str, NDArray[np.generic]]]:
    """Return the feeds of a batch in parts of the backend's largest batch."""
    most = backend.max_batch or batch
    return [feeds_of(backend, min(most, batch - start)) for start in range(0, batch, most)]


def _timed(backend: Backend, batch: int, seconds: float) -> list[float]:
    parts = feeds_of_parts(backend, batch)
    for _ in range(_WARM_UPS):
        for feeds in parts:
            backend.run(feeds)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < _LEAST_RUNS or time.perf_counter() < until:
        started = time.perf_counter()
        for feeds in parts:
            backend.run(feeds)
        times.append(1e3 * (time.perf_counter() - started))
    return times
