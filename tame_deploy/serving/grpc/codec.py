"""Messages of the protocol <-> requests and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.grpc.schema import message
from tame_deploy.serving.messages import InferAnswer, InferRequest, InputTensor, WantedOutput
from tame_deploy.serving.tensors import (
    check_shape,
    from_bytes,
    from_strings,
    from_values,
    to_bytes,
)

__all__ = ["decode_request", "encode_answer"]

_Response = message("ModelInferResponse")
_SHARED_MEMORY = "shared_memory_region"

#: Where typed contents are. FP16 has no place of its own: it comes as raw bytes alone.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def decode_request(asked: Any) -> InferRequest:
    """Return what a ModelInferRequest asks.

    Raises:
        RequestError: if it does not follow the protocol.
    """
    raw = asked.raw_input_contents
    if raw and len(raw) != len(asked.inputs):
        raise RequestError(
            f"found {len(raw)} raw_input_contents for {len(asked.inputs)} inputs; expected as many"
        )
    if not asked.inputs:
        raise RequestError("found no inputs")
    inputs = tuple(
        _input(tensor, raw[index] if raw else None) for index, tensor in enumerate(asked.inputs)
    )
    outputs = tuple(_output(output) for output in asked.outputs)
    timeout = _number(asked.parameters, "timeout")
    return InferRequest(
        asked.model_name, asked.model_version, asked.id, inputs, outputs,
        timeout / 1e6 if timeout else None,
    )  # fmt: skip


def _input(tensor: Any, raw: bytes | None) -> InputTensor:
    name = tensor.name
    if _SHARED_MEMORY in tensor.parameters:
        raise RequestError("shared memory is not implemented", Fault.UNIMPLEMENTED)
    shape = check_shape(name, list(tensor.shape))
    if raw is None:
        return InputTensor(name, tensor.datatype, _typed(tensor, shape))
    if tensor.HasField("contents"):
        raise RequestError(f"input {name!r} has both contents and raw_input_contents")
    return InputTensor(name, tensor.datatype, from_bytes(name, tensor.datatype, shape, raw))


def _typed(tensor: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    name, datatype = tensor.name, tensor.datatype
    place = _CONTENTS.get(datatype)
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if place is None or any(other != place for other in filled):
        raise RequestError(
            f"input {name!r} has {', '.join(filled) or 'no contents'} for datatype {datatype:.20}; "
            f"expected {place or 'raw_input_contents'}"
        )
    values = getattr(tensor.contents, place)
    if datatype == "BYTES":
        return from_strings(name, shape, list(values))
    return from_values(name, datatype, shape, list(values))


def _output(output: Any) -> WantedOutput:
    if _SHARED_MEMORY in output.parameters:
        raise RequestError("shared memory is not implemented", Fault.UNIMPLEMENTED)
    return WantedOutput(output.name, _number(output.parameters, "classification"))


def _number(parameters: Mapping[str, Any], name: str) -> int:
    """Return a parameter that counts; 0 where it is not given."""
    if name not in parameters:
        return 0
    given = parameters[name]
    value = getattr(given, given.WhichOneof("parameter_choice") or "bool_param")
    if type(value) is not int or value < 0:
        raise RequestError(f"parameter {name} is {value!r:.40}; expected a whole number from 0 on")
    return value


def encode_answer(answer: InferAnswer) -> Any:
    """Return a ModelInferResponse; its tensors are raw."""
    found = _Response(model_name=answer.model, model_version=answer.version, id=answer.id)
    for tensor in answer.outputs:
        found.outputs.add(
            name=tensor.name, datatype=tensor.datatype, shape=list(tensor.array.shape)
        )
        found.raw_output_contents.append(to_bytes(tensor.array))
    return found
