"""How much memory a candidate takes, and how long a fresh process needs to its first answer."""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tame_deploy.benchmark.candidates import Candidate
from tame_deploy.benchmark.rounds import feeds_of_parts

__all__ = ["Footprint", "measure_footprint"]


@dataclass(frozen=True)
class Footprint:
    """Peak resident memory in MiB of a process that runs a batch, and seconds to open and run."""

    peak_mib: float
    first_answer_s: float


def measure_footprint(candidate: Candidate, batch: int) -> Footprint | None:
    """Run a candidate once in a process of its own; None where that cannot be measured."""
    if sys.platform == "win32":
        return None
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_run_once, candidate, batch).result()


def _run_once(candidate: Candidate, batch: int) -> Footprint:
    started = time.perf_counter()
    with candidate.open() as backend:
        for feeds in feeds_of_parts(backend, batch):
            backend.run(feeds)
    elapsed = time.perf_counter() - started
    return Footprint(_peak_bytes() / 2**20, elapsed)


def _peak_bytes() -> int:
    """Return this process's peak of resident memory.

    On Linux, getrusage begins with that of the process that started it; /proc does not.
    """
    import resource

    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 2**10
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10  # bytes there, KiB elsewhere
