"""What a model did so far: Triton's statistics, and Prometheus' metrics."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tame_deploy.artifact.directory import Artifact
from tame_deploy.runtime.backends.processor import instruction_sets, made_for
from tame_deploy.runtime.verify.trust import is_held
from tame_deploy.serving.scheduler import BatchTimes, RequestResult

__all__ = ["METRICS_TYPE", "Metrics", "ModelStatistics"]

METRICS_TYPE = CONTENT_TYPE_LATEST

_STAGES = ("queue", "compute_input", "compute_infer", "compute_output")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass
class _Duration:
    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns

    def to_dict(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


class Metrics:
    """The server's own registry of Prometheus metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model, registry = ("model",), self.registry
        self.requests = Counter(
            "tame_requests", "Requests for explanations, by how they ended.",
            ("model", "transport", "outcome"), registry=registry,
        )  # fmt: skip
        self.responses = Counter(
            "tame_responses", "Answers of any kind, by HTTP's status or gRPC's code.",
            ("transport", "status"), registry=registry,
        )  # fmt: skip
        self.pictures = Counter("tame_pictures", "Pictures explained.", model, registry=registry)
        self.queue = Gauge(
            "tame_requests_waiting", "Requests that wait for the backend.", model, registry=registry
        )
        self.accepted = Gauge(
            "tame_requests_accepted", "Requests that have no answer yet.", model, registry=registry
        )
        self.engine = Gauge(
            "tame_model_engine", "1 for what runs a model.", ("model", "backend", "precision"),
            registry=registry,
        )  # fmt: skip
        self.arithmetic = Gauge(
            "tame_model_arithmetic", "1 for what a model was made for, whether it was held to its "
            "reference pictures on this processor (yes, no, or unneeded in float32), and the "
            "processor's instruction sets.", ("model", "made_for", "verified", "instruction_sets"),
            registry=registry,
        )  # fmt: skip
        self.ready = Gauge("tame_model_ready", "1 if the model answers.", model, registry=registry)
        self.loads = Counter(
            "tame_model_loads", "Times an artifact was opened, by outcome.",
            ("model", "outcome"), registry=registry,
        )  # fmt: skip
        self.batch = Histogram(
            "tame_batch_pictures", "Pictures in a batch of the backend.", model,
            buckets=_ROWS, registry=registry,
        )  # fmt: skip
        self.stages = Histogram(
            "tame_stage_seconds", "Seconds by stage: decode, queue, compute_input, compute_infer, "
            "compute_output, draw, total.", ("model", "stage"), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        memory = Gauge(
            "tame_resident_memory_bytes", "Memory of the process that is resident.",
            registry=registry,
        )  # fmt: skip
        memory.set_function(resident_bytes)

    def text(self) -> bytes:
        """Return what a scrape gets."""
        return generate_latest(self.registry)


def resident_bytes() -> float:
    """Return this process's resident memory in bytes; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            pages = int(stream.read().split()[1])
    except OSError:
        return 0.0
    import resource

    return float(pages * resource.getpagesize())


@dataclass(kw_only=True)
class ModelStatistics:
    """Counts of one model, as Triton's statistics have them; `started` are the metrics beside.

    A batch counts once as an execution and, for each of its pictures, as an inference.
    """

    name: str
    metrics: Metrics
    last_inference_ms: int = 0
    inferences: int = 0
    executions: int = 0
    success: _Duration = field(default_factory=_Duration)
    fail: _Duration = field(default_factory=_Duration)
    stages: dict[str, _Duration] = field(default_factory=lambda: defaultdict(_Duration))
    batches: dict[int, dict[str, _Duration]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._seconds = {
            stage: self.metrics.stages.labels(self.name, stage)
            for stage in ("decode", "draw", "total", *_STAGES)
        }
        self._pictures = self.metrics.pictures.labels(self.name)
        self._batch = self.metrics.batch.labels(self.name)
        self.metrics.queue.labels(self.name)
        self._outcomes: dict[tuple[str, str], Any] = {}

    def started(
        self, backend: str, artifact: Artifact, *, accepted: Callable[[], int],
        waiting: Callable[[], int],
    ) -> None:  # fmt: skip
        """Say what runs the model now, and let a scrape ask how busy it is."""
        manifest = artifact.manifest
        for gauge in (self.metrics.engine, self.metrics.arithmetic):
            for labels in list(gauge._metrics):
                if labels[0] == self.name:
                    gauge.remove(*labels)
        self.metrics.engine.labels(self.name, backend, manifest.precision).set(1)
        verified = "unneeded" if manifest.precision == "fp32" else "no"
        if is_held(artifact):  # else it would not have been opened
            verified = "yes"
        self.metrics.arithmetic.labels(
            self.name, made_for(manifest), verified, " ".join(instruction_sets())
        ).set(1)
        self.metrics.accepted.labels(self.name).set_function(accepted)
        self.metrics.queue.labels(self.name).set_function(waiting)

    def ran(self, times: BatchTimes) -> None:
        """Count a batch."""
        self.executions += 1
        self.inferences += times.rows
        self.last_inference_ms = int(time.time() * 1000)
        self._pictures.inc(times.rows)
        self._batch.observe(times.rows)
        sizes = self.batches.setdefault(times.rows, defaultdict(_Duration))
        for stage, ns in _spent(times).items():
            sizes[stage].add(ns)
            self._seconds[stage].observe(ns / 1e9)

    def succeeded(self, result: RequestResult, total_ns: int, transport: str) -> None:
        """Count a request that got its response."""
        self.success.add(total_ns)
        for stage, ns in {"queue": result.queue_ns, **_spent(result.times)}.items():
            self.stages[stage].add(ns)
        self._seconds["queue"].observe(result.queue_ns / 1e9)
        self._seconds["total"].observe(total_ns / 1e9)
        self._ended(transport, "ok")

    def failed(self, total_ns: int, transport: str, code: str) -> None:
        """Count a request that got none; `code` is gRPC's name of why."""
        self.fail.add(total_ns)
        self._ended(transport, code.lower())

    def _ended(self, transport: str, outcome: str) -> None:
        key = (transport, outcome)
        if key not in self._outcomes:  # prometheus_client takes a while to find labels
            self._outcomes[key] = self.metrics.requests.labels(self.name, *key)
        self._outcomes[key].inc()

    def spent(self, stage: str, ns: int) -> None:
        """Note how long decoding or drawing took."""
        self._seconds[stage].observe(ns / 1e9)

    def to_dict(self, version: str) -> dict[str, Any]:
        """Return them as Triton's statistics."""
        return {
            "name": self.name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.to_dict(),
                "fail": self.fail.to_dict(),
                **{stage: self.stages[stage].to_dict() for stage in _STAGES},
            },
            "batch_stats": [
                {"batch_size": rows, **{stage: one.to_dict() for stage, one in sizes.items()}}
                for rows, sizes in sorted(self.batches.items())
            ],
        }


def _spent(times: BatchTimes) -> dict[str, int]:
    return {
        "compute_input": times.input_ns,
        "compute_infer": times.infer_ns,
        "compute_output": times.output_ns,
    }
