"""From pictures as people have them to the network's input.

Resizing and cropping equal torchvision's `Resize` and `CenterCrop` on a PIL image to the pixel. All
of the package that prepares NumPy arrays does it here; an exported graph that takes uint8
normalises inside, in PyTorch (`model/fused.py`).
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.picture.files import FORMATS, IMAGE_SUFFIXES, open_image
from tame_deploy.picture.orientation import orientation_of, upright

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "MOST_PIXELS",
    "ImageSource",
    "Window",
    "as_input",
    "load_image",
    "parse_window",
    "prepare",
    "prepare_batch",
    "visible_box",
]

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.uint8]"
)

#: The levels of 16-bit grey that become 0 and 255.
Window: TypeAlias = "tuple[int, int]"

#: The most pixels of a picture unless the caller allows more.
MAX_PIXELS = 89_000_000
#: The most that a caller can allow: telephones have 200 megapixels.
MOST_PIXELS = 250_000_000
#: A 16-bit picture whose levels are all lower comes out nearly black: it holds 14 bits or fewer.
_DIM = 1 << 14

_log = logging.getLogger("tame_deploy.picture")

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def load_image(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    window: Window | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """Return a picture as people see it: 8-bit RGB, EXIF rotation applied, first frame.

    Args:
        source: a path, the bytes of a file, a file opened as binary (read from where it stands), a
            PIL image, or a uint8 array of shape (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey.
        max_pixels: what is larger is refused before it is decoded. 89 megapixels unless given; what
            is over 250 megapixels is always refused.
        window: of grey pictures of 16 bits (or 32), the levels that become 0 and 255; lower and
            higher ones are clipped. By default (0, 65535). Other pictures are left alone.
        background: RGB levels that show where the picture is transparent; white by default.

    Raises:
        InputError: if it is broken, empty, too large or of an unknown kind.
    """
    if window is not None and not window[0] < window[1]:
        raise InputError(f"found window {window}; expected its first level below its second")
    how = _Reading(min(max_pixels, MOST_PIXELS), window, background)
    if isinstance(source, np.ndarray):
        return _from_array(source, how)
    if isinstance(source, Image.Image):
        with _decoding_errors("picture"):  # a file that was opened lazily is decoded only now
            return _to_rgb(source, "picture", how)
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "picture", how)
    if isinstance(source, (str, os.PathLike)):
        if isinstance(source, str) and "://" in source:
            raise InputError(f"{source} is a URL; pictures are not fetched, so download it first")
        if os.path.isdir(source):
            raise InputError(f"{os.fspath(source)} is a directory; expected a picture")
        with _decoding_errors(os.fspath(source)), open(source, "rb") as stream:
            return _decode(stream, os.fspath(source), how)
    if hasattr(source, "read"):
        return _decode(io.BytesIO(_rest_of(source)), "picture", how)
    raise InputError(
        f"found {type(source).__name__}; expected a path, bytes, a file opened as binary, "
        "a PIL image or a uint8 array"
    )


def parse_window(text: str) -> Window:
    """Return a window of levels (see `load_image`) from words such as "0,4095".

    Raises:
        InputError: for anything but two integers, the first below the second.
    """
    try:
        low, high = (int(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"found window {text!r}; expected two levels, such as 0,4095") from None
    if low >= high:
        raise InputError(f"found window {text!r}; expected its first level below its second")
    return low, high


@dataclass(frozen=True)
class _Reading:
    """How a picture is read (see `load_image`)."""

    max_pixels: int
    window: Window | None
    background: tuple[int, int, int]


@contextmanager
def _decoding_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name} has more pixels than Pillow takes in its format") from None
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a picture in {', '.join(FORMATS)}") from None
    # Pillow's decoders answer damaged files with nearly any exception there is.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{name} cannot be decoded: {reason}") from None


def _rest_of(stream: IO[bytes]) -> bytes:
    """Read a file of the caller's, from where it stands."""
    with _decoding_errors("picture"):
        data: Any = stream.read()
    if not isinstance(data, bytes):
        raise InputError(f"found a file that gives {type(data).__name__}; expected one opened as "
                         'binary, with mode "rb"')  # fmt: skip
    return data


def _decode(stream: IO[bytes], name: str, how: _Reading) -> Image.Image:
    with _decoding_errors(name), open_image(stream, name) as image:
        return _to_rgb(image, name, how)


def _check_size(width: int, height: int, name: str, most: int) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{name} is {width}x{height}; expected at least one pixel")
    if width * height > most:
        bound = f"{most / 10**6:g} megapixels" if most >= 10**6 else f"{most} pixels"
        raise InputError(f"{name} is {width}x{height}; expected at most {bound}")


def _from_array(array: NDArray[Any], how: _Reading) -> Image.Image:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shaped:
        raise InputError(
            f"found {array.dtype} array of shape {array.shape}; "
            "expected uint8 (H, W, 3) RGB, (H, W, 4) RGBA or (H, W) grey"
        )
    _check_size(array.shape[1], array.shape[0], "array", how.max_pixels)
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), "array", how)


def _to_rgb(image: Image.Image, name: str, how: _Reading) -> Image.Image:
    _check_size(image.width, image.height, name, how.max_pixels)
    image.load()
    if image.mode == "F":
        raise InputError(f"{name} has floating-point pixels; expected 8 or 16 bits a channel")
    # A PIL image from the caller must come back untouched: all of these make one of their own.
    if image.mode.startswith("I"):
        rgb = _to_eight_bits(image, name, how.window).convert("RGB")
    elif _has_transparency(image):
        rgb = _over(image, how.background)
    else:
        rgb = image.convert("RGB")
    return upright(rgb, orientation_of(image.info))


def _has_transparency(image: Image.Image) -> bool:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return True
    if image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A"):
        return True
    return "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")


def _over(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Lay a picture over a background, where its own hidden colours do not show."""
    clear = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    below = Image.new("RGB", image.size, background)
    below.paste(clear, mask=clear)
    return below


def _to_eight_bits(image: Image.Image, name: str, window: Window | None) -> Image.Image:
    """Scale grey of more than 8 bits to 8; Pillow's own conversion clips at 255 instead."""
    pixels = np.asarray(image).astype(np.int64)
    if window is None:
        least, most = int(pixels.min()), int(pixels.max())
        if least < 0 or most > 65535:
            raise InputError(f"{name} has pixels from {least} to {most}; expected 0 to 65535, or a "
                             "window")  # fmt: skip
        if 0 < most < _DIM:
            _log.warning(
                "%s has 16-bit pixels of at most %d, which come out nearly black; "
                "give it a window, such as 0,%d",
                *(name, most, (1 << most.bit_length()) - 1),
            )
    low, high = window or (0, 65535)
    span = high - low
    scaled = ((np.clip(pixels, low, high) - low) * 255 + span // 2) // span
    return Image.fromarray(scaled.astype(np.uint8))


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


def as_input(pixels: NDArray[np.uint8] | NDArray[np.float32], spec: ImageSpec) -> NDArray[Any]:
    """Return prepared pixels as the `images` tensor of `spec`.

    Args:
        pixels: (B, height, width, 3), uint8 levels or float32 in [0, 1]. A graph that takes uint8
            gets the latter rounded to whole levels.
        spec: dtype, mean and std.
    """
    whole = pixels.dtype == np.uint8
    if spec.dtype == "uint8":
        return pixels if whole else np.rint(pixels * 255).astype(np.uint8)
    shares = pixels.astype(np.float32) / np.float32(255) if whole else pixels
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    normalised = ((shares - mean) / std).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(normalised, dtype=np.float32)
