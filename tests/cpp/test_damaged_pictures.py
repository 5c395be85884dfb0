"""Damaged JPEG and PNG files in C++: refused as by Python, and never a crash.

What differs between the two is in `test_damaged_files_never_crash`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.cpp.picture_files import (
    PALETTE,
    PNG_KINDS,
    decoded,
    pillows,
    png,
)
from tests.cpp.pictures import (
    chunk,
    encoded,
    gradient,
)


def wrong_sum(apart: bool) -> bytes:
    """A PNG file the Adler-32 of whose pixels is wrong, and in a chunk apart from them or not."""
    packed = zlib.compress(b"\0\1\2\3\4")
    damaged = packed[:-1] + bytes([packed[-1] ^ 1])
    parts = [damaged[:-4], damaged[-4:]] if apart else [damaged]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 8, 0, 0, 0, 0))
    pixels = b"".join(chunk(b"IDAT", part) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def test_a_wrong_sum_of_pixels_is_refused_wherever_it_is(jobs):
    """Pillow does not look at it in a chunk of its own."""
    assert pillows(wrong_sum(apart=True)) is not None
    ((status, answer),) = decoded(jobs, [wrong_sum(apart=True)])
    assert status == "error"
    assert answer.startswith(b"picture cannot be decoded: ")


def test_what_is_no_picture_is_refused(jobs):
    bomb = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    files = {
        b"": "picture is not a picture in JPEG, PNG (found ",
        b"not a picture": "picture is not a picture in JPEG, PNG (found ",
        b"GIF89a": "picture is not a picture in JPEG, PNG (found ",
        bomb: "picture is 10000x10000; expected at most 89 megapixels",
        png(4, 4, 8, 2)[:-60]: "picture cannot be decoded: ",
        encoded(gradient(64, 64), "JPEG")[:-40]: "picture cannot be decoded: the file is truncated",
        png(4, 4, 8, 3, before=chunk(b"PLTE", bytes(771))): "picture cannot be decoded: ",
        png(4, 4, 8, 2).replace(b"IHDR", b"IHDS"): "picture cannot be decoded: ",
        png(4, 4, 0, 0, before=chunk(b"tRNS", b"\0\1")): "picture cannot be decoded: ",
        wrong_sum(apart=False): "picture cannot be decoded: ",
        png(4, 4, 8, 2, before=PALETTE[:-1] + b"?"): "picture cannot be decoded: ",
    }
    for (file, message), (status, answer) in zip(
        files.items(), decoded(jobs, list(files)), strict=True
    ):
        assert status == "error"
        assert answer.decode().startswith(message)
        assert b"\n" not in answer
        assert pillows(file) is None


def cut_files() -> Iterator[tuple[str, bytes, range]]:
    """Yield name, file and the lengths that Pillow may read and C++ not."""
    image = gradient(40, 30)
    for mode in ("RGB", "L", "CMYK"):
        for progressive in (False, True):
            file = encoded(image.convert(mode), "JPEG", progressive=progressive)
            yield f"JPEG {mode} {progressive}", file, range(0)
    for depth, color in PNG_KINDS:
        for interlaced in (False, True):
            before = PALETTE if color == 3 else b""
            file = png(12, 9, depth, color, before=before, interlaced=interlaced)
            # Behind the pixels come Adler-32, a CRC, and IEND's 12 bytes: Pillow reads what lacks
            # them, C++ wants the Adler-32, without which pixels may be damaged.
            free = range(len(file) - 26, len(file) - 16)
            yield f"PNG {depth} {color} {interlaced}", file, free


def test_truncated_files_are_refused_as_by_pillow(jobs):
    cases = []
    for name, file, free in cut_files():
        step = max(1, len(file) // 60)
        lengths = {*range(0, len(file), step), *range(len(file) - 40, len(file))}
        cases += [(name, file[:length], length in free) for length in sorted(lengths)]
    answers = decoded(jobs, [file for _, file, _ in cases])
    for (name, file, free), (status, answer) in zip(cases, answers, strict=True):
        expected = pillows(file)
        if status == "ok":
            assert answer == expected, (name, len(file))
        else:
            assert status == "error"
            assert free or expected is None, (name, len(file), answer)


def test_damaged_files_never_crash(jobs):
    """And where both read them, they read the same, but for a few.

    C++ alone refuses: pixels that end early (Pillow leaves black), what libpng checks in a header.
    """
    generator = np.random.default_rng(9)
    sources = [png(12, 9, depth, color, before=PALETTE) for depth, color in PNG_KINDS if color != 0]
    sources += [encoded(gradient(40, 30).convert(mode), "JPEG") for mode in ("RGB", "L", "CMYK")]
    sources += [encoded(gradient(40, 30), "JPEG", progressive=True)]
    files = []
    for index in range(900):
        file = bytearray(sources[index % len(sources)])
        for _ in range(int(generator.integers(1, 4))):
            file[int(generator.integers(0, len(file)))] = int(generator.integers(0, 256))
        files.append(bytes(file))
    both = alike = 0
    for file, (status, answer) in zip(files, decoded(jobs, files), strict=True):
        assert status in {"ok", "error"}
        expected = pillows(file)
        if status == "ok" and expected is not None:
            both, alike = both + 1, alike + (answer == expected)
    assert both > 100
    assert alike >= both * 0.97
