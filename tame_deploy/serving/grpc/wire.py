"""Raw tensors of messages, left where they lie in the bytes that came over the network.

protobuf's own parser would copy them. So a ModelInferRequest is split here: its
`raw_input_contents` become views, and all the rest, some hundred bytes, goes to that parser, which
decides what is valid. Whatever is not plain here goes to it whole. (Protocol Buffers documentation,
"Encoding".)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

__all__ = [
    "MOST_FIELDS",
    "Nested",
    "TooManyFieldsError",
    "TooManyNumbersError",
    "check_fields",
    "field",
    "split",
]

#: The fields of a message that are messages, by number, with theirs; None for packed varints.
Nested: TypeAlias = "Mapping[int, Nested | None]"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BEGIN_GROUP, _END_GROUP = 3, 4
#: Of a varint: a tag of 32 bits, and a length of less than 2 GiB.
_LONGEST = 5
#: Of any varint.
_LONGEST_EVER = 10
#: Of a message with those in it: requests have some dozens, and each costs time.
MOST_FIELDS = 10_000
#: What is in a field that is neither a message nor packed, and in a group, which nobody knows.
_NEITHER: Nested = {}


class TooManyFieldsError(Exception):
    """A message whose fields nobody should read."""


class TooManyNumbersError(Exception):
    """A message whose packed numbers nobody should read."""


class _NotPlainError(Exception):
    """What only protobuf's parser can judge."""


def split(data: bytes, number: int) -> tuple[bytes, list[memoryview]] | None:
    """Take a field of bytes out of a message, without a copy of it.

    Args:
        data: a whole message.
        number: of the field, which is repeated bytes.

    Returns:
        The message without the field, and views of each of its values in their order. None for a
        message that is cut off, or holds what protobuf's parser alone should judge.

    Raises:
        TooManyFieldsError: for a message of more fields than any request has.
    """
    rest: list[memoryview] = []
    values: list[memoryview] = []
    view, place, kept, fields = memoryview(data), 0, 0, 0
    try:
        while place < len(data):
            start, fields = place, fields + 1
            if fields > MOST_FIELDS:
                raise TooManyFieldsError
            tag, place = _varint(data, place)
            kind = tag & 7
            if kind == _BYTES:
                size, place = _varint(data, place)
                end = place + size
            elif kind == _VARINT:
                end = _varint(data, place)[1]
            elif kind in (_FIXED32, _FIXED64):
                end = place + (4 if kind == _FIXED32 else 8)
            else:
                return None
            if end > len(data) or tag < 8:
                return None
            if kind == _BYTES and tag >> 3 == number:
                values.append(view[place:end])
                rest.append(view[kept:start])
                kept = end
            place = end
    except (_NotPlainError, IndexError):
        return None
    rest.append(view[kept:])
    return b"".join(rest), values


def check_fields(data: bytes, nested: Nested, most_numbers: int) -> None:
    """Count the fields of a message and of those in it, before a parser makes something of each.

    What a parser will refuse is counted up to there.

    Args:
        data: a whole message.
        nested: what is in it.
        most_numbers: that may be packed as varints.

    Raises:
        TooManyFieldsError: for more fields than any request has.
        TooManyNumbersError: for more packed varints.
    """
    if len(data) <= MOST_FIELDS:
        return
    place, fields, left, open_messages = 0, 0, most_numbers, [(len(data), nested)]
    try:
        while open_messages:
            end, inside = open_messages[-1]
            if place >= end:
                open_messages.pop()
                continue
            fields += 1
            if fields > MOST_FIELDS:
                raise TooManyFieldsError
            tag, place = _any_varint(data, place)
            kind, number = tag & 7, (tag & 0xFFFFFFFF) >> 3
            if kind == _VARINT:
                place = _any_varint(data, place)[1]
            elif kind == _BYTES:
                size, place = _any_varint(data, place)
                message = inside.get(number, _NEITHER)
                if message is None:
                    left = _less_packed(left, data, place, size)
                if message:
                    open_messages.append((place + size, message))
                else:
                    place += size
            elif kind in (_FIXED32, _FIXED64):
                place += 4 if kind == _FIXED32 else 8
            elif not _entered_or_left(kind, open_messages):
                return
    except IndexError:
        return


def _entered_or_left(kind: int, open_messages: list[tuple[int, Nested]]) -> bool:
    """Go into a group, whose fields have other numbers than the message, or out of the last one."""
    end, inside = open_messages[-1]
    if kind == _BEGIN_GROUP:
        open_messages.append((end, _NEITHER))
    elif kind == _END_GROUP and inside is _NEITHER:
        open_messages.pop()
    else:
        return False
    return True


def _less_packed(left: int, data: bytes, place: int, size: int) -> int:
    """Return how many varints may be left behind these; each ends with a byte below 128."""
    if size > left * _LONGEST_EVER:
        raise TooManyNumbersError
    found = np.frombuffer(data, np.int8)[place : place + size]
    left -= int(np.count_nonzero(found >= 0))
    if left < 0:
        raise TooManyNumbersError
    return left


def _any_varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a number of at most 70 bits, however it is written, and its end."""
    value = 0
    for index in range(_LONGEST_EVER):
        byte = data[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise IndexError


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a number of at most 32 bits that is written in seven bits a byte, and its end."""
    value = data[place]
    if value < 0x80:
        return value, place + 1
    value &= 0x7F
    for index in range(1, _LONGEST):
        byte = data[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 or value >= 2**31:  # written longer than it need be, or too large
                break
            return value, place + index + 1
    raise _NotPlainError


def field(number: int, values: Iterable[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return a field of repeated bytes as parts of a message, to be joined."""
    parts: list[bytes | memoryview] = []
    for value in values:
        size = memoryview(value).nbytes
        parts += (bytes((number << 3 | _BYTES,)) + _as_varint(size), value)
    return parts


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
