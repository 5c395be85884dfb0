"""A request and its response, whatever transport they came by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from tame_deploy.serving.faults import RequestError
from tame_deploy.serving.tensors import datatype_of

__all__ = ["InferRequest", "InferResponse", "InputTensor", "OutputTensor", "RequestedOutput"]

_LONGEST_ID = 256


@dataclass(frozen=True)
class InputTensor:
    """A tensor that came with its name, and what it says of itself."""

    name: str
    datatype: str
    array: NDArray[Any]


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a client wants.

    `classes` asks for the likeliest so many as text in its place (Triton's classification).
    """

    name: str
    classes: int = 0


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """What a client requests of a model.

    Attributes:
        model: its name.
        version: empty for the one there is.
        id: chosen by the client, given back.
        inputs: tensors, in the order they came.
        outputs: which it wants; the graph's own if there are none.
        timeout_s: how long the client waits.

    Raises:
        RequestError: for an id beyond reason, or a tensor that is named twice.
    """

    model: str
    version: str
    id: str
    inputs: tuple[InputTensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if len(self.id) > _LONGEST_ID:
            raise RequestError(f"the id has {len(self.id)} characters; expected {_LONGEST_ID}")
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            names = [tensor.name for tensor in tensors]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise RequestError(f"{kind} {twice!r} is named twice")


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of a response."""

    name: str
    array: NDArray[Any]

    @property
    def datatype(self) -> str:
        """The protocol's name of its datatype."""
        return datatype_of(self.array.dtype)


@dataclass(frozen=True, kw_only=True)
class InferResponse:
    """What a client gets: which model answered, and the tensors that were requested."""

    model: str
    version: str
    id: str
    outputs: tuple[OutputTensor, ...]
