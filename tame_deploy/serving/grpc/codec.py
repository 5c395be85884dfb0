"""Messages of the protocol <-> requests and responses; raw tensors are not copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.grpc import schema, wire
from tame_deploy.serving.messages import InferRequest, InferResponse, InputTensor, RequestedOutput
from tame_deploy.serving.tensors import (
    check_shape,
    from_array,
    from_bytes,
    from_strings,
    raw_bytes,
)

__all__ = [
    "Received",
    "decode_request",
    "encode_response",
    "encode_streamed",
    "receive",
    "small_message",
]

_Request = schema.message("ModelInferRequest")
_Response = schema.message("ModelInferResponse")
_Streamed = schema.message("ModelStreamInferResponse")
#: Inputs, outputs and parameters; a model has two or three.
_MOST = 100
_RAW_INPUTS = _Request.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_RAW_OUTPUTS = _Response.DESCRIPTOR.fields_by_name["raw_output_contents"].number
_STREAMED_RESPONSE = _Streamed.DESCRIPTOR.fields_by_name["infer_response"].number
_SHARED_MEMORY = "shared_memory_region"
#: Bytes of any message that has no tensors.
_SMALL = 64 * 1024
#: Packed integers that any request may hold beside its pictures: classes and sizes.
_NUMBERS_BESIDES = 100_000
_BROKEN = "the message is cut off, or of another kind"

#: What is parsed number by number where it is packed; floats are copied as they lie.
_VARINTS = (
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
)
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


#: In which numpy reads them: as wide as protobuf has them.
_WIDE: dict[str, type[np.generic]] = {
    "bool_contents": np.bool_,
    "int_contents": np.int32,
    "int64_contents": np.int64,
    "uint_contents": np.uint32,
    "uint64_contents": np.uint64,
    "fp32_contents": np.float32,
    "fp64_contents": np.float64,
}


@dataclass
class Received:
    """A ModelInferRequest as it came.

    Attributes:
        message: all of it but `raw_input_contents`.
        raw: those, as views of the bytes that came.
        freed: called when they are let go.
    """

    message: Any
    raw: Sequence[memoryview | bytes]
    freed: Callable[[], object] = lambda: None

    def let_go(self) -> None:
        """Free what came: gRPC keeps a stream's last message until another one comes."""
        self.message, self.raw = None, ()
        self.freed()


def _nested(kind: Any) -> wire.Nested:
    found = {one.number: _nested(one.message_type) for one in kind.fields if one.message_type}
    return {**found, **{one.number: None for one in kind.fields if one.type in _VARINTS}}


_NESTED = _nested(_Request.DESCRIPTOR)


def receive(data: bytes, most_numbers: int) -> Received | RequestError:
    """Return a ModelInferRequest, or what is wrong with one that is broken or holds too much.

    gRPC reads messages by it, and cannot be told of an error otherwise. Of packed integers,
    `most_numbers` are read, and some that no model counts.
    """
    most_numbers += _NUMBERS_BESIDES
    try:
        found = wire.split(data, _RAW_INPUTS)
        wire.check_fields(data if found is None else found[0], _NESTED, most_numbers)
        if found is not None:
            return Received(_Request.FromString(found[0]), found[1])
        message = _Request.FromString(data)
        return Received(message, message.raw_input_contents)
    except DecodeError:
        return RequestError(_BROKEN)
    except wire.TooManyFieldsError:
        return RequestError(
            f"the message has more than {wire.MOST_FIELDS} fields, parameters and strings in all; "
            "send numbers packed or raw"
        )
    except wire.TooManyNumbersError:
        words = f"the message has more than {most_numbers} packed integers; send tensors raw"
        return RequestError(words, Fault.TOO_LARGE)


def small_message(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return what reads messages as `read` does; for one that is broken or large, what is wrong."""

    def bounded(data: bytes) -> Any:
        if len(data) > _SMALL:
            words = f"the message has {len(data)} bytes; expected at most {_SMALL}"
            return RequestError(words, Fault.TOO_LARGE)
        try:
            return read(data)
        except DecodeError:
            return RequestError(_BROKEN)

    return bounded


def decode_request(received: Received) -> InferRequest:
    """Return the request that a ModelInferRequest is.

    Raises:
        RequestError: if it does not follow the protocol.
    """
    message, raw = received.message, received.raw
    if max(len(message.inputs), len(message.outputs), len(raw), len(message.parameters)) > _MOST:
        raise RequestError(f"found more than {_MOST} inputs, outputs or parameters")
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
    timeout = _number(message.parameters, "timeout")
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        inputs=inputs,
        outputs=tuple(map(_output, message.outputs)),
        timeout_s=timeout / 1e6 if timeout else None,
    )


def _input(tensor: Any, raw: memoryview | bytes | None) -> InputTensor:
    name = tensor.name
    if _SHARED_MEMORY in tensor.parameters:
        raise RequestError("shared memory is not implemented", Fault.UNIMPLEMENTED)
    shape = check_shape(name, tensor.shape[:_MOST])  # a list of millions would take a second
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
    return from_array(_numbers(tensor.contents, place), datatype, shape, name=name)


def _numbers(contents: Any, place: str) -> NDArray[Any]:
    """Return the only contents there are.

    Floats lie in the serialized message as numpy has them; one by one they take a hundred times as
    long.
    """
    values, dtype = getattr(contents, place), np.dtype(_WIDE[place])
    if dtype.kind != "f":
        return np.fromiter(values, dtype, len(values))
    data = contents.SerializeToString()
    if len(data) != sum(map(len, wire.field(1, [bytes(len(values) * dtype.itemsize)]))):
        return np.fromiter(values, dtype, len(values))  # fields that we do not know stand behind
    return np.frombuffer(
        data, dtype.newbyteorder("<"), offset=len(data) - len(values) * dtype.itemsize
    )


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


def encode_response(response: InferResponse) -> bytes:
    """Return a ModelInferResponse as bytes; its tensors are raw."""
    message = _Response(model_name=response.model, model_version=response.version, id=response.id)
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
    raw = wire.field(_RAW_OUTPUTS, (raw_bytes(tensor.array) for tensor in response.outputs))
    return b"".join((message.SerializeToString(), *raw))


def encode_streamed(response: bytes) -> bytes:
    """Return the ModelStreamInferResponse that holds a ModelInferResponse."""
    return b"".join(wire.field(_STREAMED_RESPONSE, (response,)))
