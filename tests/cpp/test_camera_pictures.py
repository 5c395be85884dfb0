"""Pictures as cameras and scanners give them: YUV and 16 bits a channel, as RGB."""

from __future__ import annotations

import struct
import zlib
from itertools import product

import numpy as np
import pytest
from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.picture.preprocess import load_image, prepare
from tests.cpp.pictures import chunk, in_order, spec_words

GRAY16, RGB16, NV12, I420 = 8, 9, 10, 11
#: Shares of red and blue in Y, and whether Y goes from 16 to 235.
COLORS = [(0.299, 0.114, True), (0.299, 0.114, False), (0.2126, 0.0722, True),
          (0.2126, 0.0722, False)]  # fmt: skip
SIZES = [(1, 1), (2, 2), (3, 5), (64, 48), (63, 47)]


def converted(y, u, v, color):
    """Return RGB before rounding, (H, W, 3) float64, by the matrix that the standard is inverse to.

    BT.601 and BT.709 say how Y, Cb and Cr come from RGB; that matrix is inverted here.
    """
    red, blue, limited = COLORS[color]
    luma = np.array([red, 1 - red - blue, blue])
    forward = np.stack([
        luma,
        (np.array([0, 0, 1]) - luma) / (2 * (1 - blue)),
        (np.array([1, 0, 0]) - luma) / (2 * (1 - red)),
    ])  # fmt: skip
    spread = np.repeat(np.repeat(np.stack([u, v], axis=2), 2, axis=0), 2, axis=1)
    spread = spread[: y.shape[0], : y.shape[1]].astype(float) - 128
    planes = np.concatenate([y[..., None].astype(float), spread], axis=2)
    if limited:
        planes = (planes - [16, 0, 0]) / [219 / 255, 224 / 255, 224 / 255]
    return planes @ np.linalg.inv(forward).T


def drawn_planes(width, height, seed=0):
    generator = np.random.default_rng(seed)
    half = ((height + 1) // 2, (width + 1) // 2)
    shapes = [(height, width), half, half]
    return [generator.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]


def padded(plane, gap):
    return np.pad(plane, ((0, 0), (0, gap)), constant_values=99)


def assert_equal_but_for_ties(answer, exact):
    """Rounded halves may fall either way; nothing else may differ."""
    status, pixels = answer
    assert status == "ok", pixels
    found = np.frombuffer(pixels, np.uint8).reshape(exact.shape)
    expected = np.clip(np.floor(exact + 0.5), 0, 255)
    tie = np.abs(exact - np.floor(exact) - 0.5) < 1e-3
    assert np.all((found == expected) | tie)
    assert np.max(np.abs(found - expected)) <= 1


def test_yuv_becomes_rgb_by_the_matrix_of_its_standard(jobs):
    expected = []
    for (width, height), color in product(SIZES, range(4)):
        y, u, v = drawn_planes(width, height)
        uv = np.stack([u, v], axis=2).reshape(len(u), -1)
        exact = converted(y, u, v, color)
        for form, planes in [(NV12, [y, uv]), (I420, [y, u, v])]:
            data = b"".join(plane.tobytes() for plane in planes)
            jobs.add(f"rgb {{}} {form} {width} {height} 0 {color} -1 -1 0", data)
            expected.append(exact)
    for answer, exact in zip(jobs.run(), expected, strict=True):
        assert_equal_but_for_ties(answer, exact)


def test_every_level_of_yuv_is_converted(jobs):
    y, u = (plane.astype(np.uint8) for plane in np.mgrid[:256, :256])
    for color, v in product(range(4), (0, 77, 128, 255)):
        planes = [np.repeat(np.repeat(plane, 2, 0), 2, 1) for plane in (y, u)]
        data = planes[0].tobytes() + u.tobytes() + bytes([v]) * u.size
        jobs.add(f"rgb {{}} {I420} 512 512 0 {color} -1 -1 0", data)
    for answer, (color, v) in zip(jobs.run(), product(range(4), (0, 77, 128, 255)), strict=True):
        exact = converted(np.repeat(np.repeat(y, 2, 0), 2, 1), u, np.full_like(u, v), color)
        assert_equal_but_for_ties(answer, exact)


def test_rows_may_have_gaps_and_planes_may_lie_apart(jobs):
    y, u, v = drawn_planes(63, 48)
    uv = np.stack([u, v], axis=2).reshape(len(u), -1)
    gaps = padded(y, 9)  # 72 bytes a row, as its chroma's then are
    jobs.add(f"rgb {{}} {NV12} 63 48 72 0 -1 -1 0", gaps.tobytes() + padded(uv, 8).tobytes())
    jobs.add(f"rgb {{}} {I420} 63 48 72 0 -1 -1 0",
             gaps.tobytes() + padded(u, 4).tobytes() + padded(v, 4).tobytes())  # fmt: skip
    jobs.add(f"rgb {{}} {NV12} 63 48 72 0 {{}} -1 70", gaps, padded(uv, 6))
    jobs.add(f"rgb {{}} {I420} 63 48 0 0 {{}} {{}} 40", y, padded(u, 8), padded(v, 8))
    for answer in jobs.run():
        assert_equal_but_for_ties(answer, converted(y, u, v, 0))


@in_order
def test_yuv_is_prepared_as_its_rgb(jobs):
    spec = ImageSpec(50, 40, 64)
    planes = b"".join(plane.tobytes() for plane in drawn_planes(90, 70))
    jobs.add(f"rgb {{}} {I420} 90 70 0 0 -1 -1 0", planes)
    jobs.add(f"prepare {{}} {I420} 90 70 0 {spec_words(spec)}", planes)
    (_, rgb), (status, prepared) = jobs.run()
    assert status == "ok"
    image = Image.frombytes("RGB", (90, 70), rgb)
    assert prepared == np.asarray(prepare(image, spec)).tobytes()


def png16(levels):
    """Return a PNG file of 16 bits a channel: (H, W) grey or (H, W, 3) RGB."""
    height, width = levels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, 0 if levels.ndim == 2 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("window", [None, (100, 4095), (-5, 70000)])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_what_python_makes_of_a_file_of_them(jobs, channels, window):
    shape = (37, 41) if channels == 1 else (37, 41, 3)
    levels = np.random.default_rng(0).integers(0, 1 << 16, shape, dtype=np.uint16)
    file = png16(levels)
    words = "" if window is None else f" {window[0]} {window[1]}"
    rows = padded(levels.reshape(37, -1), 3)
    form, stride = (GRAY16 if channels == 1 else RGB16), rows.shape[1] * 2
    jobs.add(f"rgb {{}} {form} 41 37 {stride} 0 -1 -1 0{words}", rows)
    jobs.add(f"decode {{}} {len(file)}{words}", file)
    (status, found), (decoded, whole) = jobs.run()
    assert (status, decoded) == ("ok", "ok")
    expected = load_image(file, window=window).tobytes()
    assert found == expected
    assert whole.split(b"\n", 1)[1] == expected
