"""Watching every activation of a graph while pictures stream by; an interrupted run goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.utils
from numpy.typing import NDArray

from tame_deploy.artifact.types import ImageSpec, TensorSpec
from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
from tame_deploy.calibration.observing.histogram import TensorStatistics
from tame_deploy.calibration.observing.record import Calibration, CalibrationInputs
from tame_deploy.errors import InputError, ManifestError
from tame_deploy.files import replaced_file
from tame_deploy.picture.preprocess import as_input
from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tame_deploy.runtime.backends.protocol import Backend, BackendOptions

__all__ = ["observe", "watched_tensors", "watching"]

#: Activations held in memory at a time.
MAX_WATCHED_BYTES = 256 * 2**20
MAX_BATCH = 8
#: How often an unfinished run is saved.
SAVE_EVERY_S = 10.0

Advance = Callable[[int], None]


def watched_tensors(graph: Graph) -> list[str]:
    """Return the activations whose ranges quantization may need.

    A layer's output before its own ReLU or Clip is none: they are one operation in eight bits.
    """
    hidden = {
        str(node.input[0])
        for layer in graph.layers
        for node in graph.bounding(str(layer.output[0]))
    }
    return [name for name in graph.activations if name not in hidden]


def observe(
    graph: Graph,
    inputs: CalibrationInputs,
    source: PicturesToChooseFrom,
    *,
    cache: Path | None = None,
    advance: Advance = lambda _: None,
) -> Calibration:
    """Run the graph on the chosen pictures and return what its activations span.

    Args:
        graph: the graph to watch.
        inputs: which pictures, and what to call all of it.
        source: where the pictures are.
        cache: a folder for finished and unfinished calibrations, by key; none is used without.
        advance: told how many more pictures are done.

    Raises:
        InputError: if a picture cannot be read any more, or an activation is NaN or infinite.
        BackendError: if the graph cannot be run.
    """
    tensors = watched_tensors(graph)
    found = None if cache is None else _finished(cache, inputs)
    if found is not None and list(found.tensors) == tensors:
        advance(len(inputs.pictures))
        return found
    progress = _Progress(cache and cache / f"{inputs.key}.partial.npz", tensors)
    advance(progress.done)
    with watching(graph, tensors, source.image) as backend, progress.kept():
        while progress.done < len(inputs.pictures):
            advance(_watch_batch(backend, progress, inputs, source, graph))
    record = Calibration.of(inputs, progress.statistics)
    if cache is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written is none
            cache.mkdir(parents=True, exist_ok=True)
            with replaced_file(cache / f"{inputs.key}.json") as stream:
                stream.write(record.to_json().encode())
            progress.forget()
    return record


def _finished(cache: Path, inputs: CalibrationInputs) -> Calibration | None:
    """Return a finished calibration from the cache; one that does not fit counts as none."""
    path = cache / f"{inputs.key}.json"
    try:
        found = Calibration.from_json(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError, ManifestError):
        return None
    return found if found.key == inputs.key else None


@contextmanager
def watching(graph: Graph, tensors: list[str], image: ImageSpec) -> Iterator[Backend]:
    """Yield a backend that takes images alone, and gives the watched tensors but the images.

    What only the tail needs is left out of it, so there is no class to name.
    """
    made = [name for name in tensors if name in graph.producers]
    model = onnx.utils.Extractor(graph.model).extract_model(["images"], made)
    images = TensorSpec("images", image.dtype, image.input_shape("batch"))
    outputs = [TensorSpec(name, "float32", ()) for name in made]
    with OnnxRuntimeBackend(
        model.SerializeToString(), [images], outputs, BackendOptions()
    ) as backend:
        yield backend


def _watch_batch(
    backend: Backend,
    progress: _Progress,
    inputs: CalibrationInputs,
    source: PicturesToChooseFrom,
    graph: Graph,
) -> int:
    pictures = inputs.pictures
    start, size = progress.done, progress.batch_size(graph)
    names = pictures.names[start : start + size]
    pixels = np.stack([source.pixels(index) for index in pictures.indices[start : start + size]])
    images = as_input(pixels, source.image)
    values = backend.run({"images": images})
    if "images" in progress.statistics:
        values["images"] = images
    values = {
        name: pictures_first(value, graph.shapes.get(name, (None,)), len(pixels))
        for name, value in values.items()
    }
    for name, value in values.items():
        finite = np.isfinite(value.reshape(len(value), -1).sum(axis=1, dtype=np.float64))
        if not finite.all():
            raise InputError(
                f"the activation {name} ({_origin(graph, name)}) is NaN or infinite for "
                f"{names[int(np.argmin(finite))]}; such a model cannot be calibrated"
            )
    progress.add(values)
    return len(pixels)


def pictures_first(
    values: NDArray[Any], shape: tuple[int | None, ...], pictures: int
) -> NDArray[Any]:
    """Return what a graph gave for some pictures with an axis of pictures in front, (B, C, ...).

    Transformers put queries, keys and values before the pictures, and windows or attention heads
    together with them; what does not depend on the pictures is the same for all.

    Args:
        values: of any shape.
        shape: as far as it is fixed in the graph.
        pictures: how many there were.
    """
    free = [axis for axis, size in enumerate(shape) if size is None]
    if 0 not in free:
        axes = [axis for axis in free if values.shape[axis] == pictures]
        if axes:
            return np.moveaxis(values, axes[0], 0)
    elif len(values) == pictures:
        return values
    elif len(values) % pictures == 0:
        parts = values.reshape(pictures, -1, *values.shape[1:])
        return np.moveaxis(parts, 1, 2).reshape(pictures, values.shape[1], -1)
    return np.broadcast_to(values.reshape(1, 1, -1), (pictures, 1, values.size))


def _origin(graph: Graph, name: str) -> str:
    return str(graph.producers[name].name) if name in graph.producers else "an input"


@dataclass
class _Progress:
    """Statistics so far, in memory and, if there is a place for it, on disk."""

    path: Path | None
    tensors: list[str]

    def __post_init__(self) -> None:
        self.statistics = {name: TensorStatistics() for name in self.tensors}
        self.done = 0
        self._saved, self._whole = time.monotonic(), True
        if self.path is not None and self.path.is_file():
            self._resume(self.path)

    def _resume(self, path: Path) -> None:
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                done = int(stored["done"])
                found = {
                    name: TensorStatistics.from_state(
                        {key: stored[f"{number}/{key}"] for key in TensorStatistics().state()}
                    )
                    for number, name in enumerate(self.tensors)
                }
        # A damaged file answers with nearly any exception there is; then one begins anew.
        except Exception:
            path.unlink(missing_ok=True)
            return
        self.done, self.statistics = done, found

    def batch_size(self, graph: Graph) -> int:
        """Return how many pictures may be watched at a time."""
        sizes = [graph.shapes[name][1:] for name in self.tensors]
        watched = sum(int(np.prod([size or 1 for size in shape])) * 4 for shape in sizes)
        return max(1, min(MAX_BATCH, MAX_WATCHED_BYTES // max(watched, 1)))

    def add(self, values: dict[str, NDArray[Any]]) -> None:
        """Add a batch, and save now and then."""
        self._whole = False  # interrupted from here on, some tensors would have more than others
        for name, value in values.items():
            self.statistics[name].add(value)
        self.done += len(next(iter(values.values())))
        self._whole = True
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Save what there is when the block is interrupted."""
        try:
            yield
        except BaseException:
            self.save()
            raise

    def save(self) -> None:
        """Write all of it to disk."""
        self._saved = time.monotonic()
        if self.path is not None and self.done and self._whole:
            with contextlib.suppress(OSError):  # without a cache, an interrupted run begins anew
                self._save(self.path)

    def _save(self, path: Path) -> None:
        arrays = {
            f"{number}/{key}": array
            for number, name in enumerate(self.tensors)
            for key, array in self.statistics[name].state().items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as stream:
            np.savez(stream, done=np.int64(self.done), **arrays)  # type: ignore[arg-type]

    def forget(self) -> None:
        """Remove what was saved."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
