"""Reading pictures as people have them: RGB for people, and the levels that a network takes."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.picture.files import FORMATS, open_image
from tame_deploy.picture.orientation import orientation_of, upright
from tame_deploy.picture.window import Window, check_window

__all__ = [
    "MAX_PIXELS",
    "MOST_PIXELS",
    "ImageSource",
    "Levels",
    "Picture",
    "load_image",
    "load_picture",
]

#: Levels of a picture, uint8 or uint16: (H, W, channels), or grey (H, W).
Levels: TypeAlias = "NDArray[np.unsignedinteger[Any]]"

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | Levels"

#: Upright RGB of 8 bits; or, of other channels or 16 bits, levels (H, W, channels).
Picture: TypeAlias = "Image.Image | Levels"

_T = TypeVar("_T")

#: The most pixels of a picture unless the caller allows more.
MAX_PIXELS = 89_000_000
#: The most that a caller can allow: telephones have 200 megapixels.
MOST_PIXELS = 250_000_000
_WHITE = (255, 255, 255)
#: A 16-bit picture whose levels are all lower comes out nearly black: it holds 14 bits or fewer.
_DIM = 1 << 14

_log = logging.getLogger("tame_deploy.picture")


def load_image(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    window: Window | None = None,
    background: tuple[int, int, int] = _WHITE,
) -> Image.Image:
    """Return a picture as people see it: 8-bit RGB, EXIF rotation applied, first frame.

    Args:
        source: a path, the bytes of a file, a file opened as binary (read from where it stands), a
            PIL image, or an array uint8 or uint16 (H, W, 3) RGB or (H, W) grey, uint8 (H, W, 4)
            RGBA.
        max_pixels: what is larger is refused before it is decoded. 89 megapixels unless given; what
            is over 250 megapixels is always refused.
        window: of grey pictures of 16 bits (or 32), the levels that become 0 and 255; lower and
            higher ones are clipped. By default (0, 65535). Other pictures are left alone.
        background: RGB levels that show where the picture is transparent; white by default.

    Raises:
        InputError: if it is broken, empty, too large or of an unknown kind.
    """
    how = _Reading(min(max_pixels, MOST_PIXELS), _checked(window), background)
    if isinstance(source, np.ndarray):
        return _from_array(source, how)
    return _read(source, _to_rgb, how)


def load_picture(
    source: ImageSource,
    spec: ImageSpec,
    *,
    max_pixels: int = MAX_PIXELS,
    window: Window | None = None,
) -> Picture:
    """Return a picture with all that a network takes of it: its channels, and all their bits.

    A network of one or three channels and 8 bits takes what `load_image` returns. One of 16 bits
    takes that as well; grey of 16 bits, and arrays, keep their levels. One of other channels takes
    arrays of as many, and TIFF files with a grey page for each.

    Args:
        source: as `load_image` takes it, or an array uint8 or uint16 (H, W, channels).
        spec: what the network takes.
        max_pixels: as of `load_image`.
        window: as of `load_image`; not for a network of 16 bits, which has its own.

    Raises:
        InputError: as `load_image`, or if it has other channels than the network.
    """
    check_window(window, spec)
    how = _Reading(min(max_pixels, MOST_PIXELS), _checked(window), _WHITE)
    if spec.channels not in (1, 3):
        if isinstance(source, np.ndarray):
            return _many_channels(source, spec, how)
        return _eight_or_all(_read(source, partial(_pages, spec=spec), how), "picture", spec, how)
    if spec.dtype != "uint16":
        return load_image(source, max_pixels=max_pixels, window=window)
    if isinstance(source, np.ndarray):
        return _deep_array(source, how) if source.dtype == np.uint16 else _from_array(source, how)
    return _read(source, _deep_or_rgb, how)


def _checked(window: Window | None) -> Window | None:
    if window is not None and not window[0] < window[1]:
        raise InputError(f"found window {window}; expected its first level below its second")
    return window


@dataclass(frozen=True)
class _Reading:
    """How a picture is read (see `load_image`)."""

    max_pixels: int
    window: Window | None
    background: tuple[int, int, int]


def _read(source: Any, convert: Callable[[Image.Image, str, _Reading], _T], how: _Reading) -> _T:
    """Return what is made of a picture that is no array."""
    if isinstance(source, Image.Image):
        with _decoding_errors("picture"):  # a file that was opened lazily is decoded only now
            return convert(source, "picture", how)
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), "picture", convert, how)
    if isinstance(source, (str, os.PathLike)):
        if isinstance(source, str) and "://" in source:
            raise InputError(f"{source} is a URL; pictures are not fetched, so download it first")
        if os.path.isdir(source):
            raise InputError(f"{os.fspath(source)} is a directory; expected a picture")
        with _decoding_errors(os.fspath(source)), open(source, "rb") as stream:
            return _decode(stream, os.fspath(source), convert, how)
    if hasattr(source, "read"):
        return _decode(io.BytesIO(_rest_of(source)), "picture", convert, how)
    raise InputError(
        f"found {type(source).__name__}; expected a path, bytes, a file opened as binary, "
        "a PIL image or an array"
    )


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


def _decode(
    stream: IO[bytes],
    name: str,
    convert: Callable[[Image.Image, str, _Reading], _T],
    how: _Reading,
) -> _T:
    with _decoding_errors(name), open_image(stream, name) as image:
        return convert(image, name, how)


def _check_size(width: int, height: int, name: str, most: int) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{name} is {width}x{height}; expected at least one pixel")
    if width * height > most:
        bound = f"{most / 10**6:g} megapixels" if most >= 10**6 else f"{most} pixels"
        raise InputError(f"{name} is {width}x{height}; expected at most {bound}")


def _from_array(array: NDArray[Any], how: _Reading) -> Image.Image:
    if array.dtype == np.uint16:
        levels = _deep_array(array, how)
        if levels.shape[2] == 3:  # of colours the upper eight bits count, as in files
            return Image.fromarray((levels >> 8).astype(np.uint8))
        return Image.fromarray(_eight_bits(levels[..., 0], "array", how.window)).convert("RGB")
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not shaped:
        raise InputError(
            f"found {array.dtype} array of shape {array.shape}; expected uint8 (H, W, 3) RGB, "
            "(H, W, 4) RGBA or (H, W) grey, or uint16 RGB or grey"
        )
    _check_size(array.shape[1], array.shape[0], "array", how.max_pixels)
    grey = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return _to_rgb(Image.fromarray(np.ascontiguousarray(grey)), "array", how)


def _deep_array(array: NDArray[Any], how: _Reading) -> NDArray[np.uint16]:
    """Return an array of 16 bits, grey or RGB, as (H, W, 1) or (H, W, 3)."""
    levels: NDArray[np.uint16] = array.reshape(*array.shape[:2], -1) if array.ndim == 2 else array
    if levels.ndim != 3 or levels.shape[2] not in (1, 3):
        raise InputError(
            f"found uint16 array of shape {array.shape}; expected (H, W, 3) RGB or (H, W) grey"
        )
    _check_size(levels.shape[1], levels.shape[0], "array", how.max_pixels)
    copied: NDArray[np.uint16] = levels.copy()
    return copied


def _many_channels(array: NDArray[Any], spec: ImageSpec, how: _Reading) -> Levels:
    if array.dtype not in (np.uint8, np.uint16) or array.shape[2:] != (spec.channels,):
        raise InputError(
            f"found {array.dtype} array of shape {array.shape}; the network takes "
            f"{spec.channels} channels: expected uint8 or uint16 (H, W, {spec.channels})"
        )
    _check_size(array.shape[1], array.shape[0], "array", how.max_pixels)
    return _eight_or_all(array.copy(), "array", spec, how)


def _eight_or_all(levels: Levels, name: str, spec: ImageSpec, how: _Reading) -> Levels:
    """Return levels in 8 bits, if the network takes no more."""
    deep = levels.dtype == np.uint16 and spec.dtype != "uint16"
    return _eight_bits(levels, name, how.window) if deep else levels


def _deep_or_rgb(image: Image.Image, name: str, how: _Reading) -> Picture:
    """Return grey of 16 bits with all of them, upright; of other pictures, RGB."""
    _check_size(image.width, image.height, name, how.max_pixels)
    if image.mode.startswith("I"):
        return _grey_levels(image, name)[..., None]
    return _to_rgb(image, name, how)


def _grey_levels(image: Image.Image, name: str) -> Levels:
    """Return the levels of a grey picture, upright: uint8 or uint16 (H, W)."""
    if not image.mode.startswith("I"):
        return np.asarray(upright(image.convert("L"), orientation_of(image.info)))
    turned = upright(image.convert("I"), orientation_of(image.info))
    levels = np.asarray(turned)
    least, most = int(levels.min()), int(levels.max())
    if least < 0 or most > 65535:
        raise InputError(f"{name} has pixels from {least} to {most}; expected 0 to 65535")
    return levels.astype(np.uint16)


def _pages(image: Image.Image, name: str, how: _Reading, *, spec: ImageSpec) -> Levels:
    """Return the grey pages of a file as channels.

    Raises:
        InputError: if there are not as many as the network has channels, or they differ.
    """
    count = getattr(image, "n_frames", 1)
    wanted = (
        f"the network takes {spec.channels} channels: expected an array (H, W, {spec.channels}), "
        "or a TIFF file with a grey page for each"
    )
    if count != spec.channels:
        found = f"{count} pages" if count > 1 else f"one page ({image.mode})"
        raise InputError(f"{name} has {found}; {wanted}")
    pages = []
    before = image.tell()
    try:
        for page in range(count):
            image.seek(page)
            _check_size(image.width, image.height, name, how.max_pixels // count)
            if image.mode not in ("1", "L") and not image.mode.startswith("I"):
                raise InputError(f"page {page} of {name} is no grey one ({image.mode}); {wanted}")
            pages.append(_grey_levels(image, name))
    finally:
        image.seek(before)  # it may be the caller's
    if len({(page.shape, page.dtype) for page in pages}) > 1:
        kinds = ", ".join(f"{p.shape[1]}x{p.shape[0]} {p.dtype}" for p in pages[:4])
        raise InputError(f"the pages of {name} are {kinds}; expected them alike")
    return np.stack(pages, axis=2)


def _to_rgb(image: Image.Image, name: str, how: _Reading) -> Image.Image:
    _check_size(image.width, image.height, name, how.max_pixels)
    image.load()
    if image.mode == "F":
        raise InputError(f"{name} has floating-point pixels; expected 8 or 16 bits a channel")
    # A PIL image from the caller must come back untouched: all of these make one of their own.
    if image.mode.startswith("I"):
        rgb = Image.fromarray(_eight_bits(np.asarray(image), name, how.window)).convert("RGB")
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


def _eight_bits(levels: NDArray[Any], name: str, window: Window | None) -> NDArray[np.uint8]:
    """Scale grey of more than 8 bits to 8; Pillow's own conversion clips at 255 instead."""
    pixels = levels.astype(np.int64)
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
    result: NDArray[np.uint8] = scaled.astype(np.uint8)
    return result
