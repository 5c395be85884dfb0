"""No quantized graph is trusted unseen: it is held to the reference pictures where it first runs.

Integer kernels differ between processors: those of AVX2 saturate where those of VNNI do not. So
the first opening of a graph of lower precision runs the artifact's reference pictures, and what
they show is kept in the cache: for the graph, the library's version, and what kernels are chosen
by. Later openings read that. libtame keeps and reads the same files (`cpp/src/verify`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from tame_deploy.artifact.decoding import decode
from tame_deploy.artifact.directory import Artifact
from tame_deploy.errors import ManifestError, ParityError, TameError
from tame_deploy.files import cache_directory, keep_json
from tame_deploy.runtime.backends import table
from tame_deploy.runtime.backends.processor import (
    instructions,
    processor_and_sets,
    processor_name,
)
from tame_deploy.runtime.backends.protocol import CUDA, Backend, BackendOptions
from tame_deploy.runtime.backends.table import BackendSpec
from tame_deploy.runtime.backends.tensorrt import cuda
from tame_deploy.runtime.verify.parity import (
    Arithmetic,
    Deviation,
    measure_deviation,
    require_near,
)
from tame_deploy.runtime.verify.reference import PARITY_FILE, ParityReference

__all__ = ["describe_here", "hold_to_reference", "is_held"]

_log = logging.getLogger("tame_deploy")


@dataclass(frozen=True)
class _Found:
    """What a file of the cache says: how far from PyTorch, or what was wrong at all."""

    about: tuple[str, ...]
    deviation: Deviation | None = None
    fault: str | None = None


@dataclass(frozen=True)
class _Question:
    """Whether one graph is computed on one processor as it was made.

    Attributes:
        artifact: whose graph it is, and whose reference.
        spec: the backend.
        arithmetic: what it is asked to compute in.
        graph: sha256 of the graph, or of the engine's plan.
        device: the processor or the GPU, in words.
        kernels: what the library chooses its kernels by.
    """

    artifact: Artifact
    spec: BackendSpec
    arithmetic: Arithmetic
    graph: str
    device: str
    kernels: str

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        spec: BackendSpec,
        options: BackendOptions,
        backend: Backend | None = None,
    ) -> _Question:
        """Return the question of an artifact's graph; of an engine with the backend that runs it.

        Raises:
            BackendError: without the GPU that the options name.
        """
        arithmetic: Arithmetic = "bf16" if options.precision == "bf16" else "own"
        engine = getattr(backend, "stored", None)
        graph = engine.sidecar.plan_sha256 if engine else artifact.manifest.files["model.onnx"]
        if engine or spec.provider == CUDA:
            gpu = cuda.probe(options.device)
            device = str(gpu)
            kernels = f"{gpu}, driver for CUDA {'.'.join(map(str, gpu.driver_cuda))}"
        else:
            device = processor_and_sets()
            kernels = " ".join((platform.machine(), *(instructions() or (processor_name(),))))
        return cls(artifact, spec, arithmetic, graph, device, kernels)

    @property
    def library(self) -> str:
        """The library, with its version."""
        return f"{self.spec.title} {self.spec.version}"

    @cached_property
    def about(self) -> tuple[str, ...]:
        """All that the answer depends on."""
        return (
            f"graph {self.graph}",
            f"reference {self.artifact.manifest.files[PARITY_FILE]}",
            f"library {self.library}",
            f"arithmetic {self.arithmetic}",
            f"kernels {self.kernels}",
        )

    @property
    def path(self) -> Path:
        """The file of the cache that has the answer, once it is known."""
        key = hashlib.sha256("\n".join(self.about).encode()).hexdigest()
        return cache_directory() / "verdicts" / f"{key}.json"

    def known(self) -> _Found | None:
        """Return the answer that an earlier opening found; None if there is none."""
        try:
            text = self.path.read_text(encoding="utf-8")
            found: _Found = decode(_Found, json.loads(text), "verdict")
        except (OSError, ValueError, ManifestError):
            return None
        return found if found.about == self.about else None

    def measure(self, backend: Backend) -> _Found:
        """Return the answer, and keep it."""
        try:
            reference = ParityReference.load(self.artifact)
            deviation = measure_deviation(backend, reference, self.artifact)
            found = _Found(self.about, deviation=deviation)
        except ParityError as error:
            found = _Found(self.about, fault=str(error))
        keep_json(self.path, asdict(found), "verdict")
        return found

    def judge(self, found: _Found) -> None:
        """Hold an answer to what the manifest records.

        Raises:
            ParityError: that names backend, processor, errors and remedy.
        """
        try:
            if found.deviation is None:
                raise ParityError(f"{found.fault}. Run the float32 artifact, or quantize here")
            require_near(found.deviation, self.artifact, self.arithmetic)
        except ParityError as error:
            raise ParityError(
                f"{self.artifact.path}: {self.library} computes this "
                f"{self.artifact.manifest.precision} graph otherwise than it was made, on "
                f"{self.device}: {error}{self._others()}"
            ) from None

    def describe(self) -> str:
        """Return whether the graph is known to be computed as it was made, in words."""
        found = self.known()
        if found is None:
            return "not yet verified here"
        try:
            self.judge(found)
        except ParityError:
            return "refused here" + (f": {_errors(found.deviation)}" if found.deviation else "")
        assert found.deviation is not None
        return f"verified here: {_errors(found.deviation)}"

    def _others(self) -> str:
        """Return the other backends for CPUs, which may compute it well."""
        others = {
            spec.name
            for spec in table.BACKENDS
            if spec.on_cpu and spec.name != self.spec.name and spec.version is not None
        }
        return f", or use backend {' or '.join(sorted(others))}" if others else ""


def is_held(artifact: Artifact) -> bool:
    """Whether an artifact's graph is of lower precision and there is a reference to hold it to."""
    manifest = artifact.manifest
    return manifest.precision != "fp32" and PARITY_FILE in manifest.files


def hold_to_reference(
    backend: Backend,
    artifact: Artifact,
    spec: BackendSpec,
    options: BackendOptions,
    *,
    anew: bool = False,
) -> None:
    """Hold a backend to the artifact's reference pictures, once on each processor; else close it.

    Graphs of float32 are left alone.

    Args:
        backend: that was opened.
        artifact: whose graph it runs.
        spec: its entry in the table.
        options: that it was opened with.
        anew: whether the pictures are run although the answer is known.

    Raises:
        ParityError: if it computes the graph otherwise than it was made.
        TameError: if it cannot be run.
    """
    if not is_held(artifact):
        if artifact.manifest.precision != "fp32":
            _log.warning(
                "%s: found no %s; whether this processor computes the %s graph as it was made "
                "cannot be checked: quantize again",
                artifact.path, PARITY_FILE, artifact.manifest.precision,
            )  # fmt: skip
        return
    try:
        question = _Question.of(artifact, spec, options, backend)
        found = None if anew else question.known()
        question.judge(found or question.measure(backend))
    except BaseException:
        backend.close()
        raise


def describe_here(artifact: Artifact, spec: BackendSpec, options: BackendOptions) -> str | None:
    """Return whether a backend is known to compute an artifact as it was made; None for float32.

    Engines say it by themselves.
    """
    if not is_held(artifact) or spec.version is None or spec.runs_engines:
        return None
    try:
        return _Question.of(artifact, spec, options).describe()
    except TameError:
        return None


def _errors(found: Deviation) -> str:
    return f"logits off by {found.logit_error:.2%}, maps by {found.map_error:.2%}"
