"""What is evaluated: a classifier that explains itself, behind any backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.task import probabilities
from tame_deploy.artifact.types import ImageSpec, Task
from tame_deploy.closing import Closing
from tame_deploy.metrics.families import ExplainedBatch
from tame_deploy.metrics.masking import heat_of
from tame_deploy.picture.preprocess import as_input
from tame_deploy.runtime.backends.protocol import Backend
from tame_deploy.runtime.predict.predictor import Predictions, Predictor

if TYPE_CHECKING:
    from tame_deploy.model.torch_backend import TorchBackend

__all__ = ["EvaluatedModel", "evaluated_artifact", "evaluated_network"]

#: Maps (B, h, w) of one class each, of pixels (B, H, W, channels) in [0, 1] and class ids (B).
MapsOf: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel(Closing):
    """A predictor for pictures in [0, 1], and what is said of it in tables.

    Attributes:
        name: in tables.
        predictor: what is asked: PyTorch, ONNX, an engine or a server.
        labels: of the classes.
        backbone: name of the classifier.
        speed_only: whether weights are random, so that no score means anything.
    """

    name: str
    predictor: Predictor
    labels: tuple[str, ...]
    backbone: str
    speed_only: bool = False

    @property
    def image(self) -> ImageSpec:
        """How pictures become the graph's `images`."""
        return self.predictor.image

    @property
    def task(self) -> Task:
        """What the logits mean."""
        return self.predictor.task

    def predict(self, pixels: NDArray[np.float32]) -> Predictions:
        """Return logits, and the map of the most likely class of each picture (K = 1).

        Args:
            pixels: float32 (B, H, W, channels) in [0, 1], resized and cropped.

        Raises:
            BackendError: if it cannot be run, or gives NaN or infinity.
        """
        return self.predictor.predict_one_class(as_input(pixels, self.image))

    def maps_of(
        self, pixels: NDArray[np.float32], class_ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the maps (B, h, w) of given classes, int64 (B), where `explains_any_class`.

        Raises:
            BackendError: if it cannot be run, or gives NaN or infinity.
        """
        return self.predictor.predict_one_class(as_input(pixels, self.image), class_ids).maps[:, 0]

    @property
    def explains_any_class(self) -> bool:
        """Whether the map of a given class can be asked for."""
        return self.predictor.graph.explain != "predicted"

    def probabilities(self, pixels: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities (B, C) of pictures (see `predict`)."""
        return self.probabilities_of(self.predict(pixels))

    def probabilities_of(self, predictions: Predictions) -> NDArray[np.float64]:
        """Return the probabilities (B, C) of what `predict` returned, as the task has them."""
        return probabilities(predictions.logits, self.task)

    def explained(
        self,
        pixels: NDArray[np.float32],
        predictions: Predictions,
        indices: Sequence[int],
        *,
        maps: NDArray[np.float32] | None = None,
        explain: MapsOf | None = None,
        masks: Sequence[NDArray[np.bool_] | None] | None = None,
    ) -> ExplainedBatch:
        """Return what metrics are computed of.

        Args:
            pixels: float32 (B, H, W, channels) in [0, 1].
            predictions: what `predict` returns for them.
            indices: numbers of the pictures.
            maps: float32 (B, h, w) of the predicted classes; the model's own by default.
            explain: how maps of given classes came about, for other pixels; the model's own way,
                `maps_of`, by default.
            masks: where the objects are, bool (H, W) each, if that is known.
        """
        class_ids = predictions.class_ids[:, 0]
        own = predictions.maps[:, 0]
        rows = np.arange(len(pixels))
        size = (self.image.height, self.image.width)
        if explain is None and self.explains_any_class:
            explain = self.maps_of
        return ExplainedBatch(
            pixels=pixels,
            heat=heat_of(own if maps is None else maps, *size),
            class_ids=class_ids,
            confidences=self.probabilities_of(predictions)[rows, class_ids],
            masks=[None] * len(pixels) if masks is None else masks,
            indices=indices,
            classify=self.probabilities,
            explain=explain and (lambda others: heat_of(explain(others, class_ids), *size)),
            task=self.task,
        )

    def close(self) -> None:
        """Close the backend."""
        self.predictor.backend.close()


def evaluated_artifact(artifact: Artifact, backend: Backend) -> EvaluatedModel:
    """Return an artifact on a backend, to be evaluated."""
    manifest = artifact.manifest
    return EvaluatedModel(
        name=manifest.name,
        predictor=Predictor.of(manifest, backend),
        labels=artifact.read_labels(),
        backbone=manifest.backbone,
        speed_only=manifest.speed_only,
    )


def evaluated_network(backend: TorchBackend) -> EvaluatedModel:
    """Return a PyTorch network, to be evaluated."""
    backbone, head = backend.network.backbone, backend.network.head
    classes = head.config.classes
    labels: Sequence[str] = backbone.labels or [str(i) for i in range(classes)]
    return EvaluatedModel(
        name=f"{backbone.name} (PyTorch)",
        predictor=Predictor(backend, backend.graph, backend.image, classes, backend.network.task),
        labels=tuple(labels),
        backbone=backbone.name,
        speed_only=backend.network.speed_only,
    )
