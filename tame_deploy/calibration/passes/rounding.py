"""Weights rounded together: each makes up for what rounding the others did to the output.

To round each weight to the nearest code is best for the weights, not for what the layer gives:
inputs are correlated, so the error of one weight can be taken back by the next (Frantar et al.,
GPTQ, ICLR 2023, algorithm 1; the objective is equation 4 of Nagel et al., AdaRound, ICML 2020).
Then each code is looked at again with all others in place (Behdin et al., QuantEase, 2023).
Short rows get the best of several steps: how well a few codes fit is luck, and can be drawn again.
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
#: How often each code is looked at again.
_SWEEPS = 2
#: Steps are tried up to this factor wider, at most so many, and fewer for long rows: all steps of
#: a row together are tried on so many weights.
_WIDEST, _MOST_STEPS, _WEIGHTS_TRIED = 1.15, 10, 640

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class RoundedLayer:
    """A layer's weight in whole steps, and its bias if it has one of its own.

    `steps` are those of the output channels, (channels,).
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    steps: NDArray[np.float64]


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
    """Return a layer rounded for the inputs it meets.

    None for one that shares its weight, and for one whose inputs vary so little, or not at all,
    that their moments tell nothing: its weights had better be rounded one by one.

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
    groups, length = moments.total.shape
    by_group = rows.reshape(groups, -1, length)
    bias = _own_bias(graph, layer)
    least = layer_steps(graph, layer, portable=portable).reshape(groups, -1)
    pairs = portable and not is_depthwise(layer, weight.shape)
    second = moments.second(centred=bias is not None)
    try:
        codes, steps = _best_codes(by_group, least, second, pairs)
    except np.linalg.LinAlgError:  # singular, or not positive definite for rounding
        return None
    found = codes * steps[:, :, None]
    if bias is not None:
        bias = bias - np.einsum("gol,gl->go", found - by_group, moments.mean).reshape(-1)
    return RoundedLayer(
        np.moveaxis(found.reshape(rows.shape), 0, axis).astype(np.float32),
        None if bias is None else bias.astype(np.float32),
        steps.reshape(-1),
    )


def _best_codes(rows: Rows, least: Rows, second: Rows, pairs: bool) -> tuple[Rows, Rows]:
    """Return codes (groups, rows, D), and the step of each row (groups, rows) that suits it best.

    Args:
        rows: (groups, rows, D).
        least: the finest steps, (groups, rows).
        second: second moments of the inputs, (groups, D, D).
        pairs: whether sums of two weights of a row must stay below a bound, as `least` has it.
    """
    groups, _, length = rows.shape
    tried = min(_MOST_STEPS, max(1, _WEIGHTS_TRIED // length))
    widths = np.linspace(1, _WIDEST, tried) if tried > 1 else np.ones(1)
    steps = least[:, None] * widths[:, None]  # (groups, tried, rows)
    values = (rows[:, None] / steps[..., None]).reshape(groups, -1, length)
    strength = np.einsum("gll->gl", second).mean(axis=1)
    damping = _DAMPING * np.maximum(strength, np.finfo(np.float32).tiny)
    damped = second + damping[:, None, None] * np.eye(length)
    lowest, highest = _room(np.rint(values), pairs=pairs)
    codes = _rounded_in_turn(values, damped, lowest, highest)
    codes = _looked_at_again(codes, values, damped, lowest, highest)
    error = codes - values
    lost = ((error @ damped) * error).sum(axis=2).reshape(steps.shape) * steps**2
    best = lost.argmin(axis=1)[:, None]  # (groups, 1, rows)
    chosen = np.take_along_axis(codes.reshape(*steps.shape, length), best[..., None], 1)
    return chosen[:, 0], np.take_along_axis(steps, best, 1)[:, 0]


def _own_bias(graph: Graph, layer: onnx.NodeProto) -> NDArray[np.float64] | None:
    """Return the bias of a layer that no other reads; None without one."""
    name = str(layer.input[2]) if len(layer.input) > 2 and layer.op_type != "MatMul" else ""
    if name not in graph.initializers or len(graph.consumers[name]) > 1:
        return None
    bias = graph.weight(name).astype(np.float64)
    return bias if bias.ndim == 1 else None


def _room(codes: Rows, *, pairs: bool) -> tuple[Rows, Rows]:
    """Return the lowest and the highest code that each weight of rows (..., D) may get.

    None may grow beyond the largest; where sums of pairs matter, none but the largest on its side
    of zero beyond the second largest there.
    """
    if not pairs or codes.shape[-1] < 2:
        peak = np.broadcast_to(np.abs(codes).max(axis=-1, keepdims=True), codes.shape)
        return -peak, peak
    ordered = np.sort(codes, axis=-1)
    bounds = []
    for first, second, place in (
        (np.minimum(ordered[..., :1], 0), np.minimum(ordered[..., 1:2], 0), codes.argmin(axis=-1)),
        (np.maximum(ordered[..., -1:], 0), np.maximum(ordered[..., -2:-1], 0), codes.argmax(-1)),
    ):
        bound = np.broadcast_to(second, codes.shape).copy()
        np.put_along_axis(bound, place[..., None], first, axis=-1)
        bounds.append(bound)
    return bounds[0], bounds[1]


def _rounded_in_turn(values: Rows, second: Rows, lowest: Rows, highest: Rows) -> Rows:
    """Return codes (groups, rows, D) for values in steps; each error moves to those that follow.

    Those first whose inputs are largest: the others can make up for them.
    """
    length = second.shape[-1]
    order = np.argsort(-np.einsum("gll->gl", second), axis=1, kind="stable")
    second = np.take_along_axis(second, order[:, :, None], 1)
    second = np.take_along_axis(second, order[:, None], 2)
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


def _looked_at_again(codes: Rows, values: Rows, second: Rows, lowest: Rows, highest: Rows) -> Rows:
    """Return codes of which none alone could be better: each is chosen with all others in place."""
    codes = codes.copy()
    for start in [*range(0, codes.shape[2], _BLOCK)] * _SWEEPS:
        block = slice(start, start + _BLOCK)
        slope = (codes - values) @ second[:, :, block]
        for place in range(slope.shape[2]):
            at = start + place
            best = codes[:, :, at] - slope[:, :, place] / second[:, at, at, None]
            best = np.clip(np.rint(best), lowest[:, :, at], highest[:, :, at])
            slope += (best - codes[:, :, at])[:, :, None] * second[:, None, at, block]
            codes[:, :, at] = best
    return codes
