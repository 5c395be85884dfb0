"""Which way up a picture is: the orientation tag alone, whatever else its metadata holds.

Pillow reads the whole of EXIF and rewrites it, so a resolution that is text, or a maker's note that
is cut off, refuses the picture or warns. The counterpart of cpp/src/picture/exif.cpp.
"""

from __future__ import annotations

import binascii
import re
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

__all__ = ["orientation_of", "upright"]

_TAG = 0x0112
_ORDERS = {b"II*\0": "<", b"II\0*": "<", b"MM\0*": ">", b"MM*\0": ">"}
#: TIFF's types: how a first value is packed. Text and plain bytes (1, 2, 7) are no numbers here.
_PACKED = {3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i"}
_PACKED |= {10: "II", 11: "f", 12: "d", 13: "I", 16: "Q"}
_BYTES = {1: 1, 2: 1, 7: 1} | {kind: struct.calcsize("=" + it) for kind, it in _PACKED.items()}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')

_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return a picture with an EXIF orientation, 1 to 8, as people see it; itself if that is 1."""
    method = _TRANSPOSED.get(orientation)
    return image if method is None else image.transpose(method)


def orientation_of(info: Mapping[Any, Any]) -> int:
    """Return the EXIF orientation, 1 to 8, that a picture's metadata tells.

    Args:
        info: as Pillow's `Image.info`: "exif", "Raw profile type exif", "xmp" or
            "XML:com.adobe.xmp", each bytes or text. Nothing in it is trusted; where it tells
            nothing, or nonsense, the orientation is 1.
    """
    exif = _bytes(info.get("exif"))
    if exif is None:
        exif = _unpacked_profile(_bytes(info.get("Raw profile type exif")) or b"")
    found = _in_exif(exif)
    if found is None:
        packet = _bytes(info.get("XML:com.adobe.xmp")) or _bytes(info.get("xmp")) or b""
        match = _XMP.search(packet)
        found = float(match[1]) if match else 1.0
    return int(found) if found in range(1, 9) else 1


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) else None


def _unpacked_profile(text: bytes) -> bytes:
    """Return the bytes of what ImageMagick writes: three lines of head, then hexadecimal digits."""
    digits = b"".join(b"".join(text.split(b"\n")[3:]).split())
    try:
        return binascii.unhexlify(digits[: len(digits) // 2 * 2])
    except binascii.Error:
        return b""


def _in_exif(block: bytes) -> float | None:
    """Return the orientation tag of an EXIF block; None without one, NaN where it is no number."""
    for _ in range(2):
        block = block.removeprefix(b"Exif\0\0")
    order = _ORDERS.get(block[:4])
    if order is None or len(block) < 8:
        return None

    def numbers(packed: str, at: int) -> tuple[Any, ...]:
        size = struct.calcsize(order + packed)
        return struct.unpack(order + packed, block[at : at + size].ljust(size, b"\0"))

    (directory,) = numbers("I", 4)
    (count,) = numbers("H", directory)
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        if at + 12 > len(block):
            return None
        tag, kind, values = numbers("HHI", at)
        size = values * _BYTES.get(kind, 0)
        place = at + 8 if size <= 4 else numbers("I", at + 8)[0]
        if tag != _TAG or size == 0 or place + size > len(block):
            continue
        first = numbers(_PACKED[kind], place) if kind in _PACKED else (float("nan"),)
        if len(first) == 2:
            return float("nan") if first[1] == 0 else float(first[0] / first[1])
        return float(first[0])
    return None
