"""Pixels are eight bits already: normalisation folded into the first convolution.

What is left before it is a transposition of bytes, and no pixel is rounded. Exact where the
convolution pads nothing. With padding, a padded zero stands for the mean colour before, and for
one level after, the same for all colours. That is done where no mean is further than half a level
from it (a mean of 0.5): rounding would cost every pixel as much, and this costs the border alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing.ranges import Range

__all__ = ["PIXELS", "fold_pixels", "normalise_rows", "pixel_means"]

#: The value that the first convolution then takes.
PIXELS = "pixels"

#: Half a level, and what float32 makes of it.
_NEAR = 0.5001
_STEPS = ("Cast", "Transpose", "Mul", "Add")


def fold_pixels(graph: Graph) -> tuple[Graph, Range] | None:
    """Return the graph with its first convolution on raw pixels, and what these span.

    None where that is not exact, or the pattern images -> Cast -> Transpose -> Mul -> Add -> Conv
    is not there.
    """
    found = _pattern(graph)
    if found is None:
        return None
    steps, conv, scale, shift, zero = found
    weight = graph.weight(conv.input[1]).astype(np.float64)
    bias = graph.weight(conv.input[2]).astype(np.float64)
    folded = {
        str(conv.input[1]): weight * scale[None, :, None, None] * 255,
        str(conv.input[2]): bias + np.einsum("ocij,c->o", weight, shift + scale * zero),
    }
    model = graph.with_weights(folded).model
    _rewire(model, {str(step.name) for step in steps}, str(conv.name), zero)
    folded_graph = Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))
    return folded_graph, (-zero / 255, (255 - zero) / 255)


def normalise_rows(graph: Graph) -> Graph:
    """Return the graph with normalisation done on rows of pixels, before they are transposed.

    ONNX Runtime lays activations of integer convolutions out with channels last, and moves the
    transposition of the pictures behind their normalisation. That then multiplies three numbers at
    a time, which takes as long as several convolutions. A row of all channels is one vector.
    """
    steps = _steps(graph)
    if steps is None:
        return graph
    cast, transpose, *arithmetic = steps
    scale, shift = (_by_channel(graph, step) for step in arithmetic)
    _, height, width, colours = graph.shapes.get(str(cast.output[0]), (None,) * 4)
    if scale is None or shift is None or not height or not width or colours != len(scale):
        return graph
    constants = {
        "pixels/rows": np.array([0, height, width * colours]),
        "pixels/places": np.array([0, height, width, colours]),
        "pixels/scale": np.tile(scale, width).astype(np.float32),
        "pixels/shift": np.tile(shift, width).astype(np.float32),
    }
    operations = (
        ("Reshape", "pixels/rows"),
        ("Mul", "pixels/scale"),
        ("Add", "pixels/shift"),
        ("Reshape", "pixels/places"),
    )
    value, made = str(cast.output[0]), []
    for kind, constant in operations:
        given, value = value, f"{constant}/done"
        name = f"preprocess/{constant}"
        made.append(onnx.helper.make_node(kind, [given, constant], [value], name))
    last = onnx.helper.make_node(
        "Transpose", [value], [steps[-1].output[0]], str(transpose.name), perm=[0, 3, 1, 2]
    )
    gone = {str(step.name) for step in steps[1:]}
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    for node in graph.nodes:
        if node.name not in gone:
            model.graph.node.append(node)
        if node.name == cast.name:
            model.graph.node.extend([*made, last])
    model.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in constants.items()
    )
    return Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))


def pixel_means(graph: Graph, means: Mapping[str, Sequence[float]]) -> NDArray[np.float64] | None:
    """Return the mean of each colour as the folded graph sees it, of the normalised pictures'."""
    found = _pattern(graph)
    if found is None:
        return None
    _, conv, scale, shift, zero = found
    normalised = means.get(str(conv.input[0]))
    if normalised is None:
        return None
    colours: NDArray[np.float64] = ((np.asarray(normalised) - shift) / scale - zero) / 255
    return colours


def _zero_level(scale: NDArray[np.float64], shift: NDArray[np.float64], padded: bool) -> int | None:
    """Return the level of a pixel that stands for zero, or None if none is near enough."""
    if not padded:
        return 0
    means = -shift / scale
    level = round(float(means.mean()))
    return level if np.abs(means - level).max() <= _NEAR and 0 <= level <= 255 else None


_Found: TypeAlias = tuple[
    list[onnx.NodeProto], onnx.NodeProto, NDArray[np.float64], NDArray[np.float64], int
]


def _pattern(graph: Graph) -> _Found | None:
    """Return the steps, the convolution, scale and shift by colour, and the level of zero."""
    steps = _steps(graph)
    if steps is None or not _are_bytes(graph):
        return None
    convs = graph.consumers.get(str(steps[-1].output[0]), [])
    if len(convs) != 1 or convs[0].op_type != "Conv" or len(convs[0].input) != 3:
        return None
    settings = {item.name: item for item in convs[0].attribute}
    padded = "pads" in settings and any(settings["pads"].ints)
    automatic = "auto_pad" in settings and settings["auto_pad"].s not in (b"NOTSET", b"VALID")
    grouped = "group" in settings and settings["group"].i != 1
    own = all(
        name in graph.initializers and len(graph.consumers[name]) == 1
        for name in convs[0].input[1:]
    )
    scale, shift = (_by_channel(graph, step) for step in steps[2:])
    if scale is None or shift is None or not own or automatic or grouped:
        return None
    zero = _zero_level(scale, shift, padded)
    return None if zero is None else (steps, convs[0], scale, shift, zero)


def _steps(graph: Graph) -> list[onnx.NodeProto] | None:
    """Return the nodes images -> Cast -> Transpose -> Mul -> Add, or None where others are."""
    value, steps = "images", []
    for kind in _STEPS:
        after = graph.consumers.get(value, [])
        if value == "images":  # the batch size is read off them as well
            after = [node for node in after if node.op_type != "Shape"]
        if len(after) != 1 or after[0].op_type != kind:
            return None
        steps.append(after[0])
        value = str(after[0].output[0])
    return steps


def _by_channel(graph: Graph, step: onnx.NodeProto) -> NDArray[np.float64] | None:
    constants = [name for name in step.input if name in graph.initializers]
    if len(constants) != 1:
        return None
    values = graph.weight(constants[0]).astype(np.float64).ravel()
    return values if values.size == _channels(graph) else None


def _channels(graph: Graph) -> int:
    """Return how many channels pictures have, which come with channels last."""
    images = next(value for value in graph.model.graph.input if value.name == "images")
    return int(images.type.tensor_type.shape.dim[-1].dim_value)


def _are_bytes(graph: Graph) -> bool:
    images = next(value for value in graph.model.graph.input if value.name == "images")
    return bool(images.type.tensor_type.elem_type == onnx.TensorProto.UINT8)


def _rewire(model: onnx.ModelProto, steps: set[str], conv: str, zero: int) -> None:
    """Replace the steps by a transposition of bytes and the pair that says what they mean."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    made = [
        onnx.helper.make_node(
            "Transpose", ["images"], ["images_nchw"], "preprocess/Transpose", perm=[0, 3, 1, 2]
        ),
        onnx.helper.make_node(
            "DequantizeLinear",
            ["images_nchw", "pixels_scale", "pixels_zero_point"],
            [PIXELS],
            "preprocess/DequantizeLinear",
        ),
    ]
    for node in nodes:
        if node.name == conv:
            model.graph.node.extend(made)
            node.input[0] = PIXELS
        if node.name not in steps:
            model.graph.node.append(node)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.asarray(1 / 255, np.float32), "pixels_scale"),
            numpy_helper.from_array(np.asarray(zero, np.uint8), "pixels_zero_point"),
        ]
    )
