"""A procedural data set: one shape to name, among distractors, on a textured background.

Every picture is drawn from its own seed, so a data set of any size is the same everywhere and
needs no download; the mask says where the shape is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.picture.preprocess import Picture

__all__ = ["LABELS", "SIZE", "draw_levels", "draw_picture"]

LABELS = ("circle", "square", "triangle", "star", "cross", "ring")
SIZE = 128
_SCALE = 2  # drawn larger, then reduced, for smooth edges


def draw_picture(seed: int, size: int = SIZE) -> tuple[Image.Image, NDArray[np.bool_], int]:
    """Return a picture, the mask (size, size) of its shape, and the shape's class id.

    A ring's mask is its whole disc: the hole is what makes it a ring.

    Args:
        seed: equal seeds give equal pictures; classes follow each other in turn.
        size: side of the picture in pixels.
    """
    generator = np.random.default_rng(seed)
    class_id = seed % len(LABELS)
    canvas = _background(generator, size * _SCALE)
    draw = ImageDraw.Draw(canvas)
    for _ in range(generator.integers(3, 8)):
        _draw_distractor(draw, generator, canvas.width)
    mask = Image.new("L", canvas.size)
    _draw_shape(ImageDraw.Draw(mask), generator, class_id, canvas.width)
    canvas.paste(_texture(generator, canvas.width), mask=mask)
    picture = canvas.resize((size, size), Image.Resampling.LANCZOS)
    box = mask.getbbox()
    if LABELS[class_id] == "ring" and box is not None:
        ImageDraw.Draw(mask).ellipse(box, fill=255)
    covered = np.asarray(mask.resize((size, size), Image.Resampling.BOX)) > 127
    return picture, covered, class_id


def draw_levels(seed: int, spec: ImageSpec, size: int = SIZE) -> Picture:
    """Return the picture of a seed with the channels and bits that a network takes.

    Further channels repeat red, green and blue under grain of their own. Where the network takes 16
    bits, those below the upper 8 are noise.

    Args:
        seed: as of `draw_picture`.
        spec: channels, dtype and window.
        size: side of the picture in pixels.
    """
    picture = draw_picture(seed, size)[0]
    if spec.channels in (1, 3) and spec.dtype != "uint16":
        return picture
    generator = np.random.default_rng((seed, spec.channels))
    levels = np.asarray(picture)[..., np.arange(spec.channels) % 3].astype(np.float64)
    levels[..., 3:] += generator.normal(0, 16, levels[..., 3:].shape)
    whole = levels.clip(0, 255).astype(np.int64)
    if spec.dtype != "uint16":
        return whole.astype(np.uint8)
    low, high = spec.window or (0, 65535)
    deep = whole * 256 + generator.integers(0, 256, whole.shape)
    return (low + deep * (high - low) // 65535).astype(np.uint16)


def _background(generator: np.random.Generator, side: int) -> Image.Image:
    """Return smooth colour noise with grain."""
    cells = int(generator.integers(2, 7))
    tone = generator.uniform(40, 135, 3)
    coarse = (
        tone
        + generator.normal(0, 26, (cells, cells, 1))
        + generator.normal(0, 9, (cells, cells, 3))
    )
    smooth = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = generator.normal(0, generator.uniform(4, 16), (side // 2, side // 2, 1))
    grain = grain.repeat(2, axis=0).repeat(2, axis=1)
    pixels: NDArray[np.float64] = np.asarray(smooth) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(1))


def _texture(generator: np.random.Generator, side: int) -> Image.Image:
    """Return what a shape is filled with: a light colour with stripes.

    Light, because a masked picture is dark where it is masked: a dark shape could only be shown by
    its surroundings.
    """
    color = 255 - generator.uniform(0, 90, 3)
    angle, period = generator.uniform(0, math.pi), generator.uniform(8, 24)
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    wave = np.sin((across * math.cos(angle) + down * math.sin(angle)) * 2 * math.pi / period)
    pixels: NDArray[np.float64] = color + (wave * generator.uniform(0, 24))[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw_distractor(draw: ImageDraw.ImageDraw, generator: np.random.Generator, side: int) -> None:
    """Draw a line, an arc or a speck: noticeable, but no shape of any class."""
    x, y = generator.uniform(0, side, 2)
    length = generator.uniform(0.1, 0.4) * side
    color = tuple(int(c) for c in generator.integers(0, 256, 3))
    width = int(generator.integers(2, 7))
    kind = generator.integers(3)
    if kind == 0:
        angle = generator.uniform(0, 2 * math.pi)
        end = (x + length * math.cos(angle), y + length * math.sin(angle))
        draw.line([(x, y), end], fill=color, width=width)
    elif kind == 1:
        start = generator.uniform(0, 360)
        box = (x, y, x + length, y + length * generator.uniform(0.4, 1))
        draw.arc(box, start, start + generator.uniform(40, 110), fill=color, width=width)
    else:
        for _ in range(generator.integers(2, 7)):
            dx, dy = generator.normal(0, length / 4, 2)
            draw.ellipse((x + dx, y + dy, x + dx + width * 2, y + dy + width * 2), fill=color)


def _draw_shape(
    draw: ImageDraw.ImageDraw, generator: np.random.Generator, class_id: int, side: int
) -> None:
    radius = generator.uniform(0.13, 0.24) * side
    x, y = generator.uniform(radius, side - radius, 2)
    angle = generator.uniform(0, 2 * math.pi)
    label = LABELS[class_id]
    if label in ("circle", "ring"):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if label == "ring":
            inner = radius * generator.uniform(0.5, 0.65)
            draw.ellipse((x - inner, y - inner, x + inner, y + inner), fill=0)
        return
    outline = [
        (x + r * radius * math.cos(a + angle), y + r * radius * math.sin(a + angle))
        for r, a in _OUTLINES[label]
    ]
    draw.polygon(outline, fill=255)


def _regular(corners: int) -> list[tuple[float, float]]:
    return [(1.0, 2 * math.pi * i / corners) for i in range(corners)]


def _star() -> list[tuple[float, float]]:
    return [(1.15 if i % 2 == 0 else 0.45, math.pi * i / 5) for i in range(10)]


def _cross() -> list[tuple[float, float]]:
    arm = 0.32
    quarter = [(1.0, -arm), (1.0, arm), (arm, arm)]
    corners = []
    for turn in range(4):
        for x, y in quarter:
            corners.append((math.hypot(x, y), math.atan2(y, x) + turn * math.pi / 2))
    return corners


#: Corners as (radius, angle), for a unit radius.
_OUTLINES = {"square": _regular(4), "triangle": _regular(3), "star": _star(), "cross": _cross()}
