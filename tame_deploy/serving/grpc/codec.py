"""Messages of the protocol <-> requests and responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.grpc import schema
from tame_deploy.serving.messages import InferRequest, InferResponse, InputTensor, RequestedOutput
from tame_deploy.serving.tensors import (
    check_shape,
    from_bytes,
    from_strings,
    from_values,
    to_bytes,
)

__all__ = ["decode_request", "encode_response"]

_Response = schema.message("ModelInferResponse")
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


def decode_request(message: Any) -> InferRequest:
    """Return the request that a ModelInferRequest is.

    Raises:
        RequestError: if it does not follow the protocol.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RequestError(
            f"found {len(raw)} raw_input_contents for {len(message.inputs)} inputs; "
            "expected as many"
        )
    if not message.inputs:
        raise RequestError("found no inputs")
    inputs = tuple(
        _input(tensor, raw[index] if raw else None) for index, tensor in enumerate(message.inputs)
    )
    outputs = tuple(_output(output) for output in message.outputs)
    timeout = _number(message.parameters, "timeout")
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        inputs=inputs,
        outputs=outputs,
        timeout_s=timeout / 1e6 if timeout else None,
    )


def _input(tensor: Any, raw: bytes | None) -> InputTensor:
    name = tensor.name
    if _SHARED_MEMORY in tensor.parameters:
        raise RequestError("shared memory is not implemented", Fault.UNIMPLEMENTED)
    shape = check_shape(name, list(tensor.shape))
    if raw is None:
        return InputTensor(name, tensor.datatype, _typed(tensor, shape))
    if tensor.HasField("contents"):
        raise RequestError(f"input {name!r} has both contents and raw_input_contents")
    return InputTensor(name, tensor.datatype, from_bytes(raw, tensor.datatype, shape, name=name))


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
        return from_strings(list(values), shape, name=name)
    return from_values(list(values), datatype, shape, name=name)


def _output(output: Any) -> RequestedOutput:
    if _SHARED_MEMORY in output.parameters:
        raise RequestError("shared memory is not implemented", Fault.UNIMPLEMENTED)
    return RequestedOutput(output.name, _number(output.parameters, "classification"))


def _number(parameters: Mapping[str, Any], name: str) -> int:
    """Return a parameter that counts; 0 where it is not given."""
    if name not in parameters:
        return 0
    given = parameters[name]
    value = getattr(given, given.WhichOneof("parameter_choice") or "bool_param")
    if type(value) is not int or value < 0:
        raise RequestError(f"parameter {name} is {value!r:.40}; expected a whole number from 0 on")
    return value


def encode_response(response: InferResponse) -> Any:
    """Return a ModelInferResponse; its tensors are raw."""
    message = _Response(model_name=response.model, model_version=response.version, id=response.id)
    for tensor in response.outputs:
        message.outputs.add(
            name=tensor.name, datatype=tensor.datatype, shape=list(tensor.array.shape)
        )
        message.raw_output_contents.append(to_bytes(tensor.array))
    return message
