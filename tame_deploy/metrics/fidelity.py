"""Map fidelity: what a change of precision did to predictions and explanations, and the floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from tame_deploy.artifact.manifest import FidelityReport
from tame_deploy.artifact.task import agreement
from tame_deploy.errors import InputError
from tame_deploy.metrics.evaluation_set import NormalisedPredictions
from tame_deploy.metrics.similarity import correlations, overlaps

__all__ = ["Floor", "measure_fidelity", "parse_floor"]


@dataclass(frozen=True)
class Floor:
    """The least that is accepted, in [0, 1].

    `top1` is the agreement on the most likely class, or of multi-label classifiers on the labels
    at least as likely as not (`tame_deploy.artifact.task.agreement`), `iou15` the IoU of the top
    15 % of the maps' area, `pearson5` the 5th percentile of the maps' correlation.
    """

    top1: float = 0.94
    iou15: float = 0.90
    pearson5: float = 0.98

    def shortfalls(self, report: FidelityReport) -> list[str]:
        """Return what is below the floor, in words."""
        return self.shortfalls_of(
            {
                "top1": report.top1_agreement,
                "iou15": report.iou_15,
                "pearson5": report.pearson_5th,
            }
        )

    def shortfalls_of(self, figures: Mapping[str, float]) -> list[str]:
        """Return which figures, by the names of the attributes, are below the floor, in words."""
        words = {
            "top1": "top-1 agreement",
            "iou15": "IoU of the top 15 %",
            "pearson5": "map Pearson, 5th percentile",
        }
        return [
            f"{words[name]} {value:.4f} (floor {getattr(self, name):g})"
            for name, value in figures.items()
            if value < getattr(self, name)
        ]


def parse_floor(text: str | None) -> Floor:
    """Return the floor of "top1=0.96,iou15=0.94"; what is not named keeps its default.

    Raises:
        InputError: for an unknown name, or a number outside [0, 1].
    """
    known = [item.name for item in fields(Floor)]
    values: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, number = (piece.strip() for piece in part.partition("="))
        try:
            values[name] = float(number)
        except ValueError:
            values[name] = -1
        if name not in known or not 0 <= values[name] <= 1:
            raise InputError(
                f"--floor has {part.strip()!r}; expected some of "
                f"{', '.join(f'{item}=NUMBER' for item in known)}, numbers in [0, 1]"
            )
    return Floor(**values)


def measure_fidelity(
    expected: NormalisedPredictions,
    found: NormalisedPredictions,
    names: Sequence[str],
    labels: Sequence[int | None],
    image_size: tuple[int, int],
) -> FidelityReport:
    """Compare a graph with the float32 one it came of; maps are of the class float32 predicts.

    Where a graph cannot be asked for a class, maps count only if both explain the same one.

    Args:
        expected: the float32 graph's predictions.
        found: the other's.
        names: of the pictures.
        labels: their classes, where known.
        image_size: (height, width) in pixels, for the shift of the peak.

    Raises:
        InputError: if no two maps are of the same class.
    """
    same = np.flatnonzero(expected.class_ids == found.class_ids)
    if not len(same):
        raise InputError("the two graphs explain different classes of every picture")
    first, second = expected.rows(same), found.rows(same)
    pearson, spearman = correlations(first, second), _rank_correlations(first, second)
    worst, worst_rank = int(pearson.argmin()), int(spearman.argmin())
    return FidelityReport(
        pictures=len(names),
        maps=len(same),
        top1_agreement=float(agreement(expected.logits, found.logits, expected.task).mean()),
        top5_agreement=_top_agreement(expected.logits, found.logits, 5),
        top1=_accuracy(found, labels),
        top1_fp32=_accuracy(expected, labels),
        logit_cosine=_cosine(expected.logits, found.logits),
        pearson_mean=float(pearson.mean()),
        pearson_5th=float(np.percentile(pearson, 5)),
        pearson_worst=float(pearson[worst]),
        pearson_worst_picture=names[same[worst]],
        spearman_mean=float(spearman.mean()),
        spearman_5th=float(np.percentile(spearman, 5)),
        spearman_worst=float(spearman[worst_rank]),
        spearman_worst_picture=names[same[worst_rank]],
        iou_15=float(overlaps(first, second, 0.15).mean()),
        iou_50=float(overlaps(first, second, 0.50).mean()),
        peak_shift=float(_peak_shifts(first.maps, second.maps, image_size).mean()),
        flat_maps=int(found.flat.sum()),
        flat_maps_fp32=int(expected.flat.sum()),
        average_drop={},
        increase={},
        floor={},
        allowed_below=False,
    )


def _accuracy(predictions: NormalisedPredictions, labels: Sequence[int | None]) -> float | None:
    """Return the share of the labelled pictures that are classified rightly.

    None if no picture is labelled, and of multi-label classifiers, which one class does not judge.
    """
    if predictions.task == "multilabel":
        return None
    known = [i for i, label in enumerate(labels) if label is not None]
    truth = np.array([labels[i] for i in known])
    return float((predictions.predicted[known] == truth).mean()) if known else None


def _rank_correlations(
    expected: NormalisedPredictions, found: NormalisedPredictions
) -> NDArray[np.float64]:
    ranked = [
        replace(
            predictions, maps=rankdata(predictions.maps.reshape(len(predictions.maps), -1), axis=1)
        )
        for predictions in (expected, found)
    ]
    return correlations(*ranked)


def _top_agreement(expected: NDArray[np.float32], found: NDArray[np.float32], count: int) -> float:
    """Return the mean share of the expected `count` likeliest classes that are found as well."""
    count = min(count, expected.shape[1])
    best = [np.argsort(-logits, axis=1, kind="stable")[:, :count] for logits in (expected, found)]
    shared = (best[0][:, :, None] == best[1][:, None, :]).any(axis=2)
    return float(shared.mean())


def _cosine(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    products = (expected * found).sum(axis=1, dtype=np.float64)
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return float((products / np.maximum(norms, 1e-12)).mean())


def _peak_shifts(
    expected: NDArray[np.float32], found: NDArray[np.float32], image_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return how far the highest point moved (N), in pixels of the network's picture."""
    size = expected.shape[1:]
    peaks = [
        np.stack(np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), size), axis=1)
        for maps in (expected, found)
    ]
    pixels = (peaks[0] - peaks[1]) * np.array(image_size) / np.array(size)
    shifts: NDArray[np.float64] = np.linalg.norm(pixels, axis=1)
    return shifts
