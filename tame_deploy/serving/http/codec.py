"""HTTP bodies of the protocol: JSON, with raw tensors behind it (the binary tensor extension)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.messages import InferRequest, InferResponse, InputTensor, RequestedOutput
from tame_deploy.serving.strict_json import JsonBounds, parse_json
from tame_deploy.serving.tensors import (
    check_shape,
    from_bytes,
    from_values,
    raw_bytes,
    to_values,
)

__all__ = ["HEADER_LENGTH", "HttpRequest", "decode_request", "encode_response", "json_size"]

#: How many bytes of the body are JSON, where raw tensors follow.
HEADER_LENGTH = "inference-header-content-length"

_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


class HttpRequest:
    """A request, and which of its outputs are wanted as raw bytes."""

    def __init__(self, request: InferRequest, raw_names: frozenset[str], raw_default: bool) -> None:
        self.request = request
        self._raw_names, self._raw_default = raw_names, raw_default

    def wants_raw(self, name: str) -> bool:
        """Whether an output goes behind the JSON."""
        return name in self._raw_names or (self._raw_default and not self.request.outputs)


def decode_request(
    body: bytes | memoryview,
    header_length: str | None,
    *,
    model: str,
    bounds: JsonBounds,
    version: str = "",
) -> HttpRequest:
    """Return the request that a body is.

    Args:
        body: unpacked.
        header_length: the header of that name, if there is one.
        model: its name, of the URL.
        bounds: of the JSON.
        version: likewise, or empty.

    Raises:
        RequestError: for a body that does not follow the protocol.
    """
    whole = memoryview(body)
    length = _header_length(header_length, len(whole))
    text = bytes(whole[:length])
    bounds.check(text)
    told = _object(parse_json(text), "the request")
    parameters = _object(told.get("parameters", {}), "parameters")
    raw_default = _flag(parameters, "binary_data_output")
    inputs = _inputs(told, whole[length:])
    names, outputs = _outputs(told.get("outputs", []), raw_default)
    request_id = told.get("id", "")
    if not isinstance(request_id, str):
        raise RequestError("id is no string")
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or not 0 <= timeout < 2**63):
        raise RequestError("timeout is no number of microseconds")
    request = InferRequest(
        model=model,
        version=version,
        id=request_id,
        inputs=inputs,
        outputs=outputs,
        timeout_s=timeout / 1e6 if timeout else None,
    )
    return HttpRequest(request, names, raw_default)


def json_size(header_length: str | None, size: int) -> int:
    """Return how much of a body of `size` bytes is JSON, as far as can be told."""
    text = (header_length or "").strip(" \t")
    return min(int(text), size) if re.fullmatch(r"[0-9]{1,18}", text) else size


def _header_length(text: str | None, size: int) -> int:
    if text is None:
        return size
    if not re.fullmatch(r"[0-9]{1,18}", text.strip(" \t")):
        raise RequestError(f"{HEADER_LENGTH} is {text!r:.40}; expected a number of bytes")
    if int(text) > size:
        raise RequestError(f"{HEADER_LENGTH} is {int(text)}, but the body has {size} bytes")
    return int(text)


def _object(found: Any, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise RequestError(f"{what} is no JSON object")
    return found


def _flag(parameters: dict[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise RequestError(f"parameter {name} is neither true nor false")
    return value


def _list(found: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(found, list):
        raise RequestError(f"{what} is no list")
    return [_object(one, f"one of {what}") for one in found]


def _name(tensor: dict[str, Any], what: str) -> str:
    name = tensor.get("name")
    if not isinstance(name, str) or not name:
        raise RequestError(f"an {what} has no name")
    return name


def _parameters(tensor: dict[str, Any], name: str) -> dict[str, Any]:
    parameters = _object(tensor.get("parameters", {}), f"parameters of {name!r}")
    if any(word in parameters for word in _SHARED_MEMORY):
        raise RequestError("shared memory is not implemented", Fault.UNIMPLEMENTED)
    return parameters


def _inputs(told: dict[str, Any], raw: memoryview) -> tuple[InputTensor, ...]:
    """Return the inputs; those that have no values take their bytes from `raw` in turn."""
    tensors = _list(told.get("inputs"), "inputs")
    if not tensors:
        raise RequestError("found no inputs")
    found, place = [], 0
    for tensor in tensors:
        name = _name(tensor, "input")
        shape, datatype = check_shape(name, tensor.get("shape")), tensor.get("datatype")
        size = _parameters(tensor, name).get("binary_data_size")
        if size is None:
            if "data" not in tensor:
                raise RequestError(f"input {name!r} has no data")
            array = _values(tensor["data"], datatype, shape, name=name)
        else:
            if type(size) is not int or size < 0:
                raise RequestError(f"input {name!r} has binary_data_size {size!r:.40}")
            if "data" in tensor:
                raise RequestError(f"input {name!r} has both data and binary_data_size")
            if place + size > len(raw):
                raise RequestError(f"the body ends before the {size} bytes of input {name!r} do")
            array = from_bytes(raw[place : place + size], datatype, shape, name=name)
            place += size
        found.append(InputTensor(name, str(datatype), array))
    if place != len(raw):
        raise RequestError(f"{len(raw) - place} bytes follow the last input")
    return tuple(found)


def _values(values: Any, datatype: Any, shape: Sequence[int], *, name: str) -> Any:
    try:
        return from_values(values, datatype, shape, name=name)
    except RecursionError:
        raise RequestError(f"input {name!r} is nested too deeply") from None


def _outputs(told: Any, raw_default: bool) -> tuple[frozenset[str], tuple[RequestedOutput, ...]]:
    raw, requested = set(), []
    for output in _list(told, "outputs"):
        name = _name(output, "output")
        parameters = _parameters(output, name)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise RequestError(f"output {name!r} has classification {classes!r:.40}")
        if _flag(parameters, "binary_data") or (raw_default and "binary_data" not in parameters):
            raw.add(name)
        requested.append(RequestedOutput(name, classes))
    return frozenset(raw), tuple(requested)


def encode_response(response: InferResponse, request: HttpRequest) -> tuple[bytes, dict[str, str]]:
    """Return the body of a response, and its headers."""
    outputs, raw = [], []
    for tensor in response.outputs:
        shown: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.array.shape),
        }
        if request.wants_raw(tensor.name):
            data = raw_bytes(tensor.array)
            shown["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            shown["data"] = to_values(tensor.array)
        outputs.append(shown)
    told: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        told["id"] = response.id
    # Of float32 it writes the shortest text that reads as the same float32.
    header = orjson.dumps({**told, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raw:
        return header, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return b"".join((header, *raw)), headers
