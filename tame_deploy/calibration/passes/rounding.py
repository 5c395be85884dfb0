"""Weights rounded together: each makes up for what rounding those before it did to the output.

To round each weight to the nearest code is best for the weights, not for what the layer gives:
inputs are correlated, so the error of one weight can be taken back by the next (Frantar et al.,
GPTQ, ICLR 2023, algorithm 1; the objective is equation 4 of Nagel et al., AdaRound, ICML 2020).
What is left of it on the mean input goes into the bias.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tame_deploy.calibration.arithmetic.overflow import is_depthwise
from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing.moments import InputMoments
from tame_deploy.calibration.passes.weights import layer_steps, output_axis

__all__ = ["RoundedLayer", "round_layer", "with_rounded"]

#: Added to the second moments, as a share of their mean: what is rare is not trusted.
_DAMPING = 0.1
#: So many weights of a row are rounded before the others of the row learn of it.
_BLOCK = 128

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class RoundedLayer:
    """A layer's weight with values that have codes, and its bias if it has one of its own."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None


def with_rounded(
    graph: Graph, rounded: Mapping[str, RoundedLayer], excluded: Collection[str]
) -> Graph:
    """Return the graph with the rounded weights and biases of the layers that are quantized."""
    changed: dict[str, NDArray[np.float32]] = {}
    for layer in graph.layers:
        found = rounded.get(str(layer.name))
        if found is not None and layer.name not in excluded:
            changed[str(layer.input[1])] = found.weight
            if found.bias is not None:
                changed[str(layer.input[2])] = found.bias
    return graph.with_weights(changed)


def round_layer(
    graph: Graph, layer: onnx.NodeProto, moments: InputMoments, *, portable: bool
) -> RoundedLayer | None:
    """Return a layer rounded for the inputs it meets, or None if it shares its weight.

    The steps that a quantizer derives from the weight stay as they are: the weights that decide
    them keep their values, and no other grows beyond them.

    Args:
        graph: before Q/DQ pairs are inserted.
        layer: one of its layers.
        moments: of the layer's inputs.
        portable: whether steps are such that every processor gives the same.
    """
    if len(graph.consumers[layer.input[1]]) > 1:
        return None
    weight = graph.weight(layer.input[1])
    axis = output_axis(layer)
    rows = np.moveaxis(weight, axis, 0).astype(np.float64)
    steps = layer_steps(graph, layer, portable=portable)[:, None]
    groups, length = moments.total.shape
    flat = rows.reshape(-1, length)
    bias = _own_bias(graph, layer)
    second = moments.second(centred=bias is not None)
    shape = (groups, -1, length)
    codes = np.rint(flat / steps)
    pairs = portable and not is_depthwise(layer, weight.shape)
    free, lowest, highest = _room(flat, codes, pairs=pairs)
    found = _rounded_in_turn(
        (flat / steps).reshape(shape),
        second,
        np.where(free, lowest, codes).reshape(shape),
        np.where(free, highest, codes).reshape(shape),
    ).reshape(flat.shape)
    kept = np.where(free, found * steps, flat).reshape(rows.shape)
    if bias is not None:
        error = (found * steps - flat).reshape(shape)
        bias = bias - np.einsum("gol,gl->go", error, moments.mean).reshape(-1)
    return RoundedLayer(
        np.moveaxis(kept, 0, axis).astype(np.float32),
        None if bias is None else bias.astype(np.float32),
    )


def _own_bias(graph: Graph, layer: onnx.NodeProto) -> NDArray[np.float64] | None:
    """Return the bias of a layer that no other reads; None without one."""
    name = str(layer.input[2]) if len(layer.input) > 2 and layer.op_type != "MatMul" else ""
    if name not in graph.initializers or len(graph.consumers[name]) > 1:
        return None
    bias = graph.weight(name).astype(np.float64)
    return bias if bias.ndim == 1 else None


def _room(rows: Rows, codes: Rows, *, pairs: bool) -> tuple[NDArray[np.bool_], Rows, Rows]:
    """Return which weights may get another code, and the lowest and highest of each row.

    The largest decides the step; where sums of pairs matter, the two largest on either side of
    zero do.
    """
    free = np.ones(rows.shape, bool)
    if not pairs or rows.shape[1] < 2:
        largest = np.abs(rows).argmax(axis=1)[:, None]
        np.put_along_axis(free, largest, values=False, axis=1)
        peak = np.abs(np.take_along_axis(codes, largest, axis=1))
        return free, -peak, peak
    order = np.argsort(rows, axis=1)
    np.put_along_axis(free, order[:, [0, 1, -2, -1]], values=False, axis=1)
    ordered = np.take_along_axis(codes, order, axis=1)
    return free, np.minimum(ordered[:, [1]], 0), np.maximum(ordered[:, [-2]], 0)


def _rounded_in_turn(values: Rows, second: Rows, lowest: Rows, highest: Rows) -> Rows:
    """Return codes (groups, rows, D) for values in steps; each error moves to those that follow.

    Those first whose inputs are largest: the others can make up for them.
    """
    length = second.shape[-1]
    strength = np.einsum("gll->gl", second)
    order = np.argsort(-strength, axis=1, kind="stable")
    damping = _DAMPING * np.maximum(strength.mean(axis=1), np.finfo(np.float32).tiny)
    second = np.take_along_axis(second, order[:, :, None], 1)
    second = np.take_along_axis(second, order[:, None], 2)
    second = second + damping[:, None, None] * np.eye(length)
    upper = np.linalg.cholesky(np.linalg.inv(second)).transpose(0, 2, 1)
    left, low, high = (
        np.take_along_axis(np.broadcast_to(a, values.shape), order[:, None], 2).copy()
        for a in (values, lowest, highest)
    )
    codes = np.empty_like(left)
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        errors = np.empty((*left.shape[:2], end - start))
        for place in range(start, end):
            now = left[:, :, place]
            codes[:, :, place] = np.clip(np.rint(now), low[:, :, place], high[:, :, place])
            error = (now - codes[:, :, place]) / upper[:, place, place, None]
            errors[:, :, place - start] = error
            left[:, :, place + 1 : end] -= (
                error[:, :, None] * upper[:, None, place, place + 1 : end]
            )
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    found: Rows = np.empty_like(codes)
    np.put_along_axis(found, np.broadcast_to(order[:, None], codes.shape), codes, axis=2)
    return found
