"""What every inference backend looks like, and how one is opened by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from tame_deploy.artifact import Artifact
from tame_deploy.errors import BackendNotInstalledError
from tame_deploy.types import TensorSpec

__all__ = ["BACKENDS", "Backend", "BackendName", "BackendOptions", "open_backend"]

BackendName = Literal["onnxruntime"]
BACKENDS: tuple[BackendName, ...] = ("onnxruntime",)


@dataclass(frozen=True)
class BackendOptions:
    """How a backend runs.

    `threads` is for one operation, None being one a core. `providers` are ONNX Runtime's execution
    providers in order of preference; one that is named and not obtained is an error.
    """

    threads: int | None = None
    providers: Sequence[str] = ("CPUExecutionProvider",)


class Backend(Protocol):
    """Runs a graph on numpy arrays; a context manager. `run` may be called from many threads."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name for inputs by name.

        Raises:
            InputError: for a missing, unknown, ill-shaped or ill-typed input.
            BackendError: if the graph cannot be run.
        """
        ...

    def close(self) -> None:
        """Free what the backend holds; calling it again does nothing."""
        ...

    def __enter__(self) -> Backend: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_backend(
    artifact: Artifact, name: str = "onnxruntime", options: BackendOptions | None = None
) -> Backend:
    """Open the artifact's graph on a backend.

    Raises:
        BackendNotInstalledError: if there is no such backend, or its package is missing.
        BackendError: if the graph cannot be loaded, or a provider is not obtained.
        IncompatibleArtifactError: if graph and manifest do not belong together.
    """
    if name == "onnxruntime":
        from tame_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend

        return OnnxRuntimeBackend(artifact, options or BackendOptions())
    raise BackendNotInstalledError(f"unknown backend {name!r}; expected {', '.join(BACKENDS)}")
