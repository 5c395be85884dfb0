"""Pixels are eight bits already: normalisation folded into the first convolution.

What is left before it is a transposition of bytes, and no pixel is rounded. Exact where the
convolution pads nothing: a padded zero stands for the mean colour before, for black after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing.ranges import Range

__all__ = ["PIXELS", "SPAN", "fold_pixels", "pixel_means"]

#: The value that the first convolution then takes, and what it spans.
PIXELS = "pixels"
SPAN: Range = (0.0, 1.0)

_STEPS = ("Cast", "Transpose", "Mul", "Add")


def fold_pixels(graph: Graph) -> Graph | None:
    """Return the graph with its first convolution on raw pixels, or None where that is not exact.

    The pattern is images -> Cast -> Transpose -> Mul -> Add -> Conv without padding.
    """
    found = _pattern(graph)
    if found is None:
        return None
    steps, conv = found
    scale, shift = (_by_channel(graph, step) for step in steps[2:])
    weight = graph.weight(conv.input[1]).astype(np.float64)
    bias = graph.weight(conv.input[2]).astype(np.float64)
    if scale is None or shift is None or weight.shape[1] != 3:
        return None
    folded = {
        str(conv.input[1]): weight * scale[None, :, None, None] * 255,
        str(conv.input[2]): bias + np.einsum("ocij,c->o", weight, shift),
    }
    model = graph.with_weights(folded).model
    _rewire(model, {str(step.name) for step in steps}, str(conv.name))
    return Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))


def pixel_means(graph: Graph, means: Mapping[str, Sequence[float]]) -> NDArray[np.float64] | None:
    """Return the mean of each colour in [0, 1], of the means of the normalised pictures."""
    found = _pattern(graph)
    if found is None:
        return None
    steps, conv = found
    scale, shift = (_by_channel(graph, step) for step in steps[2:])
    normalised = means.get(str(conv.input[0]))
    if scale is None or shift is None or normalised is None:
        return None
    colours: NDArray[np.float64] = (np.asarray(normalised) - shift) / (255 * scale)
    return colours


def _pattern(graph: Graph) -> tuple[list[onnx.NodeProto], onnx.NodeProto] | None:
    value, steps = "images", []
    for kind in _STEPS:
        after = graph.consumers.get(value, [])
        if value == "images":  # the batch size is read off them as well
            after = [node for node in after if node.op_type != "Shape"]
        if len(after) != 1 or after[0].op_type != kind:
            return None
        steps.append(after[0])
        value = str(after[0].output[0])
    convs = graph.consumers.get(value, [])
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
    return (steps, convs[0]) if own and not (padded or automatic or grouped) else None


def _by_channel(graph: Graph, step: onnx.NodeProto) -> NDArray[np.float64] | None:
    constants = [name for name in step.input if name in graph.initializers]
    if len(constants) != 1:
        return None
    values = graph.weight(constants[0]).astype(np.float64).ravel()
    return values if values.size == 3 else None


def _rewire(model: onnx.ModelProto, steps: set[str], conv: str) -> None:
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
            numpy_helper.from_array(np.asarray(SPAN[1] / 255, np.float32), "pixels_scale"),
            numpy_helper.from_array(np.asarray(0, np.uint8), "pixels_zero_point"),
        ]
    )
