"""The program that prepares, decodes and draws pictures in C++, and pictures to give it."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.picture.preprocess import load_image
from tests.cpp.build import built_program

in_order = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13,
    reason="Pillow before 13 always resizes horizontally first",
)

FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")
FORMATS = {"RGB": 1, "BGR": 2, "GRAY": 3, "RGBA": 4, "BGRA": 5, "RGBX": 6, "BGRX": 7}


class Jobs:
    """Jobs for one run of the program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.data = bytearray()

    def add(self, line: str, *data: bytes | NDArray[Any]) -> None:
        """Add a job; each {} of its line becomes the place of one of `data`."""
        places = []
        for item in data:
            self.data += b"\0" * (-len(self.data) % 8)
            places.append(len(self.data))
            self.data += item if isinstance(item, bytes) else item.tobytes()
        self.lines.append(line.format(*places))

    def run(self) -> list[tuple[str, bytes]]:
        """Return (status, answer) of each job."""
        blob = self.folder / "blob"
        blob.write_bytes(self.data)
        run = subprocess.run(
            [built_program("tame-picture"), blob],
            input="\n".join(self.lines).encode(),
            capture_output=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr.decode()[-2000:]
        answers = list(_answers(run.stdout))
        assert len(answers) == len(self.lines)
        return answers


def _answers(output: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(output):
        end = output.index(b"\n", at)
        status, size = output[at:end].decode().split()
        at = end + 1 + int(size)
        yield status, output[end + 1 : at]


def spec_words(spec: ImageSpec) -> str:
    which = FILTERS.index(spec.interpolation)
    low, high = spec.window or (0, 0)
    return (
        f"{spec.height} {spec.width} {spec.resize} {spec.crop} {which} {spec.dtype} "
        f"{spec.channels} {spec.pad_level} {low} {high}"
    )


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pixels with edges and extremes, where clipping and rounding show."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[generator.random((height, width)) < 0.3] = 255
    pixels[generator.random((height, width)) < 0.3] = 0
    return pixels


def stored_as(pixels: NDArray[np.uint8], kind: str, gap: int) -> tuple[NDArray[np.uint8], int]:
    """Return rows of a format, `gap` bytes between them, and their stride."""
    if kind == "GRAY":
        packed = pixels[..., :1]
    else:
        packed = pixels[..., ::-1] if kind.startswith("BGR") else pixels
        if len(kind) == 4:
            packed = np.concatenate([packed, alpha_of(pixels)], axis=2)
    rows = packed.reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, gap)), constant_values=99)
    return np.ascontiguousarray(rows), rows.shape[1]


def alpha_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return alpha for a picture: anything, with many pixels clear and many opaque."""
    drawn = np.random.default_rng(1).integers(-128, 384, (*pixels.shape[:2], 1))
    return np.clip(drawn, 0, 255).astype(np.uint8)


def as_seen(pixels: NDArray[np.uint8], kind: str) -> Image.Image:
    """Return the picture that Python makes of what `stored_as` stores."""
    if kind == "GRAY":
        return load_image(pixels[..., 0])
    if kind.endswith("A"):
        return load_image(np.concatenate([pixels, alpha_of(pixels)], axis=2))
    return load_image(pixels)


def add_pixels(jobs: Jobs, words: str, pixels: NDArray[np.uint8], kind: str, gap: int) -> None:
    rows, stride = stored_as(pixels, kind, gap)
    head, _, tail = words.partition(" ")
    height, width = pixels.shape[:2]
    jobs.add(f"{head} {{}} {FORMATS[kind]} {width} {height} {stride} {tail}", rows)


def random_specs(count: int) -> Iterator[tuple[int, int, ImageSpec]]:
    """Sizes of a picture and what it becomes: mostly odd, some extreme."""
    generator = np.random.default_rng(7)

    def side(most: int = 160) -> int:
        return int(generator.choice([1, 2, 3, *generator.integers(1, most, 9)]))

    for index in range(count):
        crop = "none" if index % 3 == 0 else "center"
        interpolation = FILTERS[index // 3 % 4]
        width, height = side(), side()
        if max(width, height) > 30 * min(width, height):
            height = width
        yield width, height, ImageSpec(side(), side(), side(90), crop, interpolation)  # type: ignore[arg-type]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, contents: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + contents))
    return struct.pack(">I", len(contents)) + name + contents + checksum


def gradient(width: int, height: int) -> Image.Image:
    """A picture that JPEG does not turn to porridge."""
    ramp = np.add.outer(np.linspace(0, 128, height), np.linspace(0, 120, width))
    pixels = np.stack([ramp, 255 - ramp, ramp[::-1]], axis=2).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 3 : width // 2] = (250, 20, 90)
    return Image.fromarray(pixels)
