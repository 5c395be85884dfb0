"""JPEG and PNG files in C++ are read as Python reads them, through Pillow.

What C++ refuses and Python reads, or the other way round, is named where it is tested.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tame_deploy.picture.preprocess import load_image
from tests.cpp.picture_files import (
    PALETTE,
    PICTURES,
    PNG_KINDS,
    assert_decoded_alike,
    decoded,
    pillows,
    png,
)
from tests.cpp.pictures import (
    Jobs,
    chunk,
    encoded,
    gradient,
)


def test_png_files_of_all_kinds_equal_pillows(jobs):
    files = {}
    for depth, color in PNG_KINDS:
        before = PALETTE if color == 3 else b""
        for width, height in ((13, 11), (1, 1), (1, 9), (5, 2), (40, 33)):
            for interlaced in (False, True):
                name = f"{depth} bits, colour {color}, {width}x{height}, {interlaced}"
                files[name] = png(width, height, depth, color, before=before, interlaced=interlaced)
    assert_decoded_alike(jobs, files)


def test_png_files_with_other_chunks_equal_pillows(jobs):
    clear = chunk(b"tRNS", bytes([0, 128, 255]))
    gray_clear, rgb_clear = chunk(b"tRNS", b"\0\x07"), chunk(b"tRNS", b"\0\x07\0\x08\0\x09")
    one_clear = chunk(b"tRNS", b"\0\1")
    gamma = chunk(b"gAMA", struct.pack(">I", 45455))
    odd = chunk(b"PLTE", bytes([10, 20, 30, 40, 50]))
    assert_decoded_alike(
        jobs,
        {
            "palette with alpha": png(9, 9, 8, 3, before=PALETTE + clear),
            "palette of 2 bits with alpha": png(9, 9, 2, 3, before=PALETTE + clear),
            "short palette": png(9, 9, 8, 3, before=odd),
            "palette that ends within a colour": png(9, 9, 1, 3, before=odd),
            "no palette": png(9, 9, 4, 3),
            "gray with a clear level": png(9, 9, 8, 0, before=gray_clear),
            "16-bit gray with a clear level": png(9, 9, 16, 0, before=gray_clear),
            **{
                f"{depth}-bit gray with a clear level": png(9, 9, depth, 0, before=one_clear)
                for depth in (1, 2, 4)
            },
            "clear black": png(9, 9, 1, 0, before=chunk(b"tRNS", b"\0\0")),
            "clear level above what there is": png(9, 9, 4, 0, before=chunk(b"tRNS", b"\7\x1f")),
            "transparency cut short": png(9, 9, 8, 2, before=chunk(b"tRNS", b"\0\x07")),
            "too much transparency": png(9, 9, 8, 3, before=PALETTE + chunk(b"tRNS", bytes(400))),
            "transparency where alpha is": png(9, 9, 8, 6, before=rgb_clear),
            "clear colour": png(9, 9, 8, 2, before=rgb_clear),
            "16-bit clear colour": png(9, 9, 16, 2, before=rgb_clear),
            "gamma": png(9, 9, 16, 6, before=gamma),
            "suggested palette": png(9, 9, 8, 2, before=PALETTE),
            "unknown": png(9, 9, 8, 2, before=chunk(b"teST", b"1"), after=chunk(b"teST", b"2")),
        },
    )


def test_jpeg_files_of_all_kinds_equal_pillows(jobs):
    files = {}
    for width, height in ((37, 29), (1, 1), (16, 16), (3, 40), (130, 97)):
        image = gradient(width, height)
        for mode in ("RGB", "L", "CMYK"):
            for options in (
                {"quality": 95, "subsampling": 0},
                {"quality": 60, "subsampling": 1},
                {"quality": 40, "subsampling": 2},
                {"progressive": True, "quality": 75},
                {"restart_marker_blocks": 2, "optimize": True},
                {"keep_rgb": mode == "RGB"},
            ):
                name = f"{mode} {width}x{height} {options}"
                files[name] = encoded(image.convert(mode), "JPEG", **options)
    assert_decoded_alike(jobs, files)


def test_ink_of_all_levels_equals_pillows(jobs):
    """YCCK and CMYK, with Adobe's mark and without, which for Pillow are inverted alike."""
    generator = np.random.default_rng(2)
    inks = Image.frombytes("CMYK", (96, 96), generator.bytes(96 * 96 * 4))
    plain = encoded(inks, "JPEG", quality=100, subsampling=0)
    at = plain.index(b"\xff\xee")
    size = int.from_bytes(plain[at + 2 : at + 4], "big")
    unmarked = plain[:at] + plain[at + 2 + size :]
    ycck = bytearray(plain)
    ycck[at + 2 + size - 1] = 2  # the transform in Adobe's mark
    assert_decoded_alike(jobs, {"plain": plain, "unmarked": unmarked, "ycck": bytes(ycck)})


def test_a_very_long_picture_equals_pillows(jobs):
    long = Image.new("1", (1_200_000, 1))
    long.paste(1, (0, 0, 700_000, 1))
    assert_decoded_alike(jobs, {"long": encoded(long, "PNG")})


def test_what_is_wrong_beside_the_pixels_does_not_matter(jobs):
    long, wrong = bytes(2_000_000), chunk(b"tEXt", b"a\0b")[:-1] + b"?"
    damaged = {
        "EXIF of another kind": chunk(b"eXIf", b"XX*\0\x08\0\0\0"),
        "long text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(long)),
        "long international text": chunk(b"iTXt", b"c\0\1\0\0\0" + zlib.compress(long)),
        "long profile": chunk(b"iCCP", b"it\0\0" + zlib.compress(long)),
        "profile packed in another way": chunk(b"iCCP", b"it\0\7" + long[:9]),
        "long profile as text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(long)),
        "text with a wrong checksum": wrong,
        "text that is no text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0what?"),
        "animation": chunk(b"acTL", b"1") + chunk(b"fcTL", b"2"),
    }
    files = {name: png(9, 5, 8, 2, before=what) for name, what in damaged.items()}
    files |= {name + " behind": png(9, 5, 8, 2, after=what) for name, what in damaged.items()}
    assert_decoded_alike(jobs, files)
    assert {pillows(file) for file in files.values()} == {pillows(png(9, 5, 8, 2))}


def test_windows_of_sixteen_bits_equal_pythons(jobs):
    levels = Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))
    files = [encoded(levels, "PNG"), png(9, 5, 16, 0), png(9, 5, 8, 0)]
    for window in ((0, 65535), (0, 4095), (100, 101), (-500, 3000), (60000, 80000), (0, 1)):
        answers = decoded(Jobs(jobs.folder), files, window)
        assert answers == [("ok", pillows(file, window)) for file in files], window


@pytest.mark.parametrize("most", [0, 1, 255, 4095, 16383, 16384, 65535])
def test_dim_pictures_of_sixteen_bits_are_warned_of_with_pythons_words(jobs, most, caplog):
    file = encoded(Image.fromarray(np.array([[0, most]], np.uint16)), "PNG")
    load_image(file)
    jobs.add(f"warning {{}} {len(file)}", file)
    assert jobs.run() == [("ok", caplog.messages[0].encode() if caplog.messages else b"")]
    assert bool(caplog.messages) == (0 < most < 16384)
    jobs = Jobs(jobs.folder)
    jobs.add(f"warning {{}} {len(file)} 0 4095", file)
    assert jobs.run() == [("ok", b"")]


def test_the_first_frame_of_several_is_taken(jobs):
    frames = [gradient(24, 16), Image.new("RGB", (24, 16), "blue")]
    more = {"save_all": True, "append_images": frames[1:]}
    assert_decoded_alike(
        jobs,
        {
            "MPO": encoded(frames[0], "MPO", **more),
            "APNG": encoded(frames[0], "PNG", **more),
            "APNG with a picture of its own": encoded(frames[0], "PNG", default_image=True, **more),
        },
    )


def test_the_bundled_pictures_and_their_jpegs_equal_pillows(jobs):
    files = {path.name: path.read_bytes() for path in sorted(PICTURES.glob("*.png"))}
    assert files
    for name, data in list(files.items())[:4]:
        image = load_image(data)
        files[name + " as JPEG"] = encoded(image, "JPEG", quality=85)
        files[name + " as progressive JPEG"] = encoded(image, "JPEG", progressive=True)
        files[name + " with a palette"] = encoded(image.quantize(64), "PNG")
    assert_decoded_alike(jobs, files)
