"""The answer: which class, how sure, and where the classifier looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.types import FLAT_RANGE, ImageSpec, MapKind
from tame_deploy.picture import overlay
from tame_deploy.picture.preprocess import visible_box

__all__ = ["ClassScore", "Explanation"]

SPEED_ONLY_NOTE = "random weights: for measuring speed only"


class ClassScore(NamedTuple):
    """A class and its softmax probability."""

    class_id: int
    name: str
    probability: float


@dataclass(frozen=True)
class Explanation:
    """Explained predictions of N pictures.

    Attributes:
        logits: float32 (N, C).
        class_ids: int64 (N, K), the classes that `maps` explain.
        maps: float32 (N, K, h, w), in [0, 1] unless the artifact gives raw map logits.
        labels: the names of all C classes.
        pictures: the N pictures as they were given, upright RGB.
        image: how they were cropped and resized for the network.
        map_kind: how the artifact finishes its maps: "minmax", "sigmoid" or "logits".
        speed_only: whether the weights are random, so that nothing here means anything.
    """

    logits: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    maps: NDArray[np.float32]
    labels: tuple[str, ...]
    pictures: tuple[Image.Image, ...]
    image: ImageSpec
    map_kind: MapKind = "minmax"
    speed_only: bool = False

    def __len__(self) -> int:
        return len(self.logits)

    def one(self, index: int) -> Explanation:
        """Return the explanation of one picture alone."""
        rows = slice(index, index + 1)
        return replace(
            self,
            logits=self.logits[rows],
            class_ids=self.class_ids[rows],
            maps=self.maps[rows],
            pictures=self.pictures[rows],
        )

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Softmax of the logits, float32 (N, C)."""
        exponents = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        result: NDArray[np.float32] = exponents / exponents.sum(axis=1, keepdims=True)
        return result

    @property
    def class_names(self) -> tuple[tuple[str, ...], ...]:
        """Names of the explained classes, N times K."""
        return tuple(tuple(self.labels[class_id] for class_id in row) for row in self.class_ids)

    def top(self, index: int, count: int = 5) -> tuple[ClassScore, ...]:
        """Return the likeliest classes of one picture, likeliest first."""
        probabilities = self.probabilities[index]
        order = np.argsort(-probabilities, kind="stable")[:count]
        return tuple(ClassScore(int(c), self.labels[c], float(probabilities[c])) for c in order)

    def heat(self, index: int, place: int = 0) -> NDArray[np.float32]:
        """Return one map for showing, float32 (h, w) stretched to [0, 1]; a flat one is not."""
        chosen: NDArray[np.float32] = self.maps[index, place]
        if self.map_kind == "minmax":
            return chosen  # stretched already; a flat one must stay flat
        span = float(chosen.max() - chosen.min())
        if span <= FLAT_RANGE * float(np.abs(chosen).max()):
            return np.zeros_like(chosen)
        result: NDArray[np.float32] = (chosen - chosen.min()) / span
        return result

    def overlay(
        self, index: int, place: int = 0, *, strength: float = 0.75, max_side: int | None = None
    ) -> Image.Image:
        """Return a picture with the map of its `place`-th explained class over it.

        What the network did not see, because preprocessing cuts it off, is dimmed.

        Args:
            index: which picture.
            place: which of its explained classes.
            strength: opacity in [0, 1] where the map is highest.
            max_side: the result's longest side in pixels; the picture's own by default.
        """
        picture = self.pictures[index]
        left, top, right, bottom = visible_box(picture.size, self.image)
        if max_side is not None and max(picture.size) > max_side:
            before = picture.size
            picture = picture.copy()
            picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
            across, down = picture.width / before[0], picture.height / before[1]
            left, top, right, bottom = left * across, top * down, right * across, bottom * down
        return overlay.blend(picture, self.heat(index, place), (left, top, right, bottom), strength)

    def panel(self, index: int, place: int = 0, *, title: str = "") -> Image.Image:
        """Return picture, map, overlay and likeliest classes side by side."""
        class_id = int(self.class_ids[index, place])
        probability = float(self.probabilities[index, class_id])
        explained = f"where it sees {self.labels[class_id]} ({probability:.1%})"
        classes: Sequence[tuple[str, float]] = [
            (score.name, score.probability) for score in self.top(index)
        ]
        return overlay.panel(
            self.pictures[index],
            self.heat(index, place),
            self.overlay(index, place, max_side=2 * overlay.PANEL_SIDE),
            title=f"{title}: {explained}" if title else explained,
            classes=classes,
            note=SPEED_ONLY_NOTE if self.speed_only else "",
        )
