"""One batch of predictions beside what PyTorch gave: how far apart, and where the most."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.contrast import ALONE, decode_contrast
from tame_deploy.artifact.task import agreement
from tame_deploy.artifact.types import FLAT_RANGE, MapKind, Task
from tame_deploy.errors import ParityError
from tame_deploy.runtime.predict.predictor import Predictions
from tame_deploy.runtime.verify.reference import ParityReference

__all__ = [
    "LOGIT_TOLERANCE",
    "MAP_TOLERANCE",
    "Comparison",
    "NotFiniteError",
    "count_same",
    "is_flat",
]

#: Largest error of a logit, as a share of the range of the picture's logits.
LOGIT_TOLERANCE = 1e-3
#: Largest error of a map, as a share of its range; and the least correlation.
MAP_TOLERANCE = 5e-3
MAP_CORRELATION = 0.9999
#: Below this difference, maps of two pictures or two classes count as the same.
SAME_MAP = 1e-3


class NotFiniteError(ParityError):
    """The graph gives NaN or infinity where the network gives finite numbers."""


class Comparison:
    """One batch of predictions beside the reference.

    Attributes:
        logit_error: the largest error of a logit, as a share of the range of its picture's logits.
        map_error: likewise of a map's value, as a share of the map's range.
        top1_agreement: how far the classes named are the reference's, in [0, 1] (`agreement`).
        map_correlation: the least of the maps' correlations with the reference's, in [-1, 1].
        is_contrast: bool (N, K), which maps are differences of two.

    Raises:
        ParityError: for maps of another shape, and for NaN or infinity.
    """

    def __init__(
        self,
        reference: ParityReference,
        found: Predictions,
        kind: MapKind,
        task: Task = "multiclass",
    ) -> None:
        self.logits, self.maps = found.logits, found.maps
        self.explained = found.class_ids
        self.expected_ids = reference.class_ids
        self.expected_logits = reference.logits
        self.expected_maps = reference.maps
        if self.maps.shape != self.expected_maps.shape:
            raise ParityError(
                f"maps have shape {self.maps.shape}; the PyTorch network gives "
                f"{self.expected_maps.shape}"
            )
        _require_finite("logits", self.logits)
        _require_finite("maps", self.maps)
        self.logit_errors = _shares(self.logits, self.expected_logits, (1,))
        # A min-max map is meant to span [0, 1]; one that does not is flat, and judged by that span.
        self.map_errors = _shares(self.maps, self.expected_maps, (2, 3), float(kind == "minmax"))
        self.logit_error = float(self.logit_errors.max())
        self.map_error = float(self.map_errors.max())
        self.top1_agreement = float(agreement(self.expected_logits, self.logits, task).mean())
        classes = self.logits.shape[1]
        # (N, K): where maps are differences of two.
        self.is_contrast = decode_contrast(self.expected_ids, classes)[1] != ALONE
        self.map_correlation = min(
            _correlation(self.maps[place], self.expected_maps[place], kind, signed=bool(signed))
            for place, signed in np.ndenumerate(self.is_contrast)
        )

    def require_within_tolerance(self, slack: float) -> None:
        """Raise a ParityError that names the worst place, if anything is beyond tolerance."""
        batch = len(self.logits)
        self._require("logits", self.logits, self.expected_logits, self.logit_errors, slack)
        if (self.explained != self.expected_ids).any():
            place = _worst((self.explained != self.expected_ids).astype(float))
            raise ParityError(
                f"explained{list(place)} is class {self.explained[place]} at batch {batch}; "
                f"the PyTorch network explains {self.expected_ids[place]}"
            )
        self._require("maps", self.maps, self.expected_maps, self.map_errors, slack)
        least = 1 - slack * (1 - MAP_CORRELATION)
        if self.map_correlation < least:
            raise ParityError(
                f"maps correlate with the PyTorch network's by {self.map_correlation:.5f} at "
                f"batch {batch}; expected at least {least:g}"
            )

    def _require(
        self,
        name: str,
        found: NDArray[Any],
        expected: NDArray[Any],
        errors: NDArray[Any],
        slack: float,
    ) -> None:
        tolerance = slack * (LOGIT_TOLERANCE if name == "logits" else MAP_TOLERANCE)
        if errors.max() <= tolerance:
            return
        place = _worst(errors)
        raise ParityError(
            f"{name}{list(place)} is {found[place]:.5g} at batch {len(found)}; the PyTorch network "
            f"gives {expected[place]:.5g} (off by {errors[place]:.2%} of the range, tolerance "
            f"{tolerance:.2%}). Nothing was kept that disagrees; please report the backbone"
        )


def _shares(
    found: NDArray[Any], expected: NDArray[Any], axes: tuple[int, ...], least: float = 0.0
) -> NDArray[np.float64]:
    """Return absolute errors as shares of the expected values' range.

    Where the range is below `FLAT_RANGE` of the magnitude, or `least`, it is that instead: the
    range of a flat map is rounding noise.
    """
    span = expected.max(axes, keepdims=True) - expected.min(axes, keepdims=True)
    floor = np.maximum(np.abs(expected).max(axes, keepdims=True) * FLAT_RANGE, least)
    span = np.maximum(span, np.maximum(floor, np.finfo(np.float32).tiny))
    errors: NDArray[np.float64] = np.abs(found.astype(np.float64) - expected) / span
    return errors


def _require_finite(name: str, found: NDArray[Any]) -> None:
    wrong = ~np.isfinite(found)
    if wrong.any():
        place = _worst(wrong)
        raise NotFiniteError(
            f"{name}{list(place)} is {found[place]} at batch {len(found)}; the PyTorch network "
            "gives finite numbers"
        )


def _worst(errors: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.unravel_index(errors.argmax(), errors.shape))


def is_flat(heat: NDArray[Any], kind: MapKind, *, signed: bool = False) -> bool:
    """Whether a map's range is too small to mean anything; `signed`: of a difference of two."""
    span, magnitude = float(heat.max() - heat.min()), float(np.abs(heat).max())
    # The graph stretches every other map to the whole of [0, 1], or to one end of [-1, 1].
    if kind == "minmax" and (magnitude if signed else span) < 0.999:
        return True
    return span <= FLAT_RANGE * magnitude


def _correlation(
    first: NDArray[Any], second: NDArray[Any], kind: MapKind, *, signed: bool
) -> float:
    """Return Pearson's correlation of two maps; two flat ones agree."""
    flat = [is_flat(one, kind, signed=signed) for one in (first, second)]
    if any(flat):
        return float(all(flat))
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def count_same(maps: NDArray[Any]) -> int:
    """Return how many pairs of neighbouring maps, (N, h, w), are the same."""
    return sum(
        bool(np.abs(a - b).max() <= SAME_MAP * max(np.ptp(a), np.ptp(b)))
        for a, b in itertools.pairwise(maps)
    )
