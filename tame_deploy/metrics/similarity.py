"""How far maps of the same pictures are apart, and the predictions of two graphs for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tame_deploy.metrics.evaluation_set import NormalisedPredictions

__all__ = ["correlations", "overlaps", "pearson", "spearman", "squared_error"]


def pearson(
    first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return Pearson's correlation (N) of each pair of maps (N, h, w); 0 where one is flat."""
    a, b = _centred(first), _centred(second)
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    values: NDArray[np.float64] = (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)
    return np.clip(values, -1, 1)


def spearman(
    first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return Spearman's correlation (N) of each pair of maps (N, h, w); 0 where one is flat.

    Places with equal values share the mean of their ranks.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    return pearson(*ranks)


def correlations(
    expected: NormalisedPredictions, found: NormalisedPredictions
) -> NDArray[np.float64]:
    """Return Pearson's correlation of each pair of maps (N); two flat maps agree, one does not."""
    a, b = (_centred(predictions.maps) for predictions in (expected, found))
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    values = (a * b).sum(axis=1) / np.maximum(norms, 1e-12)
    either = expected.flat | found.flat
    return np.where(either, (expected.flat & found.flat).astype(float), values)


def _centred(maps: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    centred: NDArray[np.float64] = flat - flat.mean(axis=1, keepdims=True)
    return centred


def overlaps(
    expected: NormalisedPredictions, found: NormalisedPredictions, share: float
) -> NDArray[np.float64]:
    """Return the intersection over union (N) of the highest `share` of two maps' area."""
    tops = []
    for predictions in (expected, found):
        flat = predictions.maps.reshape(len(predictions.maps), -1)
        count = max(1, round(share * flat.shape[1]))
        highest = np.argsort(-flat, axis=1, kind="stable")[:, :count]
        top = np.zeros(flat.shape, bool)
        np.put_along_axis(top, highest, True, axis=1)
        tops.append(top)
    both, either = (tops[0] & tops[1]).sum(axis=1), (tops[0] | tops[1]).sum(axis=1)
    shares: NDArray[np.float64] = both / either
    return shares


def squared_error(expected: NormalisedPredictions, found: NormalisedPredictions) -> float:
    """Return the joint error of logits and maps: the share of the signal's power that is lost.

    Each part is 0 for equal predictions and about 1 for unrelated ones: squared differences of
    logits by the variance of the expected ones (what softmax ignores, a common shift, left out,
    except from a multi-label classifier's, which are no softmax's), and 1 - r^2 of the maps.
    """
    difference = (found.logits - expected.logits).astype(np.float64)
    if expected.task != "multilabel":
        difference = _centred(difference)
    variance = (_centred(expected.logits) ** 2).sum(axis=1)
    of_logits = (difference**2).sum(axis=1) / np.maximum(variance, 1e-12)
    of_maps = 1 - np.maximum(correlations(expected, found), 0) ** 2
    return float(np.mean(of_logits + of_maps))
