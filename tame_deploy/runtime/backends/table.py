"""The backends: a new one is one entry here, and a file of its own beside this one.

The entries stand in the order of "auto", the fastest first. Nothing here imports an inference
library before a backend is opened, so that the command line can list the names at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tame_deploy.errors import BackendNotInstalledError, InputError, TameError
from tame_deploy.runtime.backends.installed import first_version
from tame_deploy.runtime.backends.protocol import CPU, CUDA, BackendOptions

if TYPE_CHECKING:
    from tame_deploy.artifact.directory import Artifact
    from tame_deploy.artifact.sidecar import FlavourName
    from tame_deploy.artifact.types import TensorSpec
    from tame_deploy.runtime.backends.protocol import Backend, ComputePrecision

__all__ = [
    "AUTO",
    "BACKENDS",
    "BackendSpec",
    "backend_names",
    "backend_spec",
    "graph_backend_names",
    "honours",
]

AUTO = "auto"

OpenArtifact: TypeAlias = "Callable[[Artifact, BackendOptions], Backend]"
OpenGraph: TypeAlias = (
    "Callable[[Path | bytes, Sequence[TensorSpec], Sequence[TensorSpec], BackendOptions], Backend]"
)


def _nothing_lacks(_artifact: Artifact | None, _options: BackendOptions) -> None:
    """Find nothing that speaks against a backend that is installed."""


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """A backend, and all that the rest of the package must know of it.

    Attributes:
        name: as users write it.
        packages: distributions that bring it; the first that is installed tells the version.
        extra: of tame-deploy that installs it.
        honours: which of `BackendOptions` it honours; others are refused.
        open: opens an artifact, its graph or an engine of it.
        check: raises a TameError that says what is missing, where it is installed and cannot be
            used all the same: on this machine, or for an artifact if one is given.
        on_cpu: whether it is for CPUs. "auto" measures those that are and takes the fastest.
        provider: which of ONNX Runtime's execution providers it runs on, where it has several.
        open_graph: opens a graph, a file or its bytes, with its inputs and outputs; None where
            engines alone are run.
        lower_precisions: which of `BackendOptions.precision` it can compute in here, besides the
            artifact's own.
    """

    name: str
    packages: tuple[str, ...]
    extra: str
    honours: frozenset[str]
    open: OpenArtifact
    check: Callable[[Artifact | None, BackendOptions], None] = _nothing_lacks
    on_cpu: bool = False
    provider: str | None = None
    open_graph: OpenGraph | None = None
    lower_precisions: Callable[[], Sequence[ComputePrecision]] = tuple

    @property
    def title(self) -> str:
        """Its name for the screen."""
        place = self.provider and self.provider.removesuffix("ExecutionProvider")
        return f"{self.name} ({place})" if place else self.name

    @property
    def runs_engines(self) -> bool:
        """Whether it runs engines that were compiled for it, and not the graph."""
        return "engine" in self.honours

    @property
    def version(self) -> str | None:
        """The version that is installed; None if none is."""
        return first_version(*self.packages)

    def refusal(self, artifact: Artifact | None, options: BackendOptions) -> str | None:
        """Return why it cannot be used here, or for an artifact if one is given; None if it can."""
        if self.version is None:
            return f"it is not installed: pip install 'tame-deploy[{self.extra}]'"
        try:
            self.check(artifact, options)
        except TameError as error:
            return str(error)
        return None

    def check_options(self, options: BackendOptions) -> None:
        """Refuse options that it would ignore.

        Raises:
            InputError: naming the first of them.
        """
        idle = sorted(options.changed() - self.honours)
        if idle:
            raise InputError(f"{idle[0]} has no meaning for backend {self.title}")

    def narrowed(self, options: BackendOptions) -> BackendOptions:
        """Return the options that it honours, with its provider; the others are as by default."""
        kept = {name: getattr(options, name) for name in options.changed() & self.honours}
        if self.provider is not None:
            kept.setdefault("providers", tuple(dict.fromkeys((self.provider, CPU))))
        return replace(BackendOptions(), **kept)


def _open_tensorrt(flavour: FlavourName, artifact: Artifact, options: BackendOptions) -> Backend:
    from tame_deploy.runtime.backends.tensorrt.backend import TensorRTBackend

    return TensorRTBackend.of_artifact(artifact, flavour, options)


def _check_tensorrt(
    flavour: FlavourName, artifact: Artifact | None, options: BackendOptions
) -> None:
    from tame_deploy.runtime.backends.tensorrt.backend import check_usable

    check_usable(flavour, artifact, options)


def _open_onnxruntime(artifact: Artifact, options: BackendOptions) -> Backend:
    from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend.of_artifact(artifact, options)


def _open_graph_onnxruntime(
    model: Path | bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    options: BackendOptions,
) -> Backend:
    from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(model, inputs, outputs, options)


def _check_onnxruntime_cuda(artifact: Artifact | None, options: BackendOptions) -> None:
    from tame_deploy.runtime.backends.onnxruntime.backend import check_cuda_usable

    check_cuda_usable(artifact, options)


def _open_openvino(artifact: Artifact, options: BackendOptions) -> Backend:
    from tame_deploy.runtime.backends.openvino import OpenVinoBackend

    return OpenVinoBackend.of_artifact(artifact, options)


def _open_graph_openvino(
    model: Path | bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    options: BackendOptions,
) -> Backend:
    from tame_deploy.runtime.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(model, inputs, outputs, options)


def _openvino_precisions() -> Sequence[ComputePrecision]:
    from tame_deploy.runtime.backends.openvino import computes_bfloat16

    return ("bf16",) if computes_bfloat16() else ()


_ENGINE_OPTIONS = frozenset({"device", "engine", "cuda_graphs", "streams"})
_ONNXRUNTIME = ("onnxruntime-gpu", "onnxruntime")

BACKENDS: tuple[BackendSpec, ...] = (
    BackendSpec(
        name="tensorrt",
        packages=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        extra="tensorrt",
        honours=_ENGINE_OPTIONS,
        open=partial(_open_tensorrt, "tensorrt"),
        check=partial(_check_tensorrt, "tensorrt"),
    ),
    BackendSpec(
        name="tensorrt-rtx",
        packages=("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
        extra="tensorrt-rtx",
        honours=_ENGINE_OPTIONS,
        open=partial(_open_tensorrt, "tensorrt-rtx"),
        check=partial(_check_tensorrt, "tensorrt-rtx"),
    ),
    BackendSpec(
        name="onnxruntime",
        packages=_ONNXRUNTIME,
        extra="cuda",
        honours=frozenset({"providers", "threads", "device", "cuda_graphs"}),
        open=_open_onnxruntime,
        check=_check_onnxruntime_cuda,
        provider=CUDA,
        open_graph=_open_graph_onnxruntime,
    ),
    BackendSpec(
        name="openvino",
        packages=("openvino",),
        extra="openvino",
        honours=frozenset({"threads", "streams", "precision", "mode"}),
        open=_open_openvino,
        on_cpu=True,
        open_graph=_open_graph_openvino,
        lower_precisions=_openvino_precisions,
    ),
    BackendSpec(
        name="onnxruntime",
        packages=_ONNXRUNTIME,
        extra="cpu",
        honours=frozenset({"providers", "threads"}),
        open=_open_onnxruntime,
        on_cpu=True,
        provider=CPU,
        open_graph=_open_graph_onnxruntime,
    ),
)


def backend_names() -> tuple[str, ...]:
    """Return what a user may ask for: "auto", and the names of the backends in its order."""
    return (AUTO, *dict.fromkeys(spec.name for spec in BACKENDS))


def graph_backend_names() -> tuple[str, ...]:
    """Return the names of the backends that run an artifact's graph itself."""
    return tuple(dict.fromkeys(spec.name for spec in BACKENDS if not spec.runs_engines))


def backend_spec(name: str, options: BackendOptions) -> BackendSpec:
    """Return the entry of a name; of several, the one for the provider that the options name.

    Raises:
        BackendNotInstalledError: if there is no backend of that name.
    """
    found = [spec for spec in BACKENDS if spec.name == name]
    if not found:
        raise BackendNotInstalledError(
            f"unknown backend {name!r}; expected {', '.join(backend_names())}"
        )
    providers = options.providers or (CPU,)
    return next((spec for spec in found if spec.provider in providers), found[-1])


def honours(name: str, option: str) -> bool:
    """Whether a backend, or one that "auto" may take, honours one of `BackendOptions`."""
    return any(option in spec.honours for spec in BACKENDS if name in (AUTO, spec.name))
