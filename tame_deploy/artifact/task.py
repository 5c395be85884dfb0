"""What logits mean: the probabilities of a task, and which classes a picture is said to show."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.types import Task

__all__ = ["THRESHOLD", "agreement", "probabilities", "ranked"]

#: The probability from which a label of a multi-label classifier counts as shown.
THRESHOLD = 0.5


def probabilities(logits: NDArray[Any], task: Task) -> NDArray[np.float64]:
    """Return probabilities (N, C) of logits (N, C): a sigmoid each, or a softmax over all.

    A binary network's logits are 0 and its own one, so that their softmax is a sigmoid.
    """
    exact = logits.astype(np.float64)
    if task == "multilabel":
        shares = np.exp(-np.abs(exact))  # at most 1, whatever the logit
        shares = np.where(exact >= 0, 1, shares) / (1 + shares)
    else:
        shares = np.exp(exact - exact.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
    return np.asarray(shares, np.float64)


def ranked(logits: NDArray[Any]) -> NDArray[np.int64]:
    """Return the classes by falling logit, int64 of the same shape; of equal ones the first."""
    return np.asarray(np.argsort(-logits, axis=-1, kind="stable"), np.int64)


def agreement(expected: NDArray[Any], found: NDArray[Any], task: Task) -> NDArray[np.float64]:
    """Return how far two answers name the same classes, float (N) in [0, 1].

    Of several classes, the most likely one is the same or not. Of several labels, it is the
    intersection over union of those at least as likely as not (1 where both name none).

    Args:
        expected: logits (N, C).
        found: logits (N, C).
        task: what they mean.
    """
    if task != "multilabel":
        return np.asarray(expected.argmax(axis=1) == found.argmax(axis=1), np.float64)
    first, second = expected >= 0, found >= 0  # where a sigmoid is at least THRESHOLD
    both, either = (first & second).sum(axis=1), (first | second).sum(axis=1)
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))
