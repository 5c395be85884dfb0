"""Where sums of two products overflow 16 bits: a bound that only the weights decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from tame_deploy.calibration.graph import attribute

__all__ = ["LARGEST_PAIR", "is_depthwise", "may_overflow", "saturation_excess"]

_LARGEST_CODE = 255
_LOWEST, _HIGHEST = -(2**15), 2**15 - 1
#: Two weights of one sign whose magnitudes sum to this at most overflow with no activations.
LARGEST_PAIR = _HIGHEST // _LARGEST_CODE
#: So many sums are made at a time: what they take stays in the processor's cache.
_BLOCK = 1 << 12


def is_depthwise(layer: onnx.NodeProto, weight_shape: Sequence[int]) -> bool:
    """Whether a layer is a depthwise convolution, whose kernels add in 32 bits everywhere."""
    return (
        layer.op_type == "Conv"
        and weight_shape[1] == 1
        and weight_shape[0] == attribute(layer, "group", 1)
    )


def may_overflow(weights: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return for each output channel whether some two of its weights can overflow.

    Args:
        weights: int8 (..., terms), whichever of them a kernel pairs.
    """
    wide = weights.astype(np.int32)
    if wide.shape[-1] < 2:
        return np.zeros(wide.shape[:-1], bool)
    ordered = np.sort(wide, axis=-1)
    above = np.maximum(ordered[..., -2:], 0).sum(axis=-1)
    below = np.minimum(ordered[..., :2], 0).sum(axis=-1)
    found: NDArray[np.bool_] = (above * _LARGEST_CODE > _HIGHEST) | (
        below * _LARGEST_CODE < _LOWEST
    )
    return found


def saturation_excess(codes: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return by how much sums whose neighbouring pairs saturate fall short of the exact ones.

    Args:
        codes: uint8 (terms, places).
        weights: int8 (channels, terms); the terms 2i and 2i + 1 make a pair.

    Returns:
        int64 (channels, places), to be taken off the exact sums.
    """
    if odd := len(codes) % 2:
        codes = np.pad(codes, ((0, odd), (0, 0)))
        weights = np.pad(weights, ((0, 0), (0, odd)))
    first, second = (weights[:, start::2].astype(np.int32) for start in (0, 1))
    above = np.maximum(first, 0) + np.maximum(second, 0)
    below = np.minimum(first, 0) + np.minimum(second, 0)
    risky = (above * _LARGEST_CODE > _HIGHEST) | (below * _LARGEST_CODE < _LOWEST)
    excess = np.zeros((len(weights), codes.shape[1]), np.int64)
    for start in range(0, codes.shape[1], _BLOCK):
        block = codes[:, start : start + _BLOCK].astype(np.int32)
        for channel in np.flatnonzero(risky.any(axis=1)):
            pairs = np.flatnonzero(risky[channel])
            sums = block[2 * pairs] * first[channel, pairs, None]
            sums += block[2 * pairs + 1] * second[channel, pairs, None]
            lost = sums - np.clip(sums, _LOWEST, _HIGHEST)
            excess[channel, start : start + _BLOCK] = lost.sum(axis=0)
    return excess
