"""What every inference backend looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from numpy.typing import NDArray

from tame_deploy.types import TensorSpec

__all__ = ["Backend", "BackendOptions"]


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
