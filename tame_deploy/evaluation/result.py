"""What an evaluation found: means, confidence intervals, and every picture's own numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tame_deploy.errors import InputError

__all__ = ["TITLES", "Estimate", "Evaluation", "Finding", "bootstrap", "title_of"]

RESAMPLES = 2000
CONFIDENCE = 95

#: What the table shows, in order: name, title, and whether more is better (None: neither).
TITLES: Mapping[str, tuple[str, bool | None]] = {
    "accuracy": ("accuracy %", True),
    "average_drop_100": ("AD 100 %", False),
    "increase_100": ("IC 100 %", True),
    "average_drop_50": ("AD 50 %", False),
    "increase_50": ("IC 50 %", True),
    "average_drop_15": ("AD 15 %", False),
    "increase_15": ("IC 15 %", True),
    "insertion": ("insertion AUC %", True),
    "deletion": ("deletion AUC %", False),
    "road_most": ("ROAD most relevant first %", False),
    "road_least": ("ROAD least relevant first %", True),
    "pointing_game": ("pointing game %", True),
    "energy_inside": ("map inside object %", True),
    "map_entropy": ("map entropy (1: uniform)", None),
    "sparsity": ("sparsity (Gini) %", None),
    "adcc": ("ADCC %", True),
    "coherency": ("coherency %", True),
    "complexity": ("complexity %", False),
    "sensitivity_max": ("sensitivity to noise, largest %", False),
    "sensitivity_average": ("sensitivity to noise, average %", False),
    "randomisation": ("similarity while randomised %", False),
    "randomisation_100": ("similarity when all random %", False),
}


def title_of(name: str) -> str:
    """Return a metric's title with an arrow that says which way is better."""
    title, more_is_better = TITLES[name]
    return title + {True: " ↑", False: " ↓", None: ""}[more_is_better]


class Finding(NamedTuple):
    """What a number says to somebody who has not read its paper.

    `judgement` is "good", "warning", "unclear", "not measured", or "note" for what always holds.
    """

    topic: str
    judgement: str
    sentence: str


class Estimate(NamedTuple):
    """A mean over so many pictures, and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    pictures: int


def bootstrap(values: NDArray[np.float64], seed: int = 0) -> list[Estimate]:
    """Return the mean of each column and its percentile interval (Efron, 1979).

    Args:
        values: float (N, columns); NaN where a picture has no such number.
        seed: of the resampling; all columns share the resamples.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    generator = np.random.default_rng(seed)
    count = len(values)
    draws = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (draws @ filled) / (draws @ known)  # (RESAMPLES, columns)
        centre = filled.sum(axis=0) / known.sum(axis=0)
    tail = (100 - CONFIDENCE) / 2
    estimates = []
    for column in range(values.shape[1]):
        sample = means[np.isfinite(means[:, column]), column]
        low, high = np.percentile(sample, [tail, 100 - tail]) if len(sample) else (np.nan, np.nan)
        number = int(known[:, column].sum())
        estimates.append(Estimate(float(centre[column]), float(low), float(high), number))
    return estimates


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model and one method on one data set.

    Attributes:
        model: what was evaluated.
        method: whose maps: "tame", or a baseline's name.
        scores: a number a picture, NaN where it has none, by metric.
        names: the pictures.
        unreadable: pictures that were left out, and why.
        settings: what else decides the numbers.
        forward_passes: pictures sent through the classifier for one explanation.
        backward_passes: pictures that gradients were taken for.
        milliseconds: time of one map, the median over batches; of TAME's, prediction included.
        verdict: what the numbers say in words, where that was asked for.
    """

    model: str
    method: str
    scores: Mapping[str, NDArray[np.float64]]
    names: Sequence[str]
    unreadable: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    forward_passes: float = 1.0
    backward_passes: float = 0.0
    milliseconds: float = 0.0
    verdict: Sequence[Finding] = ()

    def estimates(self) -> dict[str, Estimate]:
        """Return mean and interval of every metric that any picture has."""
        table = np.stack(list(self.scores.values()), axis=1)
        found = dict(zip(self.scores, bootstrap(table), strict=True))
        return {name: estimate for name, estimate in found.items() if estimate.pictures}

    def as_json(self) -> dict[str, Any]:
        """Return everything but the pictures' own numbers, for a JSON file."""
        return {
            "model": self.model,
            "method": self.method,
            "pictures": len(self.names),
            "forward_passes": self.forward_passes,
            "backward_passes": self.backward_passes,
            "milliseconds_per_picture": round(self.milliseconds, 3),
            "settings": dict(self.settings),
            "metrics": {name: value._asdict() for name, value in self.estimates().items()},
            "verdict": [finding._asdict() for finding in self.verdict],
            "unreadable": list(self.unreadable),
        }

    def save(self, folder: Path, stem: str = "evaluation") -> None:
        """Write STEM.json, and STEM-pictures.csv with a row a picture.

        Raises:
            InputError: if they cannot be written.
        """
        try:
            text = json.dumps(self.as_json(), indent=2)
            (folder / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
            path = folder / f"{stem}-pictures.csv"
            with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                writer = csv.writer(file)
                writer.writerow(["picture", *self.scores])
                for row, name in enumerate(self.names):
                    numbers = [values[row] for values in self.scores.values()]
                    cells = [f"{n:.6g}" if np.isfinite(n) else "" for n in numbers]
                    writer.writerow([name, *cells])
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
