"""`benchmark`: artifacts on everything here, in turns, beside their own classifiers."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tame_deploy.artifact.directory import Artifact
from tame_deploy.benchmark.candidates import Candidate, candidates_of, relatives
from tame_deploy.benchmark.memory import Footprint, measure_footprint
from tame_deploy.benchmark.result import Benchmark, Row
from tame_deploy.benchmark.rounds import Timing, measure
from tame_deploy.errors import InputError
from tame_deploy.runtime.backends.cores import usable_cores, usable_processors
from tame_deploy.runtime.backends.installed import first_version
from tame_deploy.runtime.backends.processor import processor_and_sets
from tame_deploy.runtime.backends.table import BACKENDS, backend_names

__all__ = ["BenchmarkOptions", "run_benchmark"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """How it is measured.

    Attributes:
        batches: pictures at a time.
        threads: for one operation on a CPU; None is one for each core that may be used.
        backends: which to measure; all that can run it by default.
        rounds: how many times each candidate is opened and timed.
        seconds: for each candidate and batch size.
        relatives: whether artifacts beside it that were made of it are measured as well.
        footprint: whether memory and the first answer are measured, in processes of their own.

    Raises:
        InputError: for numbers outside their range.
    """

    batches: tuple[int, ...] = (1, 8)
    threads: int | None = None
    backends: tuple[str, ...] = ()
    rounds: int = 5
    seconds: float = 5.0
    relatives: bool = True
    footprint: bool = True

    def __post_init__(self) -> None:
        known = backend_names()[1:]
        unknown = sorted(set(self.backends) - set(known))
        if unknown:
            raise InputError(
                f"unknown backend {', '.join(unknown)}; expected some of {', '.join(known)}"
            )
        if not self.batches or min(self.batches) < 1 or self.rounds < 1 or self.seconds < 0:
            raise InputError(
                f"found batches {list(self.batches)}, {self.rounds} rounds and {self.seconds:g} s; "
                "expected at least 1, 1 and 0"
            )


def run_benchmark(
    artifact: Artifact,
    options: BenchmarkOptions,
    advance: Callable[[str, int], None] = lambda *_: None,
) -> Benchmark:
    """Measure an artifact, and its relatives beside it, on everything that can run them.

    Args:
        artifact: to be measured.
        options: how.
        advance: told what is measured next, and how many steps there are in all.

    Raises:
        InputError: if nothing here can run it.
    """
    whole = _candidates(artifact, options)
    plain = {
        place: candidate.without_explanation()
        for place, candidate in enumerate(whole)
        if candidate.can_be_plain
    }
    every = [*whole, *plain.values()]
    steps = len(options.batches) * (
        options.rounds * len(every) + options.footprint * len(whole)
    )  # fmt: skip

    def footprint(timing: Timing) -> Footprint | None:
        if not options.footprint:
            return None
        advance(f"memory of {timing.candidate.name}, batch {timing.batch}", steps)
        return None if timing.failure else measure_footprint(timing.candidate, timing.batch)

    rows: list[Row] = []
    for batch in options.batches:
        timings = measure(
            every,
            batch,
            rounds=options.rounds,
            seconds=options.seconds,
            advance=lambda words: advance(words, steps),
        )
        beside = dict(zip(plain, timings[len(whole) :], strict=True))
        rows += [
            Row(timing, beside.get(place), footprint(timing))
            for place, timing in enumerate(timings[: len(whole)])
        ]
    return Benchmark(tuple(rows), machine(options.threads))


def _candidates(artifact: Artifact, options: BenchmarkOptions) -> list[Candidate]:
    family = [artifact, *(relatives(artifact) if options.relatives else [])]
    return [
        candidate
        for one in family
        for candidate in candidates_of(one, options.threads, options.backends)
    ]


def machine(threads: int | None) -> dict[str, Any]:
    """Return what ran it, and the versions of what is installed."""
    return {
        "processor": processor_and_sets(),
        "cores": f"{usable_processors()} processors, {threads or usable_cores()} threads",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(_versions()),
    }


def _versions() -> list[str]:
    packages = dict.fromkeys(package for spec in BACKENDS for package in spec.packages)
    found = ((package, first_version(package)) for package in packages)
    return [f"{package} {version}" for package, version in found if version is not None]
