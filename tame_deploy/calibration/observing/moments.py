"""What the inputs of a layer have to do with each other: means and second moments.

Rounding a weight can be made up for by others of its row as far as their inputs are correlated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tame_deploy.calibration.graph import Graph, attribute
from tame_deploy.calibration.observing.observe import MAX_BATCH, MAX_WATCHED_BYTES, watching
from tame_deploy.metrics.evaluation_set import EvaluationSet
from tame_deploy.picture.preprocess import as_input

__all__ = ["InputMoments", "input_moments"]

#: Layers whose rows are longer are left out: their moments alone would take hundreds of MiB.
LONGEST_ROW = 4608
#: Moments in memory at a time.
_MAX_BYTES = 512 * 2**20
#: Of each picture at least so many places, and of all pictures so many for each weight of a row.
_PLACES, _PLACES_PER_WEIGHT = 64, 4


@dataclass
class InputMoments:
    """Sums over places: of the inputs that a row of weights meets, and of their products.

    Attributes:
        total: float64 (groups, D), D weights a row.
        products: float32 (groups, D, D).
        count: how many places there were.
    """

    total: NDArray[np.float64]
    products: NDArray[np.float32]
    count: int = 0

    @classmethod
    def of_rows(cls, groups: int, length: int) -> InputMoments:
        """Return moments of nothing yet."""
        return cls(np.zeros((groups, length)), np.zeros((groups, length, length), np.float32))

    def add(self, inputs: NDArray[np.float32]) -> None:
        """Add places, float32 (places, groups, D)."""
        by_group = np.ascontiguousarray(inputs.transpose(1, 0, 2))
        self.total += by_group.sum(axis=1, dtype=np.float64)
        self.products += by_group.transpose(0, 2, 1) @ by_group
        self.count += len(inputs)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of the inputs, (groups, D)."""
        return self.total / self.count

    def second(self, *, centred: bool) -> NDArray[np.float64]:
        """Return the second moments (groups, D, D), around the mean if they are centred."""
        found = self.products.astype(np.float64) / self.count
        return found - self.mean[:, :, None] * self.mean[:, None] if centred else found


def input_moments(
    graph: Graph, pictures: EvaluationSet
) -> Iterator[tuple[onnx.NodeProto, InputMoments]]:
    """Yield layers with the moments of their inputs, on some places of every picture.

    Left out are layers with very long rows, convolutions that are not of pictures, and layers that
    meet fewer places than a row has weights, as the classifier does: what correlates there is
    chance.

    Args:
        graph: the graph before Q/DQ pairs are inserted.
        pictures: what it runs on.

    Raises:
        BackendError: if the graph cannot be run.
    """
    layers = [layer for layer in graph.layers if _is_known(graph, layer)]
    while layers:
        taken, size = 0, 0
        while taken < len(layers) and (not taken or size < _MAX_BYTES):
            groups, length = _row(graph, layers[taken])
            size += 4 * groups * length**2
            taken += 1
        found = _moments_of(graph, layers[:taken], pictures, np.random.default_rng(0))
        yield from (
            (layer, moments)
            for layer, moments in zip(layers[:taken], found, strict=True)
            if moments.count >= moments.total.shape[1]
        )
        layers = layers[taken:]


def _is_known(graph: Graph, layer: onnx.NodeProto) -> bool:
    """Whether a layer's input has a shape, in two dimensions of space if it is a convolution."""
    rank = len(graph.initializers[layer.input[1]].dims)
    flat = layer.op_type != "Conv" or rank == 4
    return flat and layer.input[0] in graph.shapes and _row(graph, layer)[1] <= LONGEST_ROW


def _row(graph: Graph, layer: onnx.NodeProto) -> tuple[int, int]:
    """Return how many groups a layer has, and how many weights a row."""
    shape = graph.initializers[layer.input[1]].dims
    if layer.op_type == "Conv":
        return attribute(layer, "group", 1), int(np.prod(shape[1:]))
    return 1, int(shape[1] if attribute(layer, "transB") else shape[0])


def _moments_of(
    graph: Graph,
    layers: Sequence[onnx.NodeProto],
    pictures: EvaluationSet,
    generator: np.random.Generator,
) -> list[InputMoments]:
    found = [InputMoments.of_rows(*_row(graph, layer)) for layer in layers]
    names = list(dict.fromkeys(str(layer.input[0]) for layer in layers))
    watched = sum(4 * int(np.prod([size or 1 for size in graph.shapes[name]])) for name in names)
    batch = max(1, min(MAX_BATCH, MAX_WATCHED_BYTES // max(watched, 1)))
    with watching(graph, names, pictures.manifest.image) as backend:
        for start in range(0, len(pictures.pixels), batch):
            images = as_input(pictures.pixels[start : start + batch], pictures.manifest.image)
            values = {"images": images, **backend.run({"images": images})}
            for layer, moments in zip(layers, found, strict=True):
                length = moments.total.shape[1]
                wanted = max(_PLACES, _PLACES_PER_WEIGHT * length // len(pictures.pixels))
                value = values[str(layer.input[0])]
                if layer.op_type == "Conv":
                    met = _windows(value, layer, graph, wanted, generator)
                else:
                    met = _rows(value, wanted * len(value), generator)[:, None]
                moments.add(met.reshape(len(met), *moments.total.shape))
    return found


def _rows(
    value: NDArray[np.float32], wanted: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Return some of the rows that a matrix product meets, (rows, D)."""
    rows = value.reshape(-1, value.shape[-1])
    return rows if len(rows) <= wanted else rows[generator.choice(len(rows), wanted, replace=False)]


def _windows(
    value: NDArray[np.float32],
    layer: onnx.NodeProto,
    graph: Graph,
    wanted: int,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Return what a kernel meets at some places of each picture, (places, C, h, w)."""
    kernel = list(graph.initializers[layer.input[1]].dims[2:])
    settings = {item.name: list(item.ints) for item in layer.attribute}
    pads = settings.get("pads", [0] * 4)
    strides, dilations = settings.get("strides", [1, 1]), settings.get("dilations", [1, 1])
    padded = np.pad(value, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    spans = tuple((size - 1) * gap + 1 for size, gap in zip(kernel, dilations, strict=True))
    windows = sliding_window_view(padded, spans, axis=(2, 3))
    windows = windows[
        :, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]
    ].transpose(0, 2, 3, 1, 4, 5)
    height, width = windows.shape[1:3]
    places = np.arange(height * width)
    if len(places) > wanted:
        places = generator.choice(len(places), wanted, replace=False)
    met = windows[:, places // width, places % width]
    return np.asarray(met.reshape(-1, *met.shape[2:]), np.float32)
