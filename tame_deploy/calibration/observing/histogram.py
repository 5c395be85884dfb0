"""What is kept of a tensor while pictures stream by: bounds, a histogram, one peak a channel."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "Histogram", "TensorStatistics"]

#: Bins of a histogram, half of them below zero.
BINS = 4096
#: The share of the old value that a moving average keeps at each picture.
MOMENTUM = 0.95
_LEAST_EXPONENT = -60


@dataclass
class Histogram:
    """Counts over [-2^exponent, 2^exponent], which doubles when a value falls outside.

    Doubling joins pairs of bins, so the counts are exact however the data arrive.
    """

    exponent: int = _LEAST_EXPONENT
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.float32], peak: float) -> None:
        """Count finite values, none of which is larger than `peak` in magnitude."""
        # peak < 2^needed
        needed = max(_LEAST_EXPONENT, math.frexp(peak)[1]) if peak > 0 else _LEAST_EXPONENT
        if not self.counts.any():
            self.exponent = needed
        while self.exponent < needed:
            self._double()
        scale = np.float32(BINS / 2.0 ** (self.exponent + 1))
        places = (values.ravel() * scale).astype(np.int32)  # towards zero, so bins mirror
        places += BINS // 2
        places -= values.ravel() < 0
        self.counts += np.bincount(places, minlength=BINS)

    def _double(self) -> None:
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        quarter = BINS // 4
        self.counts = np.concatenate(
            [np.zeros(quarter, np.int64), pairs, np.zeros(quarter, np.int64)]
        )
        self.exponent += 1

    @property
    def width(self) -> float:
        """Width of a bin."""
        return float(2.0 ** (self.exponent + 1) / BINS)

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of each bin, float64 (BINS,)."""
        return (np.arange(BINS, dtype=np.float64) - BINS / 2 + 0.5) * self.width


@dataclass
class TensorStatistics:
    """What a stream of pictures showed of one tensor.

    Attributes:
        low: least value seen.
        high: largest value seen.
        moving: moving averages of a picture's least and largest value.
        channel_peaks: float64 (C,), largest magnitude by channel (axis 1).
        channel_sums: float64 (C,), sum of a picture's channel means.
        pictures: how many pictures were seen.
    """

    low: float = math.inf
    high: float = -math.inf
    moving: tuple[float, float] | None = None
    channel_peaks: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    channel_sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    pictures: int = 0
    histogram: Histogram = field(default_factory=Histogram)

    def add(self, values: NDArray[np.float32]) -> None:
        """Add a batch, (B, C, ...), of finite values; the result does not depend on B."""
        flat = values.reshape(len(values), -1)
        lows, highs = flat.min(axis=1).tolist(), flat.max(axis=1).tolist()
        self.low, self.high = min(self.low, *lows), max(self.high, *highs)
        for low, high in zip(lows, highs, strict=True):
            before = self.moving or (low, high)
            self.moving = (
                MOMENTUM * before[0] + (1 - MOMENTUM) * low,
                MOMENTUM * before[1] + (1 - MOMENTUM) * high,
            )
        channels = values.reshape(len(values), values.shape[1], -1)
        peaks = np.maximum(channels.max(axis=(0, 2)), -channels.min(axis=(0, 2))).astype(float)
        sums = channels.mean(axis=2, dtype=np.float64).sum(axis=0)
        if self.pictures == 0:
            self.channel_peaks, self.channel_sums = peaks, sums
        else:
            self.channel_peaks = np.maximum(self.channel_peaks, peaks)
            self.channel_sums = self.channel_sums + sums
        self.pictures += len(values)
        self.histogram.add(values, float(peaks.max()))

    @property
    def channel_means(self) -> NDArray[np.float64]:
        """Mean by channel, float64 (C,)."""
        means: NDArray[np.float64] = self.channel_sums / max(self.pictures, 1)
        return means

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all of it as arrays, to be kept by a run that may be interrupted."""
        moving = self.moving or (math.nan, math.nan)
        return {
            "bounds": np.array([self.low, self.high, *moving]),
            "channel_peaks": self.channel_peaks,
            "channel_sums": self.channel_sums,
            "counts": self.histogram.counts,
            "whole": np.array([self.pictures, self.histogram.exponent]),
        }

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]]) -> TensorStatistics:
        """Return what `state` was taken of."""
        low, high, moving_low, moving_high = (float(value) for value in state["bounds"])
        pictures, exponent = (int(value) for value in state["whole"])
        return cls(
            low,
            high,
            None if math.isnan(moving_low) else (moving_low, moving_high),
            state["channel_peaks"],
            state["channel_sums"],
            pictures,
            Histogram(exponent, state["counts"]),
        )
