"""Encoded pictures that are not kept decoded, because they are drawn later or never."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import (
    MAX_PIXELS,
    ImageSource,
    Levels,
    Window,
    load_picture,
    prepared_levels,
    shown,
)

__all__ = ["LazyPicture", "ReadPicture", "read_prepared"]

#: A picture for people, and its levels as the network sees them, (height, width, channels).
ReadPicture: TypeAlias = "tuple[Image.Image | LazyPicture, Levels]"


@dataclass(frozen=True)
class LazyPicture:
    """A picture that is decoded again whenever it is asked for.

    Attributes:
        source: a path, or the bytes of a file.
        spec: which channels and bits of it are read.
        max_pixels: as of `load_image`.
        window: as of `load_image`.
        version: time in ns and size in bytes of the file when it was first read; None for bytes.
    """

    source: str | os.PathLike[str] | bytes
    spec: ImageSpec
    max_pixels: int = MAX_PIXELS
    window: Window | None = None
    version: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        source: str | os.PathLike[str] | bytes,
        spec: ImageSpec,
        max_pixels: int = MAX_PIXELS,
        window: Window | None = None,
    ) -> LazyPicture:
        """Return a picture that knows which version of its file is meant: the one of now."""
        return cls(source, spec, max_pixels, window, _version(source))

    def decoded(self) -> Image.Image:
        """Return the picture as people see it, upright RGB.

        Raises:
            InputError: if its file is gone, or has been changed or replaced.
        """
        picture = load_picture(
            self.source, self.spec, max_pixels=self.max_pixels, window=self.window
        )
        if not isinstance(self.source, bytes) and _version(self.source) != self.version:
            raise InputError(
                f"{os.fspath(self.source)} has changed since it was explained; explain it again"
            )
        return shown(picture)


def _version(source: str | os.PathLike[str] | bytes) -> tuple[int, int] | None:
    if isinstance(source, bytes):
        return None
    try:
        status = os.stat(source)
    except (OSError, ValueError):  # decoding it will say what is wrong
        return None
    return status.st_mtime_ns, status.st_size


def read_prepared(
    source: ImageSource,
    spec: ImageSpec,
    *,
    max_pixels: int = MAX_PIXELS,
    window: Window | None = None,
    lazily: bool = False,
) -> ReadPicture:
    """Return a picture for people, and its levels as the network sees them.

    Args:
        source: as `load_picture` takes it.
        spec: how it is prepared.
        max_pixels: as of `load_image`.
        window: as of `load_image`.
        lazily: whether a path or bytes give a `LazyPicture`, in place of the decoded picture.

    Raises:
        InputError: if it cannot be read or prepared.
    """
    lazy = None
    if lazily and isinstance(source, (str, os.PathLike, bytes)):
        lazy = LazyPicture.of(source, spec, max_pixels, window)
    picture = load_picture(source, spec, max_pixels=max_pixels, window=window)
    return lazy or shown(picture), prepared_levels(picture, spec)
