"""Bias correction: what rounding the weights adds to a layer's mean output is taken off its bias.

A rounded weight is off by a fixed amount, so on the mean input it shifts the output by a fixed
amount, too (Nagel et al., ICCV 2019, section 4.2, with means measured rather than derived).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from tame_deploy.calibration.graph import Graph, attribute
from tame_deploy.calibration.passes.weights import layer_steps

__all__ = ["bias_shifts", "correct_biases"]


def bias_shifts(
    graph: Graph, means: Mapping[str, Sequence[float]], *, portable: bool = False
) -> dict[str, NDArray[np.float64]]:
    """Return by how much rounding shifts each output channel of each layer with a bias.

    Args:
        graph: the graph before Q/DQ pairs are inserted.
        means: mean of each channel (axis 1), by activation.
        portable: whether weights are rounded such that every processor gives the same.
    """
    shifts = {}
    for layer in graph.layers:
        if layer.op_type == "MatMul" or len(layer.input) < 3 or not layer.input[2]:
            continue
        bias, mean = str(layer.input[2]), np.asarray(means.get(layer.input[0], ()))
        if bias not in graph.initializers or len(graph.consumers[bias]) > 1 or not mean.size:
            continue
        shift = _mean_shift(graph, layer, mean, layer_steps(graph, layer, portable=portable))
        if shift is not None:
            shifts[str(layer.name)] = shift
    return shifts


def correct_biases(
    graph: Graph, shifts: Mapping[str, NDArray[np.float64]], excluded: frozenset[str] = frozenset()
) -> Graph:
    """Return the graph with biases that make up for rounding.

    Args:
        graph: the graph before Q/DQ pairs are inserted.
        shifts: what `bias_shifts` found.
        excluded: names of layers whose weights are not rounded; their biases stay.
    """
    corrected = {
        str(layer.input[2]): graph.weight(layer.input[2]) - shifts[str(layer.name)]
        for layer in graph.layers
        if layer.name in shifts and layer.name not in excluded
    }
    return graph.with_weights(corrected)


def _mean_shift(
    graph: Graph, layer: onnx.NodeProto, mean: NDArray[np.float64], steps: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return how rounding shifts each output channel on the mean input (padding left out)."""
    weight = graph.weight(layer.input[1]).astype(np.float64)
    if layer.op_type == "Gemm" and not attribute(layer, "transB"):
        weight = weight.T
    error = _rounded(weight, steps) - weight
    by_input = error.reshape(*error.shape[:2], -1).sum(axis=2)  # (O, I / groups)
    groups = attribute(layer, "group", 1) if layer.op_type == "Conv" else 1
    if len(mean) != by_input.shape[1] * groups or len(by_input) % groups:
        return None
    parts = zip(np.split(by_input, groups), np.split(mean, groups), strict=True)
    return np.concatenate([rows @ part for rows, part in parts])


def _rounded(weight: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a weight (O, ...) as int8 by output channel holds it."""
    steps = steps.reshape(-1, *[1] * (weight.ndim - 1))
    rounded: NDArray[np.float64] = np.round(weight / steps) * steps
    return rounded
