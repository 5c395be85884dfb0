"""One number names what a map is asked for: a class alone, or one class and not another.

A class keeps its number, and -1 is the likeliest class of its place. Numbers below -1 are
contrasts. Of C classes, class y and not class z is -1 - (z + 1 + (C + 1) * (y + 1)); the likeliest
class and not class z has y = -1, which makes it -2 - z. So a class number that is too large is no
contrast, and whoever sends it is told.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ALONE",
    "CAN_CONTRAST",
    "LIKELIEST",
    "decode_contrast",
    "encode_contrast",
    "is_question",
]

#: In place of a class: the likeliest of its place.
LIKELIEST = -1
#: In place of the other class, where a class is explained alone.
ALONE = -1
#: Graphs of more classes have no contrasts: some runtimes compute integers in 32 bits.
MOST_CLASSES = 46_339
#: Numbers of classes whose contrasts can be asked for.
CAN_CONTRAST = range(2, MOST_CLASSES + 1)


def encode_contrast(
    class_ids: NDArray[np.integer[Any]], versus: NDArray[np.integer[Any]] | int, classes: int
) -> NDArray[np.int64]:
    """Return what `class_ids` of a graph says for classes and not others, int64.

    Args:
        class_ids: of any shape, 0 to C-1, or `LIKELIEST`.
        versus: the other classes, 0 to C-1, of a shape that broadcasts; `ALONE` for none.
        classes: C.
    """
    own, other = np.asarray(class_ids, np.int64), np.asarray(versus, np.int64)
    code = other + 1 + (classes + 1) * (own + 1)
    return np.where(other == ALONE, own, -1 - code)


def decode_contrast(
    questions: NDArray[np.integer[Any]], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the classes and the others that questions name: the inverse of `encode_contrast`."""
    given = np.asarray(questions, np.int64)
    own, other = np.divmod(-1 - given, classes + 1)
    alone = given >= 0
    return np.where(alone, given, own - 1), np.where(alone, ALONE, other - 1)


def is_question(questions: NDArray[np.integer[Any]], classes: int) -> NDArray[np.bool_]:
    """Return which numbers mean something to a graph that has contrasts, as booleans."""
    own, other = decode_contrast(questions, classes)
    known = (own < classes) & (encode_contrast(own, other, classes) == questions)
    return np.asarray(known, np.bool_)
