"""From pictures to the network's input.

Resizing and cropping equal torchvision's `Resize` and `CenterCrop` on a PIL image to the pixel. All
of the package that prepares NumPy arrays does it here; an exported graph that takes uint8 or uint16
normalises inside, in PyTorch (`model/fused.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.picture.files import FORMATS, IMAGE_SUFFIXES
from tame_deploy.picture.reading import (
    MAX_PIXELS,
    MOST_PIXELS,
    ImageSource,
    Levels,
    Picture,
    load_image,
    load_picture,
)
from tame_deploy.picture.window import Window, check_window, parse_window

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "MOST_PIXELS",
    "ImageSource",
    "Levels",
    "Picture",
    "Window",
    "as_input",
    "check_window",
    "load_image",
    "load_picture",
    "parse_window",
    "prepare",
    "prepare_batch",
    "prepared_levels",
    "shares_of",
    "shown",
    "size_of",
    "visible_box",
]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

#: Shares of red, green and blue in grey, in 1/65536: those of Pillow's mode "L".
_LUMA = (19595, 38470, 7471)


def prepare(
    image: Image.Image, spec: ImageSpec, place: tuple[float, float] | None = None
) -> Image.Image:
    """Resize and crop or pad a picture to height x width of `spec`, whatever its channels.

    Args:
        image: any mode that can be interpolated; "F" for levels of 16 bits.
        spec: the sizes, and what is filled in.
        place: where to crop, (across, down) in [0, 1] of what is left over; the middle by default.
    """
    if spec.crop == "none":
        return image.resize((spec.width, spec.height), _FILTERS[spec.interpolation])
    resized = image.resize(_resized_size(image.size, spec), _FILTERS[spec.interpolation])
    left, top = _crop_corner(resized.size, spec)
    if spec.crop == "pad":
        fill = _deep_level(spec.pad_level, spec) if image.mode == "F" else spec.pad_level
        canvas = Image.new(image.mode, (spec.width, spec.height), (fill,) * len(image.getbands()))
        canvas.paste(resized, (-left, -top))
        return canvas
    if place is not None:
        left = round(place[0] * max(0, resized.width - spec.width)) if left > 0 else left
        top = round(place[1] * max(0, resized.height - spec.height)) if top > 0 else top
    # PIL's crop pads with black where the box leaves the picture, as CenterCrop does.
    return resized.crop((left, top, left + spec.width, top + spec.height))


def prepared_levels(
    picture: Picture, spec: ImageSpec, place: tuple[float, float] | None = None
) -> Levels:
    """Return a picture as the network sees it, not normalised.

    Args:
        picture: of `load_picture`.
        spec: channels, bits and sizes.
        place: as of `prepare`.

    Returns:
        uint8 (height, width, channels); uint16 for a graph that takes it.
    """
    fitted = _fitted(picture, spec)
    if isinstance(fitted, Image.Image):
        pixels: Levels = np.asarray(prepare(fitted, spec, place))
        return pixels[..., None] if pixels.ndim == 2 else pixels
    planes = (fitted[..., channel] for channel in range(fitted.shape[2]))
    return np.stack([_prepared_plane(plane, spec, place) for plane in planes], axis=2)


def _prepared_plane(
    plane: NDArray[Any], spec: ImageSpec, place: tuple[float, float] | None
) -> NDArray[Any]:
    if plane.dtype == np.uint8:
        return np.asarray(prepare(Image.fromarray(np.ascontiguousarray(plane)), spec, place))
    # In float32, the one mode that Pillow interpolates without losing bits of 16.
    exact = np.asarray(prepare(Image.fromarray(plane.astype(np.float32)), spec, place))
    levels: NDArray[np.uint16] = np.clip(np.rint(exact), 0, 65535).astype(np.uint16)
    return levels


def _fitted(picture: Picture, spec: ImageSpec) -> Picture:
    """Return a picture with the channels and bits that a network takes."""
    if isinstance(picture, Image.Image):
        image = picture.convert("L") if spec.channels == 1 else picture
        if spec.dtype != "uint16":
            return image
        levels: Levels = np.asarray(image).reshape(image.height, image.width, spec.channels)
    else:
        levels = picture
    if spec.channels == 1 and levels.shape[2] == 3:
        sums = (levels.astype(np.uint32) * np.array(_LUMA, np.uint32)).sum(2, dtype=np.uint32)
        levels = (((sums + 32768) >> 16)[..., None]).astype(np.uint16)
    elif spec.channels == 3 and levels.shape[2] == 1:
        levels = levels.repeat(3, axis=2)
    if spec.dtype == "uint16" and levels.dtype == np.uint8:
        return np.array([_deep_level(level, spec) for level in range(256)], np.uint16)[levels]
    return levels


def _deep_level(level: int, spec: ImageSpec) -> int:
    """Return what 8 bits' level is for a graph of 16: 0 to 255 fill its window."""
    low, high = spec.window or (0, 65535)
    return low + (level * (high - low) + 127) // 255


def size_of(picture: Picture) -> tuple[int, int]:
    """Return width and height."""
    if isinstance(picture, Image.Image):
        return picture.size
    return picture.shape[1], picture.shape[0]


def shown(picture: Picture) -> Image.Image:
    """Return a picture for people, RGB of 8 bits.

    Of three channels and more, the first three are red, green and blue; of two, the mean is shown.
    Levels of 16 bits are stretched, from the least that is shown to the greatest.
    """
    if isinstance(picture, Image.Image):
        return picture
    levels = picture[..., :3].astype(np.int64)
    if levels.shape[2] == 2:
        levels = (levels.sum(axis=2, keepdims=True) + 1) // 2
    if picture.dtype == np.uint16:
        low = int(levels.min())
        span = max(int(levels.max()) - low, 1)
        levels = ((levels - low) * 255 + span // 2) // span
    return Image.fromarray(levels.astype(np.uint8).repeat(3 // levels.shape[2], axis=2))


def _resized_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    if spec.crop == "pad":
        return _fitting_size(size, spec)
    short, long = min(size), max(size)
    # A strip one pixel wide would otherwise grow without bound.
    resized_long = int(spec.resize * long / short)
    if spec.resize * resized_long > MAX_PIXELS:
        raise InputError(f"picture is {size[0]}x{size[1]}: too long and narrow to resize")
    return (spec.resize, resized_long) if size[0] <= size[1] else (resized_long, spec.resize)


def _fitting_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Return the largest size of the same proportions that fits, the shorter side rounded."""
    (width, height), (across, down) = size, (spec.width, spec.height)
    if width * down >= height * across:
        fitting = across, (2 * height * across + width) // (2 * width)
    else:
        fitting = (2 * width * down + height) // (2 * height), down
    if min(fitting) < 1:
        raise InputError(f"picture is {width}x{height}: too long and narrow to resize")
    return fitting


def _crop_corner(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Return left and top of the central crop; padding, where needed, is floored as torchvision."""
    return tuple(  # type: ignore[return-value]
        -((wanted - have) // 2) if wanted > have else round((have - wanted) / 2.0)
        for have, wanted in zip(size, (spec.width, spec.height), strict=True)
    )


def visible_box(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of what the network sees, in the picture's own pixels."""
    if spec.crop == "none":
        return (0.0, 0.0, float(size[0]), float(size[1]))
    resized = _resized_size(size, spec)
    left, top = _crop_corner(resized, spec)
    across, down = size[0] / resized[0], size[1] / resized[1]
    return (
        left * across,
        top * down,
        (left + spec.width) * across,
        (top + spec.height) * down,
    )


def prepare_batch(images: Sequence[Picture], spec: ImageSpec) -> NDArray[Any]:
    """Return pictures of `load_picture` as the `images` tensor of `spec`.

    Returns:
        uint8 or uint16 (B, height, width, channels), or float32 (B, channels, height, width) with
        (x/255 - mean) / std.
    """
    return as_input(np.stack([prepared_levels(image, spec) for image in images]), spec)


def as_input(pixels: NDArray[Any], spec: ImageSpec) -> NDArray[Any]:
    """Return prepared pixels as the `images` tensor of `spec`.

    Args:
        pixels: (B, height, width, channels): levels, or float32 in [0, 1]. A graph that takes
            levels gets the latter rounded to whole ones, in its window.
        spec: dtype, window, mean and std.
    """
    if spec.dtype == "float32":
        mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
        normalised = ((shares_of(pixels, spec) - mean) / std).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(normalised, dtype=np.float32)
    if pixels.dtype != np.float32:
        return pixels
    if spec.dtype == "uint8":
        eight: NDArray[np.uint8] = np.rint(pixels * 255).astype(np.uint8)
        return eight
    low, high = spec.window or (0, 65535)
    deep: NDArray[np.uint16] = np.rint(low + pixels * np.float32(high - low)).astype(np.uint16)
    return deep


def shares_of(pixels: NDArray[Any], spec: ImageSpec) -> NDArray[np.float32]:
    """Return prepared pixels (B, height, width, channels) as shares of their range, in [0, 1].

    That of 16 bits is the window of `spec`, or of each picture its own; float32 is in [0, 1].
    """
    exact: NDArray[np.float32] = pixels.astype(np.float32, copy=False)
    if pixels.dtype == np.float32:
        return exact
    if pixels.dtype == np.uint8:
        shares: NDArray[np.float32] = exact / np.float32(255)
        return shares
    low, high = spec.window or _own_window(exact)
    inside: NDArray[np.float32] = np.clip((exact - low) / (high - low), 0, 1)
    return inside


def _own_window(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the least and the greatest level of each picture; one apart where all are equal."""
    low = pixels.min(axis=(1, 2, 3), keepdims=True)
    return low, np.maximum(pixels.max(axis=(1, 2, 3), keepdims=True), low + 1)
