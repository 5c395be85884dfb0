"""What every inference backend looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

from tame_deploy.errors import InputError

if TYPE_CHECKING:  # the command line, which starts fast, reads names and options from here
    from numpy.typing import NDArray

    from tame_deploy.artifact.types import TensorSpec

__all__ = ["CPU", "CUDA", "Backend", "BackendOptions", "ComputePrecision"]

#: ONNX Runtime's names for where it runs.
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

DEFAULT_STREAMS, MOST_STREAMS = 2, 64

#: What OpenVINO can be asked to compute in.
ComputePrecision: TypeAlias = Literal["fp32", "bf16"]

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """How a backend runs.

    Attributes:
        threads: for one operation on the CPU; None is one for each core that the process may use
            (affinity mask and quota of its container).
        providers: ONNX Runtime's execution providers in order of preference; one that is named and
            not obtained is an error. The CPU's by default.
        device: number of the GPU.
        engine: name of the engine in the artifact's engines/, to take no other.
        cuda_graphs: whether to replay what a GPU did for a size before, instead of starting its
            kernels one by one.
        streams: how many calls of different threads run at a time, on a GPU or with OpenVINO; on a
            GPU each holds its own buffers for the largest profile.
        precision: what OpenVINO computes in: "fp32", or "bf16" where the CPU has it. The artifact's
            own by default, whatever the CPU has.
        mode: whether OpenVINO gives all cores to one call ("latency") or runs calls side by side
            ("throughput").

    Raises:
        InputError: for a number outside its range.
    """

    threads: int | None = None
    providers: Sequence[str] | None = None
    device: int = 0
    engine: str | None = None
    cuda_graphs: bool = True
    streams: int = DEFAULT_STREAMS
    precision: ComputePrecision | None = None
    mode: Literal["latency", "throughput"] = "latency"

    def __post_init__(self) -> None:
        for name in ("threads", "device", "streams"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole and (name, value) != ("threads", None):
                raise InputError(f"{name} is {value!r}; expected a whole number")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads is {self.threads}; expected at least 1")
        if self.device < 0:
            raise InputError(f"device is {self.device}; expected 0 or more")
        if not 1 <= self.streams <= MOST_STREAMS:
            raise InputError(f"streams is {self.streams}; expected 1 to {MOST_STREAMS}")
        if self.precision not in (None, "fp32", "bf16"):
            raise InputError(f"precision is {self.precision!r}; expected fp32 or bf16")
        if self.mode not in ("latency", "throughput"):
            raise InputError(f"mode is {self.mode!r}; expected latency or throughput")

    def changed(self) -> frozenset[str]:
        """Return the names of the options that are not as by default."""
        return frozenset(
            field.name for field in fields(self) if getattr(self, field.name) != field.default
        )


class Backend(Protocol):
    """Runs a graph on numpy arrays; a context manager. `run` may be called from many threads.

    Attributes:
        name: what runs and where, in words.
        inputs: of the graph.
        outputs: of the graph.
        max_batch: the most pictures that one call of `run` may hold; None where any number fits.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int | None

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

    def __enter__(self: _T) -> _T: ...

    def __exit__(self, *_: object) -> None: ...
