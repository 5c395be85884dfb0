"""The one way to ask a graph, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.manifest import GraphSpec, Manifest
from tame_deploy.artifact.types import ImageSpec, Task
from tame_deploy.errors import BackendError
from tame_deploy.runtime.backends.protocol import Backend
from tame_deploy.runtime.predict.class_ids import ClassIds, check_questions, resolve_class_ids

__all__ = ["Predictions", "Predictor", "joined"]


@dataclass(frozen=True)
class Predictions:
    """What a graph says of N pictures; all values are finite.

    Attributes:
        logits: float32 (N, C).
        class_ids: int64 (N, K), what `maps` explain: classes, or contrasts of two, as numbers
            below -1 (see `decode_contrast`).
        maps: float32 (N, K, h, w), finished as the graph finishes them.
    """

    logits: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    maps: NDArray[np.float32]

    def of_class(self, class_ids: NDArray[np.int64]) -> Predictions:
        """Return, of maps of every class, those of one class a picture: class_ids is (N,)."""
        rows = np.arange(len(self.logits))
        return Predictions(self.logits, class_ids[:, None], self.maps[rows, class_ids][:, None])


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of several batches as one."""
    if len(parts) == 1:
        return parts[0]
    return Predictions(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
        np.concatenate([part.maps for part in parts]),
    )


@dataclass(frozen=True)
class Predictor:
    """A backend, and what one must know to ask it: the specs of its graph and of its pictures.

    Attributes:
        backend: what runs the graph. Whoever opened it closes it.
        graph: what the graph can be asked.
        image: how pictures become its `images`.
        classes: C, the number of classes.
        task: what its `logits` mean.
    """

    backend: Backend
    graph: GraphSpec
    image: ImageSpec
    classes: int
    task: Task = "multiclass"

    @classmethod
    def of(cls, manifest: Manifest, backend: Backend) -> Predictor:
        """Return a predictor for the graph that a manifest describes."""
        return cls(backend, manifest.graph, manifest.image, manifest.classes, manifest.task)

    def class_ids(
        self,
        count: int,
        class_ids: ClassIds | None = None,
        top_k: int | None = None,
        versus: int | None = None,
    ) -> NDArray[np.int64] | None:
        """Return what `predict` takes, for `count` pictures (see `resolve_class_ids`).

        Raises:
            InputError: for classes that this graph cannot explain.
        """
        return resolve_class_ids(self.graph, self.classes, count, class_ids, top_k, versus)

    def questions(self, count: int, class_ids: ClassIds) -> NDArray[np.int64]:
        """Return a client's numbers for `predict`, of `count` pictures (see `check_questions`).

        Raises:
            InputError: for numbers that this graph cannot answer.
        """
        return check_questions(self.graph, self.classes, count, class_ids)

    def predict(
        self,
        images: NDArray[Any],
        class_ids: NDArray[np.int64] | None = None,
        *,
        allow_non_finite: bool = False,
    ) -> Predictions:
        """Return logits and maps, run in parts of the backend's largest batch.

        Args:
            images: the graph's `images` for N pictures.
            class_ids: int64 (N, K) of `class_ids` or `questions`; the most likely class by
                default. A graph that explains classes of its own choice takes none.
            allow_non_finite: return NaN and infinity instead of raising, to whoever judges them.

        Raises:
            InputError: for arrays that do not fit the graph.
            BackendError: if the graph cannot be run, or gives NaN or infinity.
        """
        if class_ids is None:
            class_ids = self.class_ids(len(images))
        found = joined([self._run(images, class_ids, rows) for rows in self._parts(len(images))])
        if not allow_non_finite:
            _check_finite(found)
        return found

    def predict_one_class(
        self, images: NDArray[Any], class_ids: NDArray[np.int64] | None = None
    ) -> Predictions:
        """Return logits, and the map of one class a picture (K = 1), of any graph.

        Args:
            images: the graph's `images` for N pictures.
            class_ids: int64 (N,), the classes to explain; the graph's own most likely by default.
                A graph that explains the most likely classes alone explains its first.

        Raises:
            BackendError: if the graph cannot be run, or gives NaN or infinity.
        """
        selectable = self.graph.explain == "selectable" and class_ids is not None
        found = self.predict(images, class_ids[:, None] if selectable else None)  # type: ignore[index]
        if self.graph.explain != "all":
            return Predictions(found.logits, found.class_ids[:, :1], found.maps[:, :1])
        likeliest = np.asarray(found.logits.argmax(axis=1), np.int64)
        return found.of_class(likeliest if class_ids is None else class_ids)

    def warm_up(self, batch: int) -> None:
        """Run black pictures once, so that the first real ones are as fast as the next.

        Raises:
            BackendError: if the graph cannot be run.
        """
        self.predict(**self.blank_feeds(batch), allow_non_finite=True)

    def blank_feeds(self, batch: int) -> dict[str, NDArray[Any]]:
        """Return the feeds of black pictures whose most likely class is asked for."""
        shape: Any = self.image.input_shape(batch)
        return self.feeds(np.zeros(shape, self.image.dtype), self.class_ids(batch))

    def feeds(
        self, images: NDArray[Any], class_ids: NDArray[np.int64] | None
    ) -> dict[str, NDArray[Any]]:
        """Return the graph's inputs by name."""
        if class_ids is None:
            return {"images": images}
        return {"images": images, "class_ids": class_ids}

    def _parts(self, count: int) -> Iterator[slice]:
        most = self.backend.max_batch or max(count, 1)
        return (slice(start, start + most) for start in range(0, max(count, 1), most))

    def _run(
        self, images: NDArray[Any], class_ids: NDArray[np.int64] | None, rows: slice
    ) -> Predictions:
        chosen = None if class_ids is None else class_ids[rows]
        outputs = self.backend.run(self.feeds(images[rows], chosen))
        return Predictions(outputs["logits"], outputs["explained"], outputs["maps"])


def _check_finite(found: Predictions) -> None:
    for name, values in (("logits", found.logits), ("maps", found.maps)):
        if not np.isfinite(values).all():
            raise BackendError(
                f"the network gave NaN or infinite {name}; its weights are no good, or its "
                "precision does not suffice"
            )
