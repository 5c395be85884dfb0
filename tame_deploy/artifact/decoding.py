"""What a JSON or TOML file says into dataclasses, checked key by key: a file is not believed."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from tame_deploy.errors import InputError, ManifestError, TameError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["JSON", "TOML", "Format", "decode", "parse_object", "read_toml"]

#: Escapes of JSON strings; the group is there in those that are half of a pair and stand alone.
_ESCAPES = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F])|.)")

_TYPE_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


class Format(NamedTuple):
    """What is raised for a file of a format that is wrong, and how it calls names with values."""

    error: type[TameError]
    table: str


#: The files of an artifact.
JSON = Format(ManifestError, "an object")
#: The files that a user writes.
TOML = Format(InputError, "a table")


def parse_object(text: str, name: str) -> dict[str, Any]:
    """Return the JSON object in a text; `name` is what messages call it.

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


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file's table.

    Raises:
        InputError: if it cannot be read or is not TOML.
    """
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, or not TOML
        raise InputError(f"{path} is not TOML: {error}") from None
    return table


def decode(  # noqa: PLR0911  (one return a kind of type)
    kind: Any, value: Any, where: str, form: Format = JSON
) -> Any:
    """Turn plain values into a dataclass or another type, refusing what does not fit to the letter.

    Whole numbers may stand for floats, and lists for tuples; nothing else is converted.

    `where` is the value's place in the file, as in "manifest.image"; "" is the whole file.

    Raises:
        TameError: the format's error, naming the place, what was found and what was expected. An
            InputError of a dataclass's own checks becomes that error too, with the place before it.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where, form)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise _mismatch(where, value, f"one of {', '.join(arguments)}", form)
        return value
    if origin in (typing.Union, types.UnionType):
        members = [member for member in arguments if member is not type(None)]
        if value is None and len(members) < len(arguments):
            return None
        listed = isinstance(value, (list, tuple))
        fitting = next(
            (m for m in members if type(value) is m or (listed and typing.get_origin(m) is tuple)),
            members[0],
        )
        return decode(fitting, value, where, form)
    if origin is tuple:
        return _decode_tuple(arguments, value, where, form)
    if origin is dict:
        return _decode_dict(arguments[1], value, where, form)
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not kind:
        raise _mismatch(where, value, _TYPE_NAMES[kind], form)
    return value


def _decode_tuple(
    arguments: tuple[Any, ...], value: Any, where: str, form: Format
) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _mismatch(where, value, "a list", form)
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise form.error(f"{where} has {len(value)} entries; expected {len(arguments)}")
    pairs = enumerate(zip(arguments, value, strict=True))
    return tuple(decode(kind, item, f"{where}[{index}]", form) for index, (kind, item) in pairs)


def _decode_dict(kind: Any, value: Any, where: str, form: Format) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _mismatch(where, value, form.table, form)
    return {key: decode(kind, item, _inside(where, key), form) for key, item in value.items()}


def _decode_dataclass(kind: Any, value: Any, where: str, form: Format) -> Any:
    if not isinstance(value, Mapping):
        raise _mismatch(where, value, form.table, form)
    _check_keys(kind, value.keys(), where, form)
    hints = typing.get_type_hints(kind)
    decoded = {
        name: decode(hints[name], item, _inside(where, name), form) for name, item in value.items()
    }
    try:
        return kind(**decoded)
    except InputError as error:
        raise form.error(f"{where}: {error}" if where else str(error)) from None


def _check_keys(kind: Any, found: Iterable[str], where: str, form: Format) -> None:
    fields = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(found) - fields.keys())
    if unknown:
        place, near = _inside(where, unknown[0]), difflib.get_close_matches(unknown[0], fields, 1)
        hint = f"did you mean {_inside(where, near[0])}?" if near else f"known: {_listed(fields)}"
        raise form.error(f"unknown key {place}; {hint}")
    missing = [
        _inside(where, name)
        for name, item in fields.items()
        if name not in set(found)
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise form.error(f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _inside(where: str, key: str) -> str:
    """Name the place of a key, in one line whatever the key is, as libtame does."""
    shown = json.dumps(key)[1:-1]
    return f"{where}.{shown}" if where else shown


def _mismatch(where: str, value: Any, expected: str, form: Format) -> TameError:
    return form.error(f"{where or 'the file'} is {value!r:.60}; expected {expected}")
