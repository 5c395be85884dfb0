"""What a graph says of the judged pictures, and how far two graphs are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.manifest import Manifest
from tame_deploy.errors import BackendError
from tame_deploy.metrics.masking import normalise
from tame_deploy.picture.preprocess import as_input
from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tame_deploy.runtime.backends.protocol import Backend, BackendOptions
from tame_deploy.runtime.verify.comparison import is_flat

__all__ = ["Answers", "Questions", "correlations", "overlaps", "squared_error"]

BATCH = 8


@dataclass(frozen=True)
class Answers:
    """Logits float32 (N, C), explained classes int64 (N), maps float32 (N, h, w).

    Maps are stretched to [0, 1] however the graph finishes them; `flat`, bool (N), says which
    show nothing.
    """

    logits: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    maps: NDArray[np.float32]
    flat: NDArray[np.bool_]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most likely class, int64 (N)."""
        return np.asarray(self.logits.argmax(axis=1), np.int64)

    def rows(self, rows: NDArray[np.intp]) -> Answers:
        """Return the answers to some of the pictures."""
        return Answers(self.logits[rows], self.class_ids[rows], self.maps[rows], self.flat[rows])


@dataclass(frozen=True)
class Questions:
    """Pictures, uint8 (N, H, W, 3) as the network sees them, for any graph with these specs."""

    manifest: Manifest
    pixels: NDArray[np.uint8]
    names: Sequence[str]

    def open(self, model: bytes) -> Backend:
        """Open a graph that keeps the contract of the manifest."""
        manifest = self.manifest
        return OnnxRuntimeBackend(model, manifest.inputs, manifest.outputs, BackendOptions())

    def ask(self, model: bytes, class_ids: NDArray[np.int64] | None = None) -> Answers:
        """Return what a graph, an ONNX file's bytes, answers (see `ask_backend`)."""
        with self.open(model) as backend:
            return self.ask_backend(backend, class_ids)

    def ask_backend(
        self, backend: Backend, class_ids: NDArray[np.int64] | None = None, batch: int = BATCH
    ) -> Answers:
        """Return what a backend answers.

        Args:
            backend: keeps the contract of the manifest.
            class_ids: int64 (N), the classes to explain; the graph's own most likely by default.
                A graph without such an input explains its own.
            batch: how many pictures are run at a time.

        Raises:
            BackendError: if it cannot be run, or gives NaN or infinity.
        """
        parts = [
            self._ask(backend, slice(start, start + batch), class_ids)
            for start in range(0, len(self.pixels), batch)
        ]
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        if not all(np.isfinite(values).all() for values in joined):
            raise BackendError("the graph gives NaN or infinity")
        logits, explained, maps = joined
        kind = self.manifest.graph.maps
        flat = np.array([is_flat(heat, kind) for heat in maps], bool)
        return Answers(logits, explained, normalise(maps), flat)

    def _ask(
        self, backend: Backend, rows: slice, class_ids: NDArray[np.int64] | None
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        pixels = self.pixels[rows]
        feeds: dict[str, NDArray[Any]] = {"images": as_input(pixels, self.manifest.image)}
        mode = self.manifest.graph.explain
        if mode == "selectable":
            asked = np.full(len(pixels), -1, np.int64) if class_ids is None else class_ids[rows]
            feeds["class_ids"] = asked[:, None]
        outputs = backend.run(feeds)
        logits, explained, maps = outputs["logits"], outputs["explained"], outputs["maps"]
        if mode != "all":
            return logits, explained[:, 0], maps[:, 0]
        chosen = logits.argmax(axis=1) if class_ids is None else class_ids[rows]
        return logits, chosen, maps[np.arange(len(maps)), chosen]


def correlations(expected: Answers, found: Answers) -> NDArray[np.float64]:
    """Return Pearson's correlation of each pair of maps (N); two flat maps agree, one does not."""
    a, b = (_centred(answers.maps) for answers in (expected, found))
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    values = (a * b).sum(axis=1) / np.maximum(norms, 1e-12)
    either = expected.flat | found.flat
    return np.where(either, (expected.flat & found.flat).astype(float), values)


def _centred(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    centred: NDArray[np.float64] = flat - flat.mean(axis=1, keepdims=True)
    return centred


def overlaps(expected: Answers, found: Answers, share: float) -> NDArray[np.float64]:
    """Return the intersection over union (N) of the highest `share` of two maps' area."""
    tops = []
    for answers in (expected, found):
        flat = answers.maps.reshape(len(answers.maps), -1)
        top = np.zeros(flat.shape, bool)
        highest = np.argsort(-flat, axis=1, kind="stable")[
            :, : max(1, round(share * flat.shape[1]))
        ]
        np.put_along_axis(top, highest, True, axis=1)
        tops.append(top)
    both, either = (tops[0] & tops[1]).sum(axis=1), (tops[0] | tops[1]).sum(axis=1)
    shares: NDArray[np.float64] = both / either
    return shares


def squared_error(expected: Answers, found: Answers) -> float:
    """Return the joint error of logits and maps: the share of the signal's power that is lost.

    Each part is 0 for the same and about 1 for an unrelated answer: squared differences of logits
    by the variance of the expected ones (what softmax ignores, a common shift, left out), and
    1 - r^2 of the maps.
    """
    difference = _centred(found.logits - expected.logits)
    variance = (_centred(expected.logits) ** 2).sum(axis=1)
    of_logits = (difference**2).sum(axis=1) / np.maximum(variance, 1e-12)
    of_maps = 1 - np.maximum(correlations(expected, found), 0) ** 2
    return float(np.mean(of_logits + of_maps))
