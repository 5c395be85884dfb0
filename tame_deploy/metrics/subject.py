"""What is evaluated: any backend, and what one must know to feed it pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.types import ExplainMode, ImageSpec, MapKind
from tame_deploy.errors import BackendError
from tame_deploy.picture.preprocess import as_input
from tame_deploy.runtime.backends.protocol import Backend

if TYPE_CHECKING:
    from tame_deploy.model.torch_backend import TorchBackend

__all__ = ["Answer", "Subject", "subject_of_artifact", "subject_of_network"]


@dataclass(frozen=True)
class Answer:
    """What the subject says of B pictures.

    `probabilities` is float32 (B, C), `class_ids` int64 (B) the predicted classes, `maps` float32
    (B, h, w) theirs, as the backend finishes them.
    """

    probabilities: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A classifier that explains itself, behind a backend: PyTorch, ONNX, an engine, a server."""

    name: str
    backend: Backend
    image: ImageSpec
    labels: tuple[str, ...]
    backbone: str
    map_kind: MapKind = "minmax"
    explain: ExplainMode = "selectable"
    speed_only: bool = False

    def answer(self, pixels: NDArray[np.float32]) -> Answer:
        """Classify and explain pictures.

        Args:
            pixels: float32 (B, H, W, 3) in [0, 1], resized and cropped. A graph that takes uint8
                gets them rounded to whole levels.

        Raises:
            BackendError: if it fails, or gives numbers that are none.
        """
        feeds: dict[str, NDArray[Any]] = {"images": self.images(pixels)}
        if self.explain == "selectable":
            feeds["class_ids"] = np.full((len(pixels), 1), -1, np.int64)
        outputs = self.backend.run(feeds)
        logits = outputs["logits"].astype(np.float64)
        if not (np.isfinite(logits).all() and np.isfinite(outputs["maps"]).all()):
            raise BackendError(f"{self.name} gave NaN or infinite logits or maps")
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        class_ids, maps = outputs["explained"][:, 0], outputs["maps"][:, 0]
        if self.explain == "all":
            class_ids = logits.argmax(axis=1)
            maps = outputs["maps"][np.arange(len(logits)), class_ids]
        return Answer(exponents / exponents.sum(axis=1, keepdims=True), class_ids, maps)

    def images(self, pixels: NDArray[np.float32]) -> NDArray[Any]:
        """Return pixels (B, H, W, 3) in [0, 1] as the backend's `images`."""
        return as_input(pixels, self.image)

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.close()


def subject_of_artifact(artifact: Artifact, backend: Backend) -> Subject:
    """Return an artifact on a backend as a subject."""
    manifest = artifact.manifest
    return Subject(
        manifest.name,
        backend,
        manifest.image,
        artifact.read_labels(),
        manifest.backbone,
        manifest.graph.maps,
        manifest.graph.explain,
        manifest.speed_only,
    )


def subject_of_network(backend: TorchBackend) -> Subject:
    """Return a PyTorch network as a subject."""
    backbone, head = backend.network.backbone, backend.network.head
    labels: Sequence[str] = backbone.labels or [str(i) for i in range(head.config.classes)]
    random = backbone.source.random or backend.network.head_source.random
    return Subject(
        f"{backbone.name} (PyTorch)",
        backend,
        backend.image,
        tuple(labels),
        backbone.name,
        speed_only=random,
    )
