"""Plain JSON into dataclasses, checked field by field: what a file says is not believed."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from typing import Any, Literal, NoReturn

from tame_deploy.errors import InputError, ManifestError

__all__ = ["decode", "parse_object"]

#: Escapes of JSON strings; the group is there in those that are half of a pair and stand alone.
_ESCAPES = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F])|.)")


def parse_object(text: str, name: str) -> dict[str, Any]:
    """Return the JSON object in a text.

    Raises:
        ManifestError: if it is none, or holds NaN, infinity or what is not Unicode.
    """
    try:
        raw = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if any(escape[1] for escape in _ESCAPES.finditer(text)):
            raise ValueError("half of a surrogate pair is not Unicode")
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ManifestError(f"{name} holds a {type(raw).__name__}; expected an object")
    return raw


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.60} is beyond what a float holds")
    return value


def decode(kind: Any, value: Any, where: str) -> Any:  # noqa: PLR0911  (one return a kind of type)
    """Turn plain JSON into `kind`, a dataclass or a type, refusing what does not fit to the letter.

    Raises:
        ManifestError: naming the place, what was found and what was expected.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise ManifestError(f"{where} is {value!r}; expected one of {', '.join(arguments)}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        members = [member for member in arguments if member is not type(None)]
        fitting = [member for member in members if type(value) is member]
        return decode(fitting[0] if fitting else members[0], value, where)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _mismatch(where, value, "an object")
        return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not kind:
        raise _mismatch(where, value, kind.__name__)
    return value


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _mismatch(where, value, "a list")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ManifestError(f"{where} has {len(value)} entries; expected {len(arguments)}")
    pairs = enumerate(zip(arguments, value, strict=True))
    return tuple(decode(kind, item, f"{where}[{index}]") for index, (kind, item) in pairs)


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(where, value, "an object")
    fields = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(value.keys() - fields.keys())
    missing = sorted(
        name
        for name, item in fields.items()
        if name not in value
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        problem = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
        raise ManifestError(f"{where} does not have the expected fields ({problem})")
    hints = typing.get_type_hints(kind)
    decoded = {name: decode(hints[name], item, f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(**decoded)
    except InputError as error:
        raise ManifestError(f"{where}: {error}") from None


def _mismatch(where: str, value: Any, expected: str) -> ManifestError:
    return ManifestError(f"{where} is {type(value).__name__} {value!r:.60}; expected {expected}")
