"""The orientation of a picture in C++ is read as Python reads it."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest

from tests.cpp.picture_files import (
    assert_decoded_alike,
    pillows,
    png,
)
from tests.cpp.pictures import (
    chunk,
    encoded,
    gradient,
)


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


def test_of_texts_of_one_name_the_last_counts_as_in_python(jobs):
    def texts(value: int) -> list[bytes]:
        profile, packet = raw_profile(exif_block(value, "<")).encode(), XMP.format(value).encode()
        names = ((b"Raw profile type exif\0", profile), (b"XML:com.adobe.xmp\0", packet))
        found = [chunk(b"eXIf", exif_block(value, "<"))]
        for key, text in ((b"exif\0", exif_block(value, "<")), *names):
            packed = zlib.compress(text)
            found += [chunk(b"tEXt", key + text), chunk(b"zTXt", key + b"\0" + packed)]
            found += [chunk(b"iTXt", key + b"\0\0\0\0" + text)]
            found += [chunk(b"iTXt", key + b"\1\0\0\0" + packed)]
            found += [chunk(b"zTXt", key + broken) for broken in (b"\0", b"\0what?", b"\1what?")]
        return found

    files = {
        f"{first} {second}": png(9, 5, 8, 2, before=one, after=other)
        for first, one in enumerate(texts(6))
        for second, other in enumerate(texts(3))
    }
    assert_decoded_alike(jobs, files)


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


def test_exif_of_which_only_the_orientation_is_sound_turns_a_picture(jobs):
    image, files = gradient(24, 16), {}
    for order in "<>":
        for tag, kind, size in ((0x011A, 2, 3), (0x011A, 5, 900), (0x010E, 2, 5000), (0x1, 99, 9)):
            block = b"Exif\0\0" + exif_block(6, order, other=(tag, kind, size))
            files[f"JPEG {order} {tag}"] = encoded(image, "JPEG", exif=block)
            files[f"PNG {order} {tag}"] = png(24, 16, 8, 2, before=chunk(b"eXIf", block))
    assert_decoded_alike(jobs, files)
    assert {pillows(file)[:6] for file in files.values()} == {b"16 24\n"}
