"""Which classes a graph is asked to explain: what callers may write, checked and completed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.manifest import GraphSpec
from tame_deploy.errors import InputError

__all__ = ["ClassIds", "resolve_class_ids"]

ClassIds: TypeAlias = "int | Sequence[int] | Sequence[Sequence[int]] | NDArray[np.integer[Any]]"


def resolve_class_ids(
    graph: GraphSpec,
    classes: int,
    count: int,
    class_ids: ClassIds | None = None,
    top_k: int | None = None,
) -> NDArray[np.int64] | None:
    """Return the graph's `class_ids`, int64 (N, K), or None for a graph that takes none.

    Args:
        graph: what the graph can be asked.
        classes: how many classes there are.
        count: N, the number of pictures.
        class_ids: one class for all pictures, K for all pictures, or K for each of them, (N, K);
            -1 in place j is the j-th most likely. The most likely one by default.
        top_k: instead, how many of the most likely classes to explain.

    Raises:
        InputError: for classes that this graph cannot explain.
    """
    if class_ids is not None and top_k is not None:
        raise InputError("found both class_ids and top_k; expected one of them")
    if top_k is not None:
        _check_top_k(top_k)
    if graph.explain != "selectable":
        if class_ids is not None or top_k not in (None, graph.ranks):
            given = "every class" if graph.explain == "all" else f"the top {graph.ranks}"
            raise InputError(
                f"this artifact always explains {given}; to choose, export it with "
                "--explain selectable"
            )
        return None
    if class_ids is None:
        if top_k is not None and not 1 <= top_k <= graph.ranks:
            raise InputError(
                f"top_k is {top_k}; this artifact ranks 1 to {graph.ranks} classes "
                "(export with a larger --top-k for more)"
            )
        class_ids = [-1] * (top_k or 1)
    return _checked(class_ids, classes, count, graph.ranks)


def _check_top_k(top_k: Any) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)):
        raise InputError(f"top_k is {top_k!r}; expected a whole number, such as 3")


def _checked(class_ids: ClassIds, classes: int, count: int, ranks: int) -> NDArray[np.int64]:
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
    ids = np.broadcast_to(np.atleast_1d(ids), (count, np.atleast_1d(ids).shape[-1]))
    lowest = ids.min()
    if lowest < -1 or ids.max() >= classes:
        wrong = ids[(ids < -1) | (ids >= classes)]
        raise InputError(f"class id {wrong[0]} is out of range; expected -1 to {classes - 1}")
    if lowest == -1 and ids.shape[1] > ranks and (ids[:, ranks:] == -1).any():
        raise InputError(
            f"-1 stands in place {ranks + 1} or later; this artifact ranks {ranks} classes "
            "(export with a larger --top-k for more)"
        )
    return np.array(ids, np.int64, order="C")  # a copy: what is broadcast cannot be written
