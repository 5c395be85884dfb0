"""JSON that came over the network: bounded before it is parsed, and parsed to the letter."""

from __future__ import annotations

import gc
import re
from dataclasses import dataclass
from typing import Any

import orjson

from tame_deploy.serving.faults import Fault, RequestError

__all__ = ["JsonBounds", "parse_json"]

#: Everything else stands still while JSON is parsed; raw tensors have no such bound.
_MOST_JSON = 16 * 2**20
#: What is no longer is parsed in less time than it takes to look at it first.
_SHORT_JSON = 64 * 1024
#: What any request may hold beside the numbers of its pictures.
_BESIDES = 100_000
#: What JSON does not have, and many programs write all the same.
_CONSTANT = re.compile("-?(NaN|Infinity)")


@dataclass(frozen=True)
class JsonBounds:
    """How much JSON the largest request can need.

    Attributes:
        values: numbers of its pictures.
        lists: that they stand in, nested as their shape is.
    """

    values: int
    lists: int

    def check(self, text: bytes) -> None:
        """Check a text that was not parsed yet.

        Raises:
            RequestError: if it holds more than any request needs.
        """
        if len(text) > _MOST_JSON:
            raise _too_much(f"{len(text)} bytes of JSON", _MOST_JSON)
        if len(text) <= _SHORT_JSON:
            return
        for mark, most, what in (
            (b",", self.values, "values"),
            (b"[", self.lists, "lists"),
            (b":", 0, "names"),
        ):
            found = text.count(mark)
            if found > most + _BESIDES:
                raise _too_much(f"{found} {what} in JSON", most + _BESIDES)


def _too_much(found: str, most: int) -> RequestError:
    words = f"{found} are more than {most}; send tensors as raw bytes"
    return RequestError(words, Fault.TOO_LARGE)


def parse_json(text: bytes | memoryview) -> Any:
    """Return what a text of JSON says; the last of equal names counts.

    Raises:
        RequestError: if it is not JSON, or nested over 1024 deep.
    """
    # Lists by the hundred thousand would start the collector again and again, which finds nothing.
    pausing = len(text) > _SHORT_JSON and gc.isenabled()
    if pausing:
        gc.disable()
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        constant = _CONSTANT.search(error.doc, max(0, error.pos - 1), error.pos + 9)
        if constant:
            words = f"the request has {constant[0]}, which is no JSON"
        elif "depth" in error.msg or "ecursion" in error.msg:  # as older ones say it
            words = "the request is not valid JSON: nested too deeply"
        else:
            words = f"the request is not valid JSON: {error.msg}"
        raise RequestError(words) from None
    finally:
        if pausing:
            gc.enable()
