"""Why torch could not export a network, in one line that says whose code it was and what to do."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import torch

__all__ = ["CONSTANT_BATCH", "LOST_EPSILON", "explain_failure"]

#: What a graph is that takes as many pictures as the exporter was shown.
CONSTANT_BATCH = (
    "the backbone turns the number of pictures into a constant, by int(x.shape[0]), len(x) or a "
    "loop over the pictures; use x.shape[0] itself, or -1 in its place"
)

#: onnxscript's optimizer takes an added constant of so little for zero, and leaves it out.
LOST_EPSILON = (
    "if the backbone adds a constant of 1e-8 or less before a division or a root, the exporter "
    "leaves that out: take 1e-6"
)

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: Whose code is not the backbone's.
_LIBRARIES = (Path(torch.__file__).parent, Path(__file__).parents[1])


def explain_failure(error: BaseException) -> str:
    """Return a line on an error of the exporter, which wraps what happened in pages of advice."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = _COLOURS.sub("", str(root)).strip()
    where = _place(root)
    if "data-dependent" in text:
        return (
            f"the backbone looks at the values of the pictures{where}: an if, a loop, .item() or "
            "float() of a tensor, which one graph for all pictures cannot hold; compute both sides "
            "and choose with torch.where"
        )
    if "pecializ" in text or "Constraints violated" in text:
        return CONSTANT_BATCH + where
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if "rror" in line), lines[0] if lines else "")
    named = f"{type(root).__name__}: {reason}" if reason else type(root).__name__
    return f"torch cannot export this network{where}: {named:.300}"


def _place(error: BaseException) -> str:
    """Return the innermost line of neither torch nor this package that led to an error."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in _LIBRARIES):
            return f" in {path.name}, line {frame.lineno}"
    return ""
