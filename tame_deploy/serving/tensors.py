"""Tensors as the Open Inference Protocol writes them: datatypes, raw bytes, JSON values."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.serving.faults import RequestError

__all__ = [
    "DATATYPES",
    "check_shape",
    "datatype_of",
    "from_array",
    "from_bytes",
    "from_strings",
    "from_values",
    "raw_bytes",
    "to_values",
]

#: The protocol's names; BYTES are byte strings, as numpy objects. BF16 is no numpy type.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
#: What numbers are in JSON, by the kind of their datatype.
_KINDS: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_MOST_DIMENSIONS, _MOST_ELEMENTS = 8, 2**31
#: Strings are pictures, which a request has few of; each costs time to be told from the others.
_MOST_STRINGS = 10_000
_END = object()
#: In front of every byte string.
_LENGTH = struct.Struct("<I")


def datatype_of(dtype: str | np.dtype[Any]) -> str:
    """Return the protocol's name of a numpy dtype."""
    return _NAMES[np.dtype(dtype)]


def check_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Return a shape that came over the network as a tuple.

    Raises:
        RequestError: for what is no list of sizes, or one beyond reason.
    """
    if not isinstance(shape, (list, tuple)) or len(shape) > _MOST_DIMENSIONS:
        raise RequestError(f"input {name!r} has no valid shape; expected a list of sizes")
    if not all(type(size) is int and 0 <= size < _MOST_ELEMENTS for size in shape):
        raise RequestError(f"input {name!r} has sizes that are no whole numbers from 0 on")
    if math.prod(max(1, size) for size in shape) >= _MOST_ELEMENTS:
        raise RequestError(f"input {name!r} has more than {_MOST_ELEMENTS} elements")
    return tuple(shape)


def _dtype(name: str, datatype: Any) -> np.dtype[Any]:
    dtype = DATATYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise RequestError(
            f"input {name!r} has datatype {datatype!s:.40}; expected {', '.join(DATATYPES)}"
        )
    return dtype


def from_bytes(
    data: memoryview | bytes, datatype: Any, shape: Sequence[int], *, name: str
) -> NDArray[Any]:
    """Return a tensor of raw little-endian bytes: a view of them where they are aligned.

    Raises:
        RequestError: if there are more or fewer bytes than datatype and shape need.
    """
    dtype = _dtype(name, datatype)
    if datatype == "BYTES":
        strings = list(_strings(name, memoryview(data), _string_count(name, shape)))
        return _shaped(name, _objects(strings), shape)
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise RequestError(
            f"input {name!r} has {len(data)} bytes; {datatype} {list(shape)} is {expected}"
        )
    found = np.frombuffer(data, dtype)
    if not found.flags.aligned:  # numpy is ten times as slow there as a copy is
        found = np.frombuffer(data, np.uint8).copy().view(dtype)
    return found.reshape(shape)


def _string_count(name: str, shape: Sequence[int]) -> int:
    """Return how many strings a shape means: none is made for more than anybody can need."""
    count = math.prod(shape)
    if count > _MOST_STRINGS:
        raise RequestError(f"input {name!r} has {count} strings; expected at most {_MOST_STRINGS}")
    return count


def _strings(name: str, data: memoryview, count: int) -> Iterator[bytes]:
    """Yield byte strings, each of which comes after its length."""
    place = found = 0
    while place < len(data):
        found += 1
        if found > count:
            raise RequestError(f"input {name!r} has more strings than its shape means, {count}")
        start = place + _LENGTH.size
        if start > len(data):
            raise RequestError(f"input {name!r} ends in the middle of a length")
        place = start + _LENGTH.unpack_from(data, place)[0]
        if place > len(data):
            raise RequestError(f"input {name!r} ends before a string of its own length does")
        yield bytes(data[start:place])


def _objects(strings: Sequence[Any]) -> NDArray[Any]:
    """Return a flat array of objects; numpy alone would cut byte strings at their zeros."""
    found = np.empty(len(strings), object)
    found[:] = strings
    return found


def _shaped(name: str, flat: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    if flat.size != math.prod(shape):
        raise RequestError(
            f"input {name!r} has {flat.size} elements; its shape {list(shape)} means "
            f"{math.prod(shape)}"
        )
    return flat.reshape(shape)


def from_strings(strings: Sequence[bytes], shape: Sequence[int], *, name: str) -> NDArray[Any]:
    """Return a tensor of byte strings.

    Raises:
        RequestError: if there are more or fewer than the shape means.
    """
    return _shaped(name, _objects(strings), shape)


def from_values(values: Any, datatype: Any, shape: Sequence[int], *, name: str) -> NDArray[Any]:
    """Return a tensor of JSON values, nested or flat; BYTES are strings in base64.

    Raises:
        RequestError: for values of another type, beyond its range, or of another number.
    """
    dtype = _dtype(name, datatype)
    if not isinstance(values, (list, tuple)):
        raise RequestError(f"input {name!r} has no list of values as its data")
    if datatype == "BYTES":
        count = _string_count(name, shape)
        strings = [_decoded(name, text) for text in _flat(values, count)]
        return _shaped(name, _objects(strings), shape)
    if len(values) > max(1, math.prod(shape)):
        raise RequestError(
            f"input {name!r} has {len(values)} rows or values; its shape {list(shape)} means fewer"
        )
    # As objects, or one long string among many numbers would make every one of them as long.
    found = np.asarray(values, object)
    kinds = set(map(type, found.ravel().tolist()))
    if list in kinds:
        raise RequestError(f"input {name!r} has rows of different lengths")
    if not kinds <= _KINDS[dtype.kind]:
        raise RequestError(f"input {name!r} has values that are no {datatype}")
    if found.size == 0:
        return _shaped(name, found.ravel().astype(dtype), shape)
    _check_range(found, datatype, dtype, name=name)
    try:
        with np.errstate(over="ignore"):  # what is beyond float16 is infinite, and refused as that
            return _shaped(name, found.ravel().astype(dtype), shape)
    except OverflowError:  # no float is as large as an integer may be
        raise RequestError(f"input {name!r} has values beyond {datatype}") from None


def from_array(
    values: NDArray[Any], datatype: str, shape: Sequence[int], *, name: str
) -> NDArray[Any]:
    """Return a tensor of numbers of its kind that may be wider than its datatype.

    Raises:
        RequestError: for values beyond its range, or of another number.
    """
    dtype = _dtype(name, datatype)
    if values.dtype != dtype and values.size:
        _check_range(values, datatype, dtype, name=name)
    return _shaped(name, values.astype(dtype, copy=False), shape)


def _check_range(values: NDArray[Any], datatype: str, dtype: np.dtype[Any], *, name: str) -> None:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise RequestError(f"input {name!r} has values beyond {datatype}")


def _flat(values: Any, most: int) -> list[Any]:
    """Return nested values in one list, and at most one more than `most` of them."""
    found: list[Any] = []
    open_lists = [iter(values)]
    while open_lists and len(found) <= most:
        value = next(open_lists[-1], _END)
        if value is _END:
            open_lists.pop()
        elif isinstance(value, (list, tuple)):
            open_lists.append(iter(value))
        else:
            found.append(value)
    return found


def _decoded(name: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise RequestError(f"input {name!r} has values that are no strings in base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"input {name!r} is not base64") from None


def raw_bytes(array: NDArray[Any]) -> memoryview | bytes:
    """Return a tensor's raw little-endian bytes, uint8; a view of it where it lies like that."""
    if array.dtype != object:
        dense = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        return dense.reshape(-1).view(np.uint8).data
    parts = [part for string in array.ravel() for part in (_LENGTH.pack(len(string)), string)]
    return b"".join(parts)


def to_values(array: NDArray[Any]) -> NDArray[Any] | list[str]:
    """Return a tensor, flat, for orjson; byte strings that are no text are in base64."""
    if array.dtype != object:
        return np.ascontiguousarray(array).reshape(-1)
    return [_text(string) for string in array.ravel()]


def _text(string: bytes) -> str:
    try:
        return string.decode()
    except UnicodeDecodeError:
        return base64.b64encode(string).decode()
