"""From maps to masks: the steps that every score of a map depends on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["heat_of", "keep_highest", "normalise", "ranks"]

#: Keeps a flat map from dividing by zero.
EPSILON = 1e-7


def normalise(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch each map (B, h, w) to [0, 1]; a flat one becomes 0 (TAME, section IV)."""
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    stretched: NDArray[np.float32] = ((maps - low) / np.maximum(span, EPSILON)).astype(np.float32)
    return stretched


def heat_of(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Normalise maps (B, h, w) at their resolution, then resize them bilinearly to the picture.

    Equals torch's `interpolate(mode="bilinear", align_corners=False)` when enlarging.
    """
    scaled = [
        np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BILINEAR))
        for one in normalise(maps)
    ]
    heat: NDArray[np.float32] = np.clip(np.stack(scaled), 0, 1)
    return heat


def keep_highest(heat: NDArray[np.float32], percent: float) -> NDArray[np.float32]:
    """Set all but the highest `percent` of the pixels of each map (B, H, W) to zero."""
    if percent >= 100:
        return heat
    threshold = np.percentile(heat, 100 - percent, axis=(1, 2), keepdims=True)
    return np.where(heat >= threshold, heat, np.float32(0))


def ranks(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each pixel's place in its map (B, H, W) as a share, 0 for the highest.

    Equal pixels are ordered from the top left.
    """
    flat = heat.reshape(len(heat), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    places = np.empty_like(flat)
    np.put_along_axis(places, order, np.arange(flat.shape[1], dtype=np.float32)[None], axis=1)
    shares: NDArray[np.float32] = np.divide(places, flat.shape[1]).reshape(heat.shape)
    return shares
