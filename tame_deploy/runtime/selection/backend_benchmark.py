"""A benchmark of the CPU backends for one artifact on this machine: run once, and remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tame_deploy.artifact.directory import Artifact
from tame_deploy.errors import BackendError, ParityError, TameError
from tame_deploy.files import cache_directory, keep_json
from tame_deploy.runtime.backends.cores import usable_processors
from tame_deploy.runtime.backends.processor import processor_name
from tame_deploy.runtime.backends.protocol import Backend
from tame_deploy.runtime.predict.predictor import Predictor
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import PARITY_FILE, ParityReference

__all__ = ["benchmark_backends", "remembered_choice"]

_log = logging.getLogger("tame_deploy")

_BATCHES = (1, 8)
_RUNS, _MOST_S = 5, 2.0


def remembered_choice(
    artifact: Artifact, versions: Mapping[str, str], threads: int | None
) -> str | None:
    """Return the backend that an earlier benchmark chose; None if there was none."""
    try:
        found = json.loads(_path(artifact, versions, threads).read_text(encoding="utf-8"))
        chosen = found["chosen"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return chosen if chosen in versions else None


def benchmark_backends(
    artifact: Artifact,
    versions: Mapping[str, str],
    threads: int | None,
    open_named: Callable[[str], Backend],
) -> str:
    """Return the fastest of some backends at batch 1 and 8, by the mean of the ratios.

    They are measured one at a time, because an idle one's threads would take the cores. The result
    is kept in the user's cache, for this graph, these versions and this machine.

    Args:
        artifact: what is run.
        versions: of the backends, by name.
        threads: for one operation.
        open_named: opens one of them.

    Raises:
        ParityError: if all of them compute it otherwise than it was made.
        BackendError: if none of them runs it for other reasons.
    """
    known = remembered_choice(artifact, versions, threads)
    if known is not None:
        return known
    _log.info("measuring %s once for %s", " and ".join(versions), artifact.path)
    times: dict[str, list[float]] = {}
    reasons: list[TameError] = []
    for name in versions:
        try:
            with open_named(name) as backend:
                # What is wrong is never fast enough; quantized graphs were held to it when opened.
                exact = artifact.manifest.precision == "fp32"
                if exact and PARITY_FILE in artifact.manifest.files:
                    check_parity(backend, ParityReference.load(artifact), artifact)
                times[name] = [_milliseconds(backend, artifact, batch) for batch in _BATCHES]
        except (BackendError, ParityError) as error:
            reasons.append(error)
            _log.warning("%s is left out: %s", name, error)
    if not times:
        wrong = all(isinstance(error, ParityError) for error in reasons)
        told = "; ".join(f"{name}: {error}" for name, error in zip(versions, reasons, strict=True))
        raise (ParityError if wrong else BackendError)(f"no backend runs {artifact.path}: {told}")
    chosen = min(times, key=lambda name: math.prod(times[name]))
    shown = ", ".join(
        f"{name} {' and '.join(f'{ms:.1f} ms' for ms in found)}" for name, found in times.items()
    )
    _log.info("%s at batch 1 and 8: %s is used from now on", shown, chosen)
    found = {"chosen": chosen, "milliseconds": times}
    keep_json(_path(artifact, versions, threads), found, "choice")
    return chosen


def _milliseconds(backend: Backend, artifact: Artifact, batch: int) -> float:
    """Return the median time of a batch, after a run that does not count."""
    predictor = Predictor.of(artifact.manifest, backend)
    feeds = predictor.blank_feeds(batch)
    predictor.predict(**feeds, allow_non_finite=True)
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _MOST_S:
        started = time.perf_counter()
        predictor.predict(**feeds, allow_non_finite=True)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def _path(artifact: Artifact, versions: Mapping[str, str], threads: int | None) -> Path:
    described = {
        "graph": artifact.manifest.files["model.onnx"],
        "versions": dict(versions),
        "threads": threads,
        "cores": usable_processors(),
        "processor": processor_name(),
    }
    text = json.dumps(described, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    return cache_directory() / "backend-benchmark" / f"{key}.json"
