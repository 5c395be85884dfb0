"""Which classes a graph is asked to explain: what callers may write, checked and completed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.contrast import (
    CAN_CONTRAST,
    decode_contrast,
    encode_contrast,
    is_question,
)
from tame_deploy.artifact.manifest import GraphSpec
from tame_deploy.errors import InputError

__all__ = ["ClassIds", "check_questions", "resolve_class_ids"]

ClassIds: TypeAlias = "int | Sequence[int] | Sequence[Sequence[int]] | NDArray[np.integer[Any]]"


def resolve_class_ids(
    graph: GraphSpec,
    classes: int,
    count: int,
    class_ids: ClassIds | None = None,
    top_k: int | None = None,
    versus: int | None = None,
) -> NDArray[np.int64] | None:
    """Return the graph's `class_ids`, int64 (N, K), or None for a graph that takes none.

    Args:
        graph: what the graph can be asked.
        classes: how many classes there are.
        count: N, the number of pictures.
        class_ids: one class for all pictures, K for all pictures, or K for each of them, (N, K);
            -1 in place j is the j-th most likely. The most likely one by default.
        top_k: instead, how many of the most likely classes to explain.
        versus: a class whose map is subtracted from each of the others: why those, and not this.

    Raises:
        InputError: for classes that this graph cannot explain.
    """
    if class_ids is not None and top_k is not None:
        raise InputError("found both class_ids and top_k; expected one of them")
    if top_k is not None:
        _check_top_k(top_k)
    if versus is not None:
        _check_versus(graph, classes, versus)
    if graph.explain != "selectable":
        if class_ids is not None or top_k not in (None, graph.ranks):
            raise InputError(
                f"this artifact always explains {_explained_always(graph)}; to choose, export it "
                "with --explain selectable"
            )
        return None
    if class_ids is None:
        if top_k is not None and not 1 <= top_k <= graph.ranks:
            raise InputError(
                f"top_k is {top_k}; this artifact ranks 1 to {graph.ranks} classes "
                "(export with a larger --top-k for more)"
            )
        class_ids = [-1] * (top_k or 1)
    ids = _whole_numbers(class_ids, count)
    wrong = ids[(ids < -1) | (ids >= classes)]
    if wrong.size:
        raise InputError(f"class id {wrong[0]} is out of range; expected -1 to {classes - 1}")
    _check_ranks(ids, graph.ranks)
    if versus is None:
        return np.array(ids, np.int64, order="C")  # a copy: what is broadcast cannot be written
    if (ids == versus).any():
        raise InputError(
            f"class {versus} is to be explained and is also what it is contrasted with; expected "
            "two different classes"
        )
    return encode_contrast(ids, versus, classes)


def check_questions(
    graph: GraphSpec, classes: int, count: int, questions: ClassIds
) -> NDArray[np.int64]:
    """Return what a client sends as the graph's own `class_ids`, int64 (N, K), checked.

    Numbers below -1 are contrasts, where the graph has them (artifact/contrast.py).

    Raises:
        InputError: for numbers that this graph cannot answer.
    """
    ids = _whole_numbers(questions, count)
    if not graph.contrast:
        checked = resolve_class_ids(graph, classes, count, ids)
        assert checked is not None
        return checked
    wrong = ids[~is_question(ids, classes)]
    if wrong.size:
        raise InputError(
            f"class id {wrong[0]} is out of range; expected -1 to {classes - 1}, or the number of "
            "a contrast, which is negative"
        )
    own, versus = decode_contrast(ids, classes)
    same = own[(own >= 0) & (own == versus)]
    if same.size:
        raise InputError(
            f"class {same[0]} is contrasted with itself; expected two different classes"
        )
    _check_ranks(own, graph.ranks)
    return np.array(ids, np.int64, order="C")


def _explained_always(graph: GraphSpec) -> str:
    return "every class" if graph.explain == "all" else f"the top {graph.ranks}"


def _check_versus(graph: GraphSpec, classes: int, versus: Any) -> None:
    """Check that a graph can contrast classes with this one."""
    if graph.explain != "selectable":
        raise InputError(
            f"this artifact always explains {_explained_always(graph)}, each class alone; to "
            "contrast one with another, export it with --explain selectable"
        )
    if not graph.contrast and classes not in CAN_CONTRAST:
        raise InputError(
            f"this artifact has {classes} classes, and none can be contrasted with another; "
            f"expected {CAN_CONTRAST[0]} to {CAN_CONTRAST[-1]} classes"
        )
    if not graph.contrast:
        raise InputError(
            "this artifact's graph cannot contrast classes, because an older tame-deploy wrote "
            "it; export it again"
        )
    if isinstance(versus, bool) or not isinstance(versus, (int, np.integer)):
        raise InputError(f"versus is {versus!r}; expected the number of a class, such as 3")
    if not 0 <= versus < classes:
        raise InputError(f"versus is class {versus}; expected 0 to {classes - 1}")


def _check_top_k(top_k: Any) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)):
        raise InputError(f"top_k is {top_k!r}; expected a whole number, such as 3")


def _whole_numbers(class_ids: ClassIds, count: int) -> NDArray[np.integer[Any]]:
    """Return class ids as whole numbers (N, K), in memory that may be shared."""
    try:
        ids = np.asarray(class_ids)
    except ValueError:
        raise InputError("class_ids has rows of different lengths; expected (N, K)") from None
    if ids.size == 0:
        raise InputError("class_ids is empty; expected at least one class, or leave it out")
    if ids.dtype.kind in "US":
        raise InputError(
            f"class_ids holds the text {str(ids.flat[0])!r}; expected class numbers. "
            "`explainer.class_id(label)` returns the number of a label"
        )
    if ids.dtype.kind not in "iu" or ids.ndim > 2:
        raise InputError(
            f"class_ids is {ids.dtype} of shape {list(ids.shape)}; expected whole numbers: "
            "one class, K classes, or (N, K)"
        )
    if ids.ndim == 2 and len(ids) != count:
        raise InputError(f"class_ids has {len(ids)} rows; expected {count}, one a picture")
    row = np.atleast_1d(ids)
    return np.broadcast_to(row, (count, row.shape[-1]))


def _check_ranks(ids: NDArray[np.integer[Any]], ranks: int) -> None:
    if (ids[:, ranks:] == -1).any():
        raise InputError(
            f"-1 stands in place {ranks + 1} or later; this artifact ranks {ranks} classes "
            "(export with a larger --top-k for more)"
        )
