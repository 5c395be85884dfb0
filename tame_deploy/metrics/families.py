"""The metrics: a batch of explained pictures in, a number a picture out.

Every metric is a mean over pictures of what its function returns, so that a whole data set streams
by and confidence intervals come from resampling pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.task import THRESHOLD
from tame_deploy.artifact.types import Task
from tame_deploy.errors import InputError
from tame_deploy.metrics.masking import heat_of, keep_highest, ranks
from tame_deploy.metrics.road import impute
from tame_deploy.metrics.similarity import pearson

__all__ = [
    "ASKING_FOR_MAPS",
    "DEFAULT_METRICS",
    "METRICS",
    "RANDOMISATION",
    "ROAD_PERCENTS",
    "SHARES",
    "ExplainedBatch",
    "Scores",
    "chance",
    "check_metrics",
    "gini",
]

Scores: TypeAlias = dict[str, NDArray[np.floating[Any]]]
Classify: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]
Explain: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]

#: Shares of pixels that AD and IC keep, in percent (TAME, section IV).
SHARES = (100, 50, 15)
#: Shares of pixels that ROAD removes, in percent (Rong et al., ICML 2022; as TAME's code).
ROAD_PERCENTS = (10, 20, 30, 40, 50, 70, 90)
#: Pixels are inserted and deleted in this many equal portions.
PORTIONS = 28
#: Noise that a map should withstand: how far a pixel in [0, 1] may move, and how often it is drawn.
NOISE_RADIUS = 0.02
NOISE_DRAWS = 10


@dataclass(frozen=True, kw_only=True)
class ExplainedBatch:
    """Pictures, their maps, and a way to ask the classifier again.

    Attributes:
        pixels: float32 (B, H, W, channels) in [0, 1].
        heat: float32 (B, H, W) in [0, 1], the map of the predicted class at picture resolution.
        class_ids: int64 (B), the classes predicted for the pictures.
        confidences: float (B), their probabilities.
        masks: where the object is, bool (H, W) each, or None.
        indices: numbers of the pictures, which seed what is random.
        classify: probabilities (N, C) of pictures (N, H, W, channels).
        explain: the maps (B, H, W), as `heat`, of the same classes for other pixels; None where
            nobody can ask for the map of a given class.
        task: what the classifier's logits mean.
    """

    pixels: NDArray[np.float32]
    heat: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    confidences: NDArray[np.floating[Any]]
    masks: Sequence[NDArray[np.bool_] | None]
    indices: Sequence[int]
    classify: Classify
    explain: Explain | None = None
    task: Task = "multiclass"

    def confidence_in(self, pixels: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability (B) of each picture's class, given other pixels for it."""
        rows = np.arange(len(pixels))
        return self.classify(pixels)[rows, self.class_ids].astype(np.float64)

    def heat_for(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the map (B, H, W) of each picture's class, given other pixels for it.

        Raises:
            InputError: where nobody can ask for the map of a given class.
        """
        if self.explain is None:
            raise InputError(
                "this graph explains the classes that it predicts and no others, and "
                f"{', '.join(ASKING_FOR_MAPS)} need the map of a given class; export with "
                "--explain selectable"
            )
        return self.explain(pixels)

    def keeps_class(self, pixels: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return 1 where a picture is still given its class with other pixels, else 0; (B).

        A label is kept while it is at least as likely as not, whatever the others are. NaN for a
        picture that no label was given to before.
        """
        if self.task != "multilabel":
            return np.asarray(self.classify(pixels).argmax(axis=1) == self.class_ids, np.float64)
        kept = self.confidence_in(pixels) >= THRESHOLD
        return np.where(self.confidences >= THRESHOLD, kept, np.nan)


def average_drop_and_increase(batch: ExplainedBatch) -> Scores:
    """AD = 100 max(0, Y - O) / Y and IC = 100 [O > Y] (Chattopadhyay et al., WACV 2018).

    Y and O are the probability of the class predicted for the whole picture, whole and masked: a
    softmax, or of a multi-label classifier a sigmoid.
    """
    scores: Scores = {}
    before = batch.confidences.astype(np.float64)
    for share in SHARES:
        mask = keep_highest(batch.heat, share)[..., None]  # (B, H, W, 1)
        after = batch.confidence_in(batch.pixels * mask)
        scores[f"average_drop_{share}"] = 100 * np.maximum(0, before - after) / before
        scores[f"increase_{share}"] = 100.0 * (after > before)
    return scores


def road(batch: ExplainedBatch) -> Scores:
    """Percent that keep their class when pixels are imputed (ROAD; Rong et al., ICML 2022).

    What keeping a class means is `ExplainedBatch.keeps_class`.

    Most relevant pixels first (less is better), and least relevant first (more is better).
    """
    scores: Scores = {}
    places = ranks(batch.heat)
    last = 1 - 1 / places[0].size
    for order, ordered in (("most", places), ("least", last - places)):
        for percent in ROAD_PERCENTS:
            removed = ordered < percent / 100
            filled = [
                impute(picture, gone, seed=(index, percent))
                for picture, gone, index in zip(batch.pixels, removed, batch.indices, strict=True)
            ]
            scores[f"road_{order}_{percent}"] = 100 * batch.keeps_class(np.stack(filled))
        curve = [scores[f"road_{order}_{percent}"] for percent in ROAD_PERCENTS]
        scores[f"road_{order}"] = np.mean(curve, axis=0)
    return scores


def insertion_and_deletion(batch: ExplainedBatch) -> Scores:
    """Area under the class probability as pixels come or go, highest first (RISE, BMVC 2018).

    Insertion starts from the blurred picture (11x11 Gaussian, sigma 5) and deletion ends in black.
    """
    from scipy.ndimage import gaussian_filter

    scores: Scores = {}
    places = ranks(batch.heat)[..., None]
    blurred = gaussian_filter(batch.pixels, sigma=5, truncate=1, axes=(1, 2), mode="nearest")
    steps = [round(100 * portion / PORTIONS, 1) for portion in range(PORTIONS + 1)]
    for name, shown, hidden in (
        ("insertion", batch.pixels, blurred),
        ("deletion", np.zeros_like(batch.pixels), batch.pixels),
    ):
        curve = []
        for step in steps:
            pixels = np.where(places < step / 100, shown, hidden)
            curve.append(100 * batch.confidence_in(pixels))
            scores[f"{name}_{step:g}"] = curve[-1]
        middle = np.sum(curve[1:-1], axis=0)
        scores[name] = ((curve[0] + curve[-1]) / 2 + middle) / PORTIONS  # trapezoidal rule
    return scores


def localisation(batch: ExplainedBatch) -> Scores:
    """Pointing game (Zhang et al., IJCV 2018; no tolerance) and share of the map on the object.

    NaN for pictures without a mask, or whose object the crop has cut off.
    """
    hits = np.full(len(batch.heat), np.nan)
    energy = np.full(len(batch.heat), np.nan)
    for row, (heat, mask) in enumerate(zip(batch.heat, batch.masks, strict=True)):
        if mask is None or not mask.any():
            continue
        hits[row] = 100.0 * mask[np.unravel_index(heat.argmax(), heat.shape)]
        total = float(heat.sum())
        energy[row] = 100 * float(heat[mask].sum()) / total if total else 0.0
    return {"pointing_game": hits, "energy_inside": energy}


def entropy(batch: ExplainedBatch) -> Scores:
    """Shannon entropy of the map as a distribution, 0 for one pixel, 1 for a uniform map."""
    flat = batch.heat.reshape(len(batch.heat), -1).astype(np.float64)
    total = flat.sum(axis=1, keepdims=True)
    # A map of zeros says nothing, as a uniform one does.
    shares = np.where(total > 0, flat / np.where(total > 0, total, 1), 1 / flat.shape[1])
    logs = np.log(np.where(shares > 0, shares, 1))
    return {"map_entropy": -(shares * logs).sum(axis=1) / np.log(flat.shape[1])}


def gini(maps: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the Gini index (N) of the absolute values of maps (N, ...), in [0, 1].

    0 says that all places weigh the same (also of a map of zeros), 1 - 1/places that one has it
    all. The scale of a map changes nothing (Hurley and Rickard, IEEE Trans. Inf. Theory 2009).
    """
    flat = np.sort(np.abs(maps.reshape(len(maps), -1).astype(np.float64)), axis=1)
    places = flat.shape[1]
    total = flat.sum(axis=1)
    weights = 2 * np.arange(1, places + 1) - places - 1
    index = (flat @ weights) / (places * np.where(total > 0, total, 1))
    return np.asarray(np.clip(index, 0, 1), np.float64)


def sparsity(batch: ExplainedBatch) -> Scores:
    """Gini index of the map in percent (sparseness; Chalasani et al., ICML 2020).

    0 for a map that is the same everywhere, 100 for one with a single bright pixel.
    """
    return {"sparsity": 100 * gini(batch.heat)}


def adcc(batch: ExplainedBatch) -> Scores:
    """ADCC, coherency and complexity in percent (Poppi et al., CVPR Workshops 2021).

    ADCC is the harmonic mean of coherency, 100 - complexity and 100 - average drop, each picture's
    own. Coherency is (1 + r) / 2, r being Pearson's correlation of the map with the map of the
    picture that the map was multiplied into; complexity the mean of the map.
    """
    masked = batch.pixels * batch.heat[..., None]
    before = batch.confidences.astype(np.float64)
    drop = np.maximum(0, before - batch.confidence_in(masked)) / before
    coherency = (1 + pearson(batch.heat, batch.heat_for(masked))) / 2
    complexity = batch.heat.mean(axis=(1, 2), dtype=np.float64)
    parts = np.stack([coherency, 1 - complexity, 1 - drop])
    nothing = (parts <= 0).any(axis=0)
    mean = 3 / (1 / np.where(parts <= 0, 1, parts)).sum(axis=0)
    return {
        "adcc": 100 * np.where(nothing, 0, mean),
        "coherency": 100 * coherency,
        "complexity": 100 * complexity,
    }


def sensitivity(batch: ExplainedBatch) -> Scores:
    """How far noise moves the map, in percent of its norm (Yeh et al., NeurIPS 2019).

    |map(x + noise) - map(x)| / |map(x)|, the largest and the mean of `NOISE_DRAWS` draws of uniform
    noise of at most `NOISE_RADIUS`. Maps are of the class of the picture without noise.
    """
    size = np.linalg.norm(batch.heat.reshape(len(batch.heat), -1), axis=1)
    moves = []
    for draw in range(NOISE_DRAWS):
        noise = [
            np.random.default_rng((index, draw)).uniform(-NOISE_RADIUS, NOISE_RADIUS, picture.shape)
            for index, picture in zip(batch.indices, batch.pixels, strict=True)
        ]
        noisy = np.clip(batch.pixels + np.stack(noise), 0, 1).astype(np.float32)
        difference = (batch.heat_for(noisy) - batch.heat).reshape(len(size), -1)
        moved = np.linalg.norm(difference, axis=1)
        # A flat map has no size, so there is no saying how far it moved.
        moves.append(np.where(size > 0, moved / np.where(size > 0, size, 1), np.nan))
    return {
        "sensitivity_max": 100 * np.max(moves, axis=0),
        "sensitivity_average": 100 * np.mean(moves, axis=0),
    }


def chance(batch: ExplainedBatch) -> Scores:
    """AD at 50 % of a map of noise, 7x7, enlarged: what the map of the same picture must beat."""
    cells = [
        np.random.default_rng((index, 0)).random((7, 7), np.float32) for index in batch.indices
    ]
    noise = heat_of(np.stack(cells), *batch.heat.shape[1:])
    before = batch.confidences.astype(np.float64)
    after = batch.confidence_in(batch.pixels * keep_highest(noise, 50)[..., None])
    return {"chance_average_drop_50": 100 * np.maximum(0, before - after) / before}


#: Families of metrics by the name that `--metrics` takes, of one batch each.
METRICS: Mapping[str, Callable[[ExplainedBatch], Scores]] = {
    "ad-ic": average_drop_and_increase,
    "insertion-deletion": insertion_and_deletion,
    "road": road,
    "localisation": localisation,
    "entropy": entropy,
    "sparsity": sparsity,
    "adcc": adcc,
    "sensitivity": sensitivity,
}
#: The family that needs the network itself, to be randomised, and not its answers alone.
RANDOMISATION = "randomisation"
#: What is measured if nobody says what: all that needs no other network.
DEFAULT_METRICS = tuple(METRICS)
#: Families that need maps of a given class.
ASKING_FOR_MAPS = ("adcc", "sensitivity", RANDOMISATION)


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of families, each once.

    Raises:
        InputError: for an unknown one, or none.
    """
    known = (*METRICS, RANDOMISATION)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise InputError(
            f"unknown metric {unknown[0] if unknown else ''!r}; expected {', '.join(known)}"
        )
    return tuple(dict.fromkeys(names))
