"""From what was seen of a tensor to the range that eight bits should span, by six methods.

A range always holds zero, because zero must have a code of its own (padding, ReLU).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from tame_deploy.calibration.observing.histogram import BINS, Histogram, TensorStatistics

__all__ = ["METHODS", "PERCENTILE", "Range", "RangeMethod", "ranges_of"]

Range: TypeAlias = tuple[float, float]
RangeMethod = Literal["minmax", "moving-average", "percentile", "entropy", "mse", "mse-symmetric"]
METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)

#: Share of the values that the percentile method keeps below its upper bound, and above its lower.
PERCENTILE = 0.9999
#: Codes on one side of zero in the entropy method, as in TensorRT's (Migacz, GTC 2017).
_ENTROPY_LEVELS = 128
_HALF = BINS // 2


def ranges_of(statistics: TensorStatistics) -> dict[RangeMethod, Range]:
    """Return the range by each method.

    `mse` is for 256 codes over the range, `mse-symmetric` for 127 on each side of zero.
    """
    found: dict[RangeMethod, Callable[[TensorStatistics], Range]] = {
        "minmax": lambda seen: (seen.low, seen.high),
        "moving-average": lambda seen: seen.moving or (seen.low, seen.high),
        "percentile": lambda seen: _percentile(seen.histogram),
        "entropy": lambda seen: _entropy(seen.histogram),
        "mse": lambda seen: _least_squares(seen, symmetric=False),
        "mse-symmetric": lambda seen: _least_squares(seen, symmetric=True),
    }
    return {name: _within(method(statistics), statistics) for name, method in found.items()}


def _within(found: Range, seen: TensorStatistics) -> Range:
    """Return the range cut to what was seen, and stretched to hold zero."""
    low, high = max(found[0], seen.low), min(found[1], seen.high)
    return min(low, 0.0), max(high, 0.0)


def _percentile(histogram: Histogram) -> Range:
    shares = np.cumsum(histogram.counts) / histogram.counts.sum()
    first = int(np.searchsorted(shares, 1 - PERCENTILE, side="right"))
    last = int(np.searchsorted(shares, PERCENTILE))
    return (first - _HALF) * histogram.width, (last + 1 - _HALF) * histogram.width


def _entropy(histogram: Histogram) -> Range:
    """Return the symmetric range whose eight-bit histogram is nearest to the whole (KL)."""
    magnitudes = (histogram.counts[_HALF:] + histogram.counts[_HALF - 1 :: -1]).astype(float)
    magnitudes[0] = magnitudes[1]  # the zeros of a ReLU would outweigh everything else
    used = int(np.flatnonzero(magnitudes)[-1]) + 1 if magnitudes.any() else 1
    best, threshold = np.inf, used
    for end in range(_ENTROPY_LEVELS, used + 1, max(1, used // 256)):
        divergence = _divergence(magnitudes, end, used)
        if divergence < best:
            best, threshold = divergence, end
    bound = threshold * histogram.width
    return -bound, bound


def _divergence(magnitudes: NDArray[np.float64], end: int, used: int) -> float:
    """Return KL(P | Q): P clips all beyond `end` into its last bin, Q has 128 levels."""
    clipped = magnitudes[:end].copy()
    clipped[-1] += magnitudes[end:used].sum()
    edges = (np.arange(_ENTROPY_LEVELS) * end) // _ENTROPY_LEVELS
    present = (magnitudes[:end] > 0).astype(float)
    sums = np.add.reduceat(magnitudes[:end], edges)
    filled = np.add.reduceat(present, edges)
    level = np.repeat(sums / np.maximum(filled, 1), np.diff(np.append(edges, end)))
    quantized = level * present
    p, q = clipped / clipped.sum(), quantized / max(quantized.sum(), 1e-300)
    both = p > 0
    return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())


def _least_squares(seen: TensorStatistics, *, symmetric: bool) -> Range:
    """Return the part of the whole range that loses least to clipping and rounding together."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if low == high:
        return low, high
    used = np.flatnonzero(seen.histogram.counts)
    counts, values = seen.histogram.counts[used], seen.histogram.centres[used]
    parts = np.linspace(0.2, 1, 81)
    losses = [_rounding_loss(values, counts, low * k, high * k, symmetric) for k in parts]
    best = float(parts[int(np.argmin(losses))])
    return low * best, high * best


def _rounding_loss(
    values: NDArray[np.float64], counts: NDArray[np.int64], low: float, high: float, symmetric: bool
) -> float:
    if symmetric:
        step = max(-low, high) / 127
        rounded = np.clip(np.round(values / step), -127, 127) * step
    else:
        step = (high - low) / 255
        zero = np.round(-low / step)
        rounded = (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step
    return float((counts * (values - rounded) ** 2).sum())
