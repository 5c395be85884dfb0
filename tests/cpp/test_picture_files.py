"""JPEG and PNG files in C++ are read as Python reads them, through Pillow.

What C++ refuses and Python reads, or the other way round, is named where it is tested; the rest of
what differs in damaged files is in `test_damaged_files_never_crash`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import load_image
from tests.cpp.pictures import (
    Jobs,
    chunk,
    encoded,
    gradient,
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
        + [chunk(b"IDAT", part) for part in _split(zlib.compress(bytes(raw)))]
        + [options.get("after", b""), chunk(b"IEND", b"")]
    )


def _split(data: bytes) -> list[bytes]:
    return [data[: len(data) // 3], b"", data[len(data) // 3 :]]


PALETTE = chunk(b"PLTE", bytes(range(5, 5 + 3 * 80)))
PNG_KINDS = [(depth, 0) for depth in (1, 2, 4, 8, 16)] + [(depth, 3) for depth in (1, 2, 4, 8)]
PNG_KINDS += [(depth, color) for color in (2, 4, 6) for depth in (8, 16)]


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


def exif_block(value: int, order: str, kind: int = 3, **options: Any) -> bytes:
    """EXIF with an orientation, behind entries of other tags: (tag, type, how many values)."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    packed = struct.pack(
        order + {3: "HH", 4: "L", 13: "L", 9: "l"}.get(kind, "L"),
        *((value, 0) if kind == 3 else (value,)),
    )
    text = struct.pack(order + "HHLL", *options.get("other", (0x010E, 2, 9)), 50)
    entries = text + struct.pack(order + "HHL", options.get("tag", 0x0112), kind, 1) + packed
    return mark + struct.pack(order + "LH", 8, 2) + entries + b"\0" * 16 + b"it is me\0"


def raw_profile(block: bytes) -> str:
    return f"\nexif\n{len(block):8}\n{block.hex()}\n"


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def rotated_files(value: int) -> dict[str, bytes]:
    image = gradient(24, 16)
    files = {}
    for order in "<>":
        for kind in (3, 4, 9, 13):
            block = b"Exif\0\0" + exif_block(value, order, kind)
            files[f"JPEG {value} {order} {kind}"] = encoded(image, "JPEG", exif=block)
        block = exif_block(value, order)
        files[f"PNG {value} {order}"] = png(9, 5, 8, 2, before=chunk(b"eXIf", block))
        files[f"PNG {value} {order} late"] = png(9, 5, 8, 2, after=chunk(b"eXIf", block))
        files[f"PNG 16 {value} {order}"] = png(9, 5, 16, 0, after=chunk(b"eXIf", block))
    profile = raw_profile(b"Exif\0\0" + exif_block(value, "<")).encode()
    packed = b"Raw profile type exif\0\0" + zlib.compress(profile)
    files[f"PNG {value} raw profile"] = png(9, 5, 8, 2, before=chunk(b"zTXt", packed))
    plain = b"Raw profile type exif\0" + profile
    files[f"PNG {value} raw plain profile"] = png(9, 5, 8, 2, after=chunk(b"tEXt", plain))
    packet = XMP.format(value).encode()
    files[f"JPEG {value} XMP"] = encoded(image, "JPEG", xmp=packet)
    other = b"Exif\0\0" + exif_block(value, "<", tag=0x0100)
    files[f"JPEG {value} XMP beside EXIF"] = encoded(image, "JPEG", xmp=packet, exif=other)
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + packet
    files[f"PNG {value} XMP"] = png(9, 5, 8, 2, before=chunk(b"iTXt", text))
    text = b"XML:com.adobe.xmp\0\1\0en\0t\0" + zlib.compress(packet)
    files[f"PNG {value} packed XMP"] = png(9, 5, 8, 2, before=chunk(b"iTXt", text))
    return files


@pytest.mark.parametrize("value", range(10))
def test_exif_rotation_equals_pillows(jobs, value):
    assert_decoded_alike(jobs, rotated_files(value))


def test_exif_numbers_of_all_types_equal_pillows(jobs):
    packs = {1: "B", 2: "B", 3: "H", 4: "L", 5: "LL", 6: "b", 7: "B", 8: "h", 9: "l", 10: "ll"}
    packs |= {11: "f", 12: "d", 13: "L", 16: "Q", 14: "L", 99: "L"}
    files = {}
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*"), ("<", b"II\0*"), (">", b"MM*\0")):
        for kind, pack in packs.items():
            for count in (0, 1, 2, 5):
                value = struct.pack(order + pack, *((6,) if len(pack) == 1 else (12, 2)))
                data = value * count
                place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "L", 26)
                entry = struct.pack(order + "HHL", 0x0112, kind, count) + place
                block = mark + struct.pack(order + "LH", 8, 1) + entry + b"\0" * 4 + data
                files[f"{mark!r} {kind} {count}"] = png(9, 5, 8, 2, before=chunk(b"eXIf", block))
    for length in range(1, 90):  # texts that lie over each other, and may be longer than all
        entries = b"".join(struct.pack("<HHLL", tag, 2, length, 8) for tag in (0x010E, 0x010F))
        entries += struct.pack("<HHLL", 0x0112, 5, 1, 46)
        block = (
            b"II*\0" + struct.pack("<LH", 8, 3) + entries + struct.pack("<LL", 6, 1) + b"\0" * 40
        )
        files[f"texts of {length}"] = png(9, 5, 8, 2, before=chunk(b"eXIf", block))
    for cut in range(8, 30):  # entries beyond the end
        entry = struct.pack("<HHLHH", 0x0112, 3, 1, 6, 0)
        block = (b"II*\0" + struct.pack("<LH", 8, 1) + entry + b"\0" * 4)[:cut]
        files[f"entry cut at {cut}"] = png(9, 5, 8, 2, before=chunk(b"eXIf", block))
    for cut in range(8, 60):  # offsets beyond the end
        block = exif_block(6, "<")[:cut]
        files[f"cut at {cut}"] = png(9, 5, 8, 2, before=chunk(b"eXIf", block))
    assert_decoded_alike(jobs, files)


def test_exif_in_several_parts_equals_pillows(jobs):
    block, file = exif_block(6, "<"), encoded(gradient(24, 16), "JPEG")
    files = {}
    for cut in (1, 9, 20, 33, len(block) - 1):
        parts = [b"Exif\0\0" + part for part in (block[:cut], block[cut:])]
        segments = [b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts]
        files[f"cut at {cut}"] = file[:2] + b"".join(segments) + file[2:]
    assert_decoded_alike(jobs, files)


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


def test_exif_of_which_only_the_orientation_is_sound_turns_a_picture(jobs):
    image, files = gradient(24, 16), {}
    for order in "<>":
        for tag, kind, size in ((0x011A, 2, 3), (0x011A, 5, 900), (0x010E, 2, 5000), (0x1, 99, 9)):
            block = b"Exif\0\0" + exif_block(6, order, other=(tag, kind, size))
            files[f"JPEG {order} {tag}"] = encoded(image, "JPEG", exif=block)
            files[f"PNG {order} {tag}"] = png(24, 16, 8, 2, before=chunk(b"eXIf", block))
    assert_decoded_alike(jobs, files)
    assert {pillows(file)[:6] for file in files.values()} == {b"16 24\n"}


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
