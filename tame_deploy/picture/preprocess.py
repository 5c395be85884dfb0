"""From pictures as people have them to the network's input: the only Python copy of these steps.

Resizing and cropping equal torchvision's `Resize` and `CenterCrop` on a PIL image to the pixel.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageSource",
    "as_input",
    "load_image",
    "prepare",
    "prepare_batch",
    "visible_box",
]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]"

#: Decoders that may see a user's file. Pillow has more, some of which start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pnm"}
)
#: Where Pillow itself begins to warn of decompression bombs.
MAX_PIXELS = 89_000_000

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return a picture as people see it: 8-bit RGB, EXIF rotation applied, first frame.

    Args:
        source: a path, the bytes of a file, a PIL image, or a uint8 array of shape (H, W, 3).
        max_pixels: what is larger is refused before it is decoded; at most 89 megapixels.

    Raises:
        InputError: if it is broken, empty, too large or of an unknown kind.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        with _explained("picture"):  # a file that was opened lazily is decoded only now
            return _to_rgb(source, "picture", max_pixels)
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "picture", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        if os.path.isdir(source):
            raise InputError(f"{os.fspath(source)} is a directory; expected a picture")
        return _decode(source, os.fspath(source), max_pixels)
    raise InputError(
        f"found {type(source).__name__}; expected a path, bytes, a PIL image or a uint8 array"
    )


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one line."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name} is over {MAX_PIXELS // 10**6} megapixels") from None
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a picture in {', '.join(FORMATS)}") from None
    # Pillow's decoders answer damaged files with nearly any exception there is.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{name} cannot be decoded: {reason}") from None


def _decode(stream: Any, name: str, max_pixels: int) -> Image.Image:
    with _explained(name), Image.open(stream, formats=FORMATS) as image:
        return _to_rgb(image, name, max_pixels)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    most = min(max_pixels, MAX_PIXELS)
    if width < 1 or height < 1:
        raise InputError(f"{name} is {width}x{height}; expected at least one pixel")
    if width * height > most:
        raise InputError(
            f"{name} is {width}x{height}; expected at most {most / 10**6:g} megapixels"
        )


def _from_array(array: NDArray[Any], max_pixels: int) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            f"found {array.dtype} array of shape {array.shape}; expected uint8 (H, W, 3), RGB"
        )
    _check_size(array.shape[1], array.shape[0], "array", max_pixels)
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_size(image.width, image.height, name, max_pixels)
    # A PIL image from the caller must come back untouched, hence no in_place.
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise InputError(f"{name} has floating-point pixels; expected 8 or 16 bits a channel")
    if upright.mode.startswith("I"):
        upright = _sixteen_to_eight_bits(upright, name)
    return upright.convert("RGB")


def _sixteen_to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion clips at 255 instead."""
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise InputError(
            f"{name} has pixels from {pixels.min()} to {pixels.max()}; expected 0 to 65535"
        )
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


def prepare(
    image: Image.Image, spec: ImageSpec, place: tuple[float, float] | None = None
) -> Image.Image:
    """Resize and crop a picture to height x width of `spec`.

    Args:
        image: any mode that can be interpolated.
        spec: the sizes.
        place: where to crop, (across, down) in [0, 1] of what is left over; the middle by default.
    """
    if spec.crop == "none":
        return image.resize((spec.width, spec.height), _FILTERS[spec.interpolation])
    resized = image.resize(_resized_size(image.size, spec), _FILTERS[spec.interpolation])
    left, top = _crop_corner(resized.size, spec)
    if place is not None:
        left = round(place[0] * max(0, resized.width - spec.width)) if left > 0 else left
        top = round(place[1] * max(0, resized.height - spec.height)) if top > 0 else top
    # PIL's crop pads with black where the box leaves the picture, as CenterCrop does.
    return resized.crop((left, top, left + spec.width, top + spec.height))


def _resized_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    short, long = min(size), max(size)
    # A strip one pixel wide would otherwise grow without bound.
    resized_long = int(spec.resize * long / short)
    if spec.resize * resized_long > MAX_PIXELS:
        raise InputError(f"picture is {size[0]}x{size[1]}: too long and narrow to resize")
    return (spec.resize, resized_long) if size[0] <= size[1] else (resized_long, spec.resize)


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


def prepare_batch(images: Sequence[Image.Image], spec: ImageSpec) -> NDArray[Any]:
    """Return RGB pictures as the `images` tensor of `spec`.

    Returns:
        uint8 (B, height, width, 3), or float32 (B, 3, height, width) with (x/255 - mean) / std.
    """
    return as_input(np.stack([np.asarray(prepare(image, spec)) for image in images]), spec)


def as_input(pixels: NDArray[np.uint8], spec: ImageSpec) -> NDArray[Any]:
    """Return prepared pixels, uint8 (B, height, width, 3), as the `images` tensor of `spec`."""
    if spec.dtype == "uint8":
        return pixels
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
