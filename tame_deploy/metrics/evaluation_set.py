"""An evaluation set in memory, and what a graph predicts for its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.manifest import Manifest
from tame_deploy.artifact.types import Task
from tame_deploy.metrics.masking import normalise
from tame_deploy.picture.preprocess import Levels, as_input
from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tame_deploy.runtime.backends.protocol import Backend, BackendOptions
from tame_deploy.runtime.predict.predictor import Predictor, joined
from tame_deploy.runtime.verify.comparison import is_flat

__all__ = ["BATCH", "EvaluationSet", "NormalisedPredictions"]

BATCH = 8
#: How calibration's pass to float16 begins the names of its casts.
_HALF_CAST = b"precision/Cast_"


@dataclass(frozen=True, kw_only=True)
class NormalisedPredictions:
    """What a graph predicts for N pictures, in a form that graphs can be compared by.

    Attributes:
        logits: float32 (N, C).
        class_ids: int64 (N), the class that each map explains.
        maps: float32 (N, h, w), stretched to [0, 1] however the graph finishes them.
        flat: bool (N), whether a map shows nothing.
        task: what the logits mean.
    """

    logits: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    maps: NDArray[np.float32]
    flat: NDArray[np.bool_]
    task: Task = "multiclass"

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most likely class, int64 (N)."""
        return np.asarray(self.logits.argmax(axis=1), np.int64)

    def rows(self, rows: NDArray[np.intp]) -> NormalisedPredictions:
        """Return the predictions for some of the pictures."""
        return replace(
            self,
            logits=self.logits[rows],
            class_ids=self.class_ids[rows],
            maps=self.maps[rows],
            flat=self.flat[rows],
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Pictures that graphs of one contract are evaluated on.

    Attributes:
        manifest: the contract: what the graphs take and give.
        pixels: uint8 or uint16 (N, H, W, channels), resized and cropped as the network sees them.
        names: of the pictures.
        labels: their class ids, None where one is not known.
    """

    manifest: Manifest
    pixels: Levels
    names: Sequence[str]
    labels: Sequence[int | None]

    def open(self, model: bytes, *, integer_kernels: bool = True) -> Backend:
        """Open an ONNX file's bytes, a graph that keeps the contract, on ONNX Runtime.

        Args:
            model: the bytes.
            integer_kernels: whether the processor's own may run layers with Q/DQ pairs; else
                float32's arithmetic on the codes does, which is the same on every processor.

        Raises:
            BackendError: if it cannot be loaded.
        """
        manifest = self.manifest
        return OnnxRuntimeBackend(
            model,
            manifest.inputs,
            manifest.outputs,
            BackendOptions(),
            integer_kernels=integer_kernels,
            float16=_HALF_CAST in model,
        )

    def predict_graph(
        self,
        model: bytes,
        class_ids: NDArray[np.int64] | None = None,
        *,
        integer_kernels: bool = True,
    ) -> NormalisedPredictions:
        """Return what a graph, an ONNX file's bytes, predicts (see `open` and `predict`)."""
        with self.open(model, integer_kernels=integer_kernels) as backend:
            return self.predict(backend, class_ids)

    def predict(
        self, backend: Backend, class_ids: NDArray[np.int64] | None = None, batch: int = BATCH
    ) -> NormalisedPredictions:
        """Return what a backend predicts for the pictures.

        Args:
            backend: keeps the contract of the manifest.
            class_ids: int64 (N), the classes to explain; the graph's own most likely by default.
                A graph that explains the most likely classes alone explains its first.
            batch: how many pictures are run at a time.

        Raises:
            BackendError: if it cannot be run, or gives NaN or infinity.
        """
        predictor = Predictor.of(self.manifest, backend)
        parts = []
        for start in range(0, len(self.pixels), batch):
            rows = slice(start, start + batch)
            images = as_input(self.pixels[rows], self.manifest.image)
            chosen = None if class_ids is None else class_ids[rows]
            parts.append(predictor.predict_one_class(images, chosen))
        found = joined(parts)
        maps = found.maps[:, 0]
        flat = np.array([is_flat(one, self.manifest.graph.maps) for one in maps], bool)
        return NormalisedPredictions(
            logits=found.logits,
            class_ids=found.class_ids[:, 0],
            maps=normalise(maps),
            flat=flat,
            task=self.manifest.task,
        )
