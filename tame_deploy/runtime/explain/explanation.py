"""The answer: which class, how sure, and where the classifier looked."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.contrast import ALONE, decode_contrast
from tame_deploy.artifact.manifest import Manifest
from tame_deploy.artifact.task import probabilities, ranked
from tame_deploy.artifact.types import FLAT_RANGE, ImageSpec, MapKind, Task
from tame_deploy.picture import overlay
from tame_deploy.picture.lazy import LazyPicture
from tame_deploy.picture.preprocess import visible_box
from tame_deploy.runtime.predict.predictor import Predictions

__all__ = ["NOTHING_TO_TELL", "ClassScore", "Explanation", "PictureExplanation"]

SPEED_ONLY_NOTE = "random weights: for measuring speed only"
#: Of a class that is contrasted with itself, because it is the likeliest.
NOTHING_TO_TELL = "nothing to tell apart"


class ClassScore(NamedTuple):
    """A class and its probability."""

    class_id: int
    name: str
    probability: float


@dataclass(frozen=True)
class PictureExplanation:
    """The explained prediction of one picture.

    Attributes:
        logits: float32 (C,).
        class_ids: int64 (K,), the classes that `maps` explain.
        maps: float32 (K, h, w), in [0, 1], or in [-1, 1] where they are differences of two;
            whatever they are if the artifact gives raw map logits.
        labels: the names of all C classes.
        source: the picture, upright RGB, or how to decode it again.
        image: how it was cropped and resized for the network.
        map_kind: how the artifact finishes its maps: "minmax", "sigmoid" or "logits".
        speed_only: whether the weights are random, so that nothing here means anything.
        task: what the logits mean, and so what probabilities are.
        versus_ids: int64 (K,), the classes whose maps were subtracted, -1 where none was; None if
            no map is a difference.
    """

    logits: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    maps: NDArray[np.float32]
    labels: tuple[str, ...]
    source: Image.Image | LazyPicture
    image: ImageSpec
    map_kind: MapKind = "minmax"
    speed_only: bool = False
    task: Task = "multiclass"
    versus_ids: NDArray[np.int64] | None = None

    @property
    def picture(self) -> Image.Image:
        """The picture as it was given, upright RGB; of other channels or 16 bits, as it shows.

        Raises:
            InputError: if its file must be read again and is gone or changed.
        """
        return self.source.decoded() if isinstance(self.source, LazyPicture) else self.source

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Of every class, float32 (C,): a softmax, or a sigmoid each (multi-label)."""
        found: NDArray[np.float32] = probabilities(self.logits[None], self.task)[0].astype("f4")
        return found

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K explained classes."""
        return tuple(self.labels[class_id] for class_id in self.class_ids)

    @property
    def explained(self) -> tuple[ClassScore, ...]:
        """The K explained classes with their probabilities."""
        return tuple(self._score(int(class_id)) for class_id in self.class_ids)

    def top(self, count: int | None = 5, threshold: float = 0.0) -> tuple[ClassScore, ...]:
        """Return the likeliest classes, likeliest first.

        Args:
            count: at most so many; None for no limit.
            threshold: only those at least so likely, in [0, 1].
        """
        scores = [self._score(int(class_id)) for class_id in ranked(self.logits)[:count]]
        return tuple(score for score in scores if score.probability >= threshold)

    def _score(self, class_id: int) -> ClassScore:
        return ClassScore(class_id, self.labels[class_id], float(self.probabilities[class_id]))

    @property
    def versus(self) -> tuple[ClassScore | None, ...]:
        """The K classes that those explained are contrasted with; None where with none."""
        if self.versus_ids is None:
            return (None,) * len(self.class_ids)
        others = map(int, self.versus_ids)
        return tuple(None if other == ALONE else self._score(other) for other in others)

    @property
    def versus_names(self) -> tuple[str | None, ...]:
        """Names of the K classes that those explained are contrasted with; None where with none."""
        return tuple(other and other.name for other in self.versus)

    def heat(self, place: int = 0) -> NDArray[np.float32]:
        """Return a map for showing, float32 (h, w) stretched to [0, 1]; a flat one is not.

        A difference of two maps is stretched to an end of [-1, 1], and its 0 stays 0.
        """
        chosen: NDArray[np.float32] = self.maps[place]
        if self.map_kind == "minmax":
            return chosen  # stretched already; a flat one must stay flat
        magnitude = float(np.abs(chosen).max())
        if self.versus[place] is not None:
            return chosen / np.float32(magnitude) if magnitude else chosen
        span = float(chosen.max() - chosen.min())
        if span <= FLAT_RANGE * magnitude:
            return np.zeros_like(chosen)
        result: NDArray[np.float32] = (chosen - chosen.min()) / span
        return result

    def overlay(
        self, place: int = 0, *, strength: float = 0.75, max_side: int | None = None
    ) -> Image.Image:
        """Return the picture with the map of its `place`-th explained class over it.

        A difference of two maps has two colours: orange where the picture speaks for the class,
        blue where it speaks for the other. What the network did not see, because preprocessing
        cuts it off, is dimmed.

        Args:
            place: which of its explained classes.
            strength: opacity in [0, 1] where the map is highest.
            max_side: the result's longest side in pixels; the picture's own by default.

        Raises:
            InputError: if its file must be read again and is gone or changed.
        """
        picture = self.picture
        left, top, right, bottom = visible_box(picture.size, self.image)
        if max_side is not None and max(picture.size) > max_side:
            before = picture.size
            picture = picture.copy()
            picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
            across, down = picture.width / before[0], picture.height / before[1]
            left, top, right, bottom = left * across, top * down, right * across, bottom * down
        return overlay.blend(
            picture, self.heat(place), (left, top, right, bottom), strength,
            signed=self.versus[place] is not None,
        )  # fmt: skip

    def panel(self, place: int = 0, *, title: str = "") -> Image.Image:
        """Return picture, map, overlay and likeliest classes side by side.

        Raises:
            InputError: if its file must be read again and is gone or changed.
        """
        words = self.headline(place)
        picture, other = self.picture, self.versus[place]
        decoded = replace(self, source=picture)  # so that it is decoded once
        return overlay.panel(
            picture,
            self.heat(place),
            decoded.overlay(place, max_side=2 * overlay.PANEL_SIDE),
            title=f"{title}: {words}" if title else words,
            classes=[(score.name, score.probability) for score in self.top()],
            note=SPEED_ONLY_NOTE if self.speed_only else "",
            versus=None if other is None else (self.class_names[place], other.name),
        )

    def headline(self, place: int = 0) -> str:
        """Return what a map shows, in words."""
        chosen, other = self.explained[place], self.versus[place]
        own = f"{chosen.name} ({chosen.probability:.1%})"
        if other is None:
            return f"where it sees {own}"
        if other.class_id == chosen.class_id:
            return f"{own} and itself: {NOTHING_TO_TELL}"
        return f"why {own} and not {other.name} ({other.probability:.1%})"


@dataclass(frozen=True)
class Explanation:
    """The explained predictions of N pictures; `explanation[i]` is that of one of them.

    Attributes:
        logits: float32 (N, C).
        class_ids: int64 (N, K), the classes that `maps` explain.
        maps: float32 (N, K, h, w), in [0, 1], or in [-1, 1] where they are differences of two;
            whatever they are if the artifact gives raw map logits.
        labels: the names of all C classes.
        pictures: the N pictures, upright RGB, or how to decode them again.
        image: how they were cropped and resized for the network.
        map_kind: how the artifact finishes its maps: "minmax", "sigmoid" or "logits".
        speed_only: whether the weights are random, so that nothing here means anything.
        task: what the logits mean, and so what probabilities are.
        versus_ids: int64 (N, K), the classes whose maps were subtracted, -1 where none was; None
            if no map is a difference.
    """

    logits: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    maps: NDArray[np.float32]
    labels: tuple[str, ...]
    pictures: tuple[Image.Image | LazyPicture, ...]
    image: ImageSpec
    map_kind: MapKind = "minmax"
    speed_only: bool = False
    task: Task = "multiclass"
    versus_ids: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        found: Predictions,
        manifest: Manifest,
        labels: tuple[str, ...],
        pictures: Sequence[Image.Image | LazyPicture],
        image: ImageSpec,
    ) -> Explanation:
        """Return what an artifact's graph said of pictures, which became its input as `image` says.

        Args:
            found: of N pictures.
            manifest: the artifact's.
            labels: the names of its classes.
            pictures: those N, or how to decode them again.
            image: how they were cropped and resized.
        """
        own, versus = decode_contrast(found.class_ids, manifest.classes)
        return cls(
            found.logits, own, found.maps, labels, tuple(pictures), image, manifest.graph.maps,
            manifest.speed_only, manifest.task, None if (versus == ALONE).all() else versus,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.logits)

    @overload
    def __getitem__(self, index: int) -> PictureExplanation: ...
    @overload
    def __getitem__(self, index: slice) -> Explanation: ...
    def __getitem__(self, index: int | slice) -> PictureExplanation | Explanation:
        """Return the explanation of one picture, or those of several.

        Raises:
            IndexError: if there is no such picture.
        """
        if isinstance(index, slice):
            return replace(
                self,
                logits=self.logits[index],
                class_ids=self.class_ids[index],
                maps=self.maps[index],
                pictures=self.pictures[index],
                versus_ids=None if self.versus_ids is None else self.versus_ids[index],
            )
        index = int(operator.index(index))  # numpy would take True for a mask
        if not -len(self) <= index < len(self):
            raise IndexError(f"found picture {index}; there are {len(self)}")
        return PictureExplanation(
            self.logits[index],
            self.class_ids[index],
            self.maps[index],
            self.labels,
            self.pictures[index],
            self.image,
            self.map_kind,
            self.speed_only,
            self.task,
            None if self.versus_ids is None else self.versus_ids[index],
        )

    def __iter__(self) -> Iterator[PictureExplanation]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Of every class, float32 (N, C): a softmax, or a sigmoid each (multi-label)."""
        return probabilities(self.logits, self.task).astype(np.float32)

    @property
    def class_names(self) -> tuple[tuple[str, ...], ...]:
        """Names of the explained classes, N times K."""
        return tuple(tuple(self.labels[class_id] for class_id in row) for row in self.class_ids)

    @property
    def versus_names(self) -> tuple[tuple[str | None, ...], ...]:
        """Names of the classes that they are contrasted with, N times K; None where with none."""
        return tuple(one.versus_names for one in self)
