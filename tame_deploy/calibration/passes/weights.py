"""Eight-bit weights: the step of each output channel, such that every processor gives the same.

x86-64 processors without VNNI multiply uint8 activations by int8 weights and add the products in
pairs, in 16 bits that saturate. Which products meet is the library's choice. So a step is portable
if no two weights of a channel can overflow, whichever they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tame_deploy.calibration.arithmetic.overflow import LARGEST_PAIR, is_depthwise
from tame_deploy.calibration.graph import Graph, attribute

__all__ = ["layer_steps", "output_axis", "step_overrides"]

_LARGEST = 127
#: Steps are wider by this, so that rounding to float32 never makes a pair one code too large.
_MARGIN = 1 + 1e-6


def output_axis(layer: onnx.NodeProto) -> int:
    """Return the axis of a layer's weight that its output channels are on."""
    return 0 if layer.op_type == "Conv" or attribute(layer, "transB") else 1


def layer_steps(graph: Graph, layer: onnx.NodeProto, *, portable: bool) -> NDArray[np.float64]:
    """Return the step of each output channel of a layer's int8 weights, (channels,).

    All of the eight bits are used where that is portable: in depthwise convolutions, whose kernels
    add in 32 bits everywhere, and in channels with a single large weight on each side of zero.
    """
    weight = graph.weight(layer.input[1]).astype(np.float64)
    rows = np.moveaxis(weight, output_axis(layer), 0)
    rows = rows.reshape(len(rows), -1)
    peaks = np.abs(rows).max(axis=1)
    steps: NDArray[np.float64] = peaks / _LARGEST
    if portable and not is_depthwise(layer, weight.shape):
        steps = np.maximum(steps, _MARGIN * _largest_pairs(rows) / LARGEST_PAIR)
    return np.where(peaks > np.finfo(np.float32).tiny * _LARGEST, steps, 1.0)


def _largest_pairs(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest sum of two weights of one sign in each row, as a magnitude."""
    if rows.shape[1] < 2:
        return np.zeros(len(rows))
    ordered = np.sort(rows, axis=1)
    above = np.maximum(ordered[:, -2:], 0).sum(axis=1)
    below = np.minimum(ordered[:, :2], 0).sum(axis=1)
    return np.asarray(np.maximum(above, -below), np.float64)


def step_overrides(
    graph: Graph, nodes: Collection[str], own: Mapping[str, NDArray[np.float64]], *, portable: bool
) -> dict[str, list[dict[str, Any]]]:
    """Return steps by weight, as ONNX Runtime's tool takes them; it sets those of others itself.

    Args:
        graph: before Q/DQ pairs are inserted.
        nodes: names of the nodes that are quantized.
        own: steps of the layers whose weights were rounded to them.
        portable: whether all others get steps such that every processor gives the same.
    """
    steps: dict[str, tuple[int, NDArray[np.float64]]] = {}
    for layer in graph.layers:
        if layer.name not in nodes or not (portable or layer.name in own):
            continue
        found = own.get(str(layer.name))
        if found is None:
            found = layer_steps(graph, layer, portable=True)
        name = str(layer.input[1])
        axis, shared = steps.get(name, (output_axis(layer), found))
        steps[name] = axis, np.maximum(found, shared)
    zero = np.array(0, np.int8)
    return {
        name: [{"axis": axis, "scale": np.float32(step), "zero_point": zero} for step in found]
        for name, (axis, found) in steps.items()
    }
