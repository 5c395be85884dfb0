"""Which levels of 16 bits count: those of a reader of pictures, and those of a graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from tame_deploy.artifact.types import ImageSpec, InputKind
from tame_deploy.errors import InputError

__all__ = ["Window", "check_window", "graph_image", "parse_window"]

#: The levels of 16-bit grey that become 0 and 255.
Window: TypeAlias = "tuple[int, int]"

#: Windows of 16 bits that have a name; None is each picture's own.
_WINDOWS: dict[str, Window | None] = {"full": (0, 65535), "own": None}


def parse_window(text: str) -> Window:
    """Return a window of levels (see `load_image`) from words such as "0,4095".

    Raises:
        InputError: for anything but two integers, the first below the second.
    """
    try:
        low, high = (int(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"found window {text!r}; expected two levels, such as 0,4095") from None
    if low >= high:
        raise InputError(f"found window {text!r}; expected its first level below its second")
    return low, high


def check_window(window: Window | None, spec: ImageSpec) -> None:
    """Check that a network does not have a window of its own.

    Raises:
        InputError: if it has.
    """
    if window is not None and spec.dtype == "uint16":
        own = f"{spec.window[0]},{spec.window[1]}" if spec.window else "each picture's own"
        raise InputError(
            f"found window {window[0]},{window[1]} for pictures; the graph has its own ({own}), "
            "so leave it out, or export with another --window"
        )


def graph_image(image: ImageSpec, graph_input: InputKind | None, window: str | None) -> ImageSpec:
    """Return how pictures are prepared for a graph.

    Args:
        image: how the backbone takes them.
        graph_input: what the graph takes; by default levels, of as many bits as the backbone.
        window: "low,high", "full", or "own" for each picture's own; the backbone's by default.

    Raises:
        InputError: for a window that is none, or where the graph does not take 16 bits.
    """
    own: InputKind = "uint16" if image.dtype == "uint16" else "uint8"
    chosen = image.for_input(graph_input or own)
    if window is None:
        return chosen
    if chosen.dtype != "uint16":
        raise InputError(
            f"--window is for --input uint16, found {chosen.dtype}; leave it out, or give a window "
            "where 16-bit pictures are explained"
        )
    if window in _WINDOWS:
        return replace(chosen, window=_WINDOWS[window])
    try:
        return replace(chosen, window=parse_window(window))
    except InputError as error:
        raise InputError(f"--window: {error}; or expected full, or own") from None
