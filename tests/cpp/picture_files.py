"""Files that C++ and Python decode, and how their answers are compared."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import load_image
from tests.cpp.pictures import (
    Jobs,
    chunk,
)

PICTURES = Path(__file__).parents[2] / "tame_deploy" / "data" / "pictures"


def decoded(
    jobs: Jobs, files: list[bytes], window: tuple[int, int] | None = None
) -> list[tuple[str, bytes]]:
    for file in files:
        jobs.add(f"decode {{}} {len(file)} {' '.join(map(str, window or ()))}", file)
    answers = jobs.run()
    if any(b"-DTAME_DECODE=ON" in answer for status, answer in answers if status == "error"):
        pytest.skip("built with -DTAME_DECODE=OFF")
    return answers


def pillows(file: bytes, window: tuple[int, int] | None = None) -> bytes | None:
    """Return what the program should answer; None where Python refuses."""
    try:
        image = load_image(file, window=window)
    except InputError:
        return None
    return f"{image.width} {image.height}\n".encode() + image.tobytes()


def assert_decoded_alike(jobs: Jobs, files: dict[str, bytes]) -> None:
    """Check that all files are read by both, to the pixel."""
    answers = decoded(jobs, list(files.values()))
    for (name, file), (status, answer) in zip(files.items(), answers, strict=True):
        expected = pillows(file)
        assert expected is not None, name
        assert status == "ok", (name, answer)
        assert answer.split(b"\n")[0] == expected.split(b"\n")[0], name
        assert answer == expected, name


def png(width: int, height: int, depth: int, color: int, **options: Any) -> bytes:
    """A PNG file of noise; options: interlaced, chunks before and after the pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    generator = np.random.default_rng(width * 31 + height)
    interlaced = options.get("interlaced", False)
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
        passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = bytearray()
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns < 1:
            continue
        for _ in range(rows):
            row = generator.integers(0, 256, -(-columns * channels * depth // 8), dtype=np.uint8)
            raw += bytes([int(generator.integers(0, 5))]) + row.tobytes()
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), options.get("before", b"")]
        + [chunk(b"IDAT", part) for part in split_chunks(zlib.compress(bytes(raw)))]
        + [options.get("after", b""), chunk(b"IEND", b"")]
    )


def split_chunks(data: bytes) -> list[bytes]:
    return [data[: len(data) // 3], b"", data[len(data) // 3 :]]


PALETTE = chunk(b"PLTE", bytes(range(5, 5 + 3 * 80)))
PNG_KINDS = [(depth, 0) for depth in (1, 2, 4, 8, 16)] + [(depth, 3) for depth in (1, 2, 4, 8)]
PNG_KINDS += [(depth, color) for color in (2, 4, 6) for depth in (8, 16)]
