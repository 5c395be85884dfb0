"""Opening the files of pictures: of JPEG and PNG, Pillow gets what makes their pixels and no more.

Text, profiles and thumbnails beside the pixels never matter: they are neither unpacked nor checked,
so a large or damaged one can neither refuse a picture, nor warn, nor take memory.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass
from typing import IO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features

from tame_deploy.errors import InputError

__all__ = ["FORMATS", "IMAGE_SUFFIXES", "open_image"]

#: Pillow can be built without it.
_HAS_AVIF = bool(features.check("avif"))
#: Decoders that may see a user's file, all of which run inside this process. Pillow has more: some
#: start other programs (EPS), and rare ones (JPEG 2000, PSD) are left out because every decoder is
#: one more that a stranger's file can attack.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM") + ("AVIF",) * _HAS_AVIF
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff"}
    | {".gif", ".ppm", ".pgm", ".pbm", ".pnm"}
    | ({".avif", ".avifs"} if _HAS_AVIF else set())
)

#: What a compressed text of a PNG file is unpacked to at most; what follows is ignored.
_MOST_TEXT = 1 << 20
_is_name = re.compile(rb"\w{4}").fullmatch
_ORIENTING_TEXTS = {
    b"exif": "exif",
    b"Raw profile type exif": "Raw profile type exif",
    b"XML:com.adobe.xmp": "xmp",
}
_EXIF_MARK = b"Exif\0\0"
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True)
class _Text:
    """A text as it is stored; unpacked only when it is wanted, since there may be many."""

    stored: bytes
    packed: bool = False

    def unpacked(self) -> bytes:
        if not self.packed:
            return self.stored
        try:
            return zlib.decompressobj().decompress(self.stored, _MOST_TEXT)
        except zlib.error:
            return b""


def open_image(stream: IO[bytes], name: str) -> Image.Image:
    """Open a picture, undecoded; what tells its orientation is in its `info`.

    Pillow's `Image.open` is passed by, because its bound on pixels is one for the whole process:
    the caller compares the size with its own before it decodes.

    Args:
        stream: a binary file at its beginning; a pipe will do.
        name: of the picture, for messages.

    Raises:
        InputError: for TIFF files of pixels that Pillow does not know.
        Exception: whatever a decoder raises; UnidentifiedImageError for other formats.
    """
    head = stream.read(16)
    kind = _format_of(head)
    if kind is None:
        raise UnidentifiedImageError(name)
    found: dict[str, bytes] = {}
    if kind in ("JPEG", "PNG"):
        file = head + stream.read()
        pixels, found = _of_jpeg(file) if kind == "JPEG" else _of_png(file)
        stream = io.BytesIO(pixels)
    elif stream.seekable():
        stream.seek(0)
    else:
        stream = io.BytesIO(head + stream.read())
    image = _opened(kind, stream, name)
    image.info.update(found)
    return image


def _format_of(head: bytes) -> str | None:
    Image.preinit()
    for kind in FORMATS:
        if kind not in Image.OPEN:
            Image.init()
        accept = Image.OPEN[kind][1]
        if accept is not None and accept(head):
            return kind
    return None


def _opened(kind: str, stream: IO[bytes], name: str) -> Image.Image:
    try:
        return Image.OPEN[kind][0](stream, name)
    except SyntaxError:
        if kind == "TIFF":
            _refuse_samples(stream, name)
        raise


def _refuse_samples(stream: IO[bytes], name: str) -> None:
    """Raise an InputError that names the pixels of a TIFF file, if they are of an unusual kind."""
    stream.seek(0)
    directory = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
    stream.seek(directory.next)
    directory.load(stream)
    bits = set(directory.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    if 3 in directory.get(TiffImagePlugin.SAMPLEFORMAT, (1,)):
        raise InputError(f"{name} has floating-point pixels; expected 8 or 16 bits a channel")
    if not bits <= {8, 16}:
        told = ", ".join(map(str, sorted(bits)))
        raise InputError(f"{name} has {told} bits a channel; expected 8 or 16")


def _of_jpeg(file: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Return a JPEG file without metadata, and what of that tells the orientation.

    What is kept of markers APP0 to APP15 says how colours are meant: JFIF's and Adobe's.
    """
    kept, at = [file[:2]], 2
    exif: list[bytes] = []  # may come in several parts
    found: dict[str, bytes] = {}
    while (at := file.find(b"\xff", at)) >= 0 and at + 4 <= len(file):
        marker = file[at + 1]
        if marker in (0x00, 0xFF):  # a byte that was escaped, and padding
            at += 2 if marker == 0 else 1
            continue
        end = at + 2 + int.from_bytes(file[at + 2 : at + 4], "big")
        if marker < 0xC0 or 0xD0 <= marker <= 0xDA or not at + 4 <= end <= len(file):
            break
        if marker == 0xE1 and file.startswith(_EXIF_MARK, at + 4, end):
            exif.append(file[at + 4 + (len(_EXIF_MARK) if exif else 0) : end])
        elif marker == 0xE1 and file.startswith(_XMP_MARK, at + 4, end):
            found["xmp"] = file[at + 4 + len(_XMP_MARK) : end]
        elif not (0xE0 < marker < 0xEE or marker in (0xEF, 0xFE)):
            kept.append(file[at:end])
        at = end
    if exif:
        found["exif"] = b"".join(exif)
    return b"".join([*kept, file[at:] if at >= 0 else b""]), found


def _of_png(file: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Return a PNG file of header, palette, transparency and pixels, and what tells orientation.

    What is cut off before the pixels end stays as it is, for the decoder to refuse.
    """
    kept, at, seen_pixels = [file[:8]], 8, False
    found: dict[str, _Text] = {}
    header = clear = b""
    while (chunk := _chunk_at(file, at)) is not None:
        name, contents, end = chunk
        if seen_pixels and name != b"IDAT":
            _note_chunks(file, at, found)
            kept.append(_chunk(b"IEND", b""))
            return b"".join(kept), {key: text.unpacked() for key, text in found.items()}
        if name == b"IEND":
            break
        if name in (b"IHDR", b"PLTE"):
            header = contents if name == b"IHDR" else header
            kept.append(file[at:end])
        elif name == b"tRNS":
            clear = _transparency(header, contents)
        elif name == b"IDAT":
            kept += [file[at:end]] if seen_pixels else [clear, file[at:end]]
            seen_pixels = True
        else:
            _note_chunk(found, name, contents)
        at = end
    texts = {key: text.unpacked() for key, text in found.items()}
    return b"".join([*kept, b"" if seen_pixels else clear, file[at:]]), texts


def _chunk_at(file: bytes, at: int) -> tuple[bytes, bytes, int] | None:
    """Return name, contents and end of a chunk; None where no whole one begins."""
    name, size = file[at + 4 : at + 8], int.from_bytes(file[at : at + 4], "big")
    if not _is_name(name) or at + 8 + size > len(file):
        return None
    return name, file[at + 8 : at + 8 + size], at + 12 + size


def _chunk(name: bytes, contents: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + contents))
    return struct.pack(">I", len(contents)) + name + contents + checksum


def _transparency(header: bytes, contents: bytes) -> bytes:
    """Return a chunk tRNS as Pillow understands it; b"" for what is left out.

    Pillow compares levels of 1, 2 and 4 bits when they are spread to 8 already, so the clear one is
    spread here. It keeps but 8 bits of 16, in which the clear colour is not to be found.
    """
    if len(header) < 10:
        return b""
    depth, color = header[8], header[9]
    if color == 0 and depth in (1, 2, 4, 8) and len(contents) >= 2:
        level = int.from_bytes(contents[:2], "big") % (1 << depth)
        return _chunk(b"tRNS", struct.pack(">H", level * (255 // ((1 << depth) - 1))))
    if color == 2 and depth == 8 and len(contents) >= 6:
        return _chunk(b"tRNS", contents[:6])
    return _chunk(b"tRNS", contents[:256]) if color == 3 else b""


def _note_chunks(file: bytes, at: int, found: dict[str, _Text]) -> None:
    """Add what chunks behind the pixels tell of the orientation."""
    while (chunk := _chunk_at(file, at)) is not None and chunk[0] != b"IEND":
        name, contents, at = chunk
        _note_chunk(found, name, contents)


def _note_chunk(found: dict[str, _Text], name: bytes, contents: bytes) -> None:
    if name == b"eXIf":
        found["exif"] = _Text(contents)
        return
    key, _, rest = contents.partition(b"\0")
    if name not in (b"tEXt", b"zTXt", b"iTXt") or key not in _ORIENTING_TEXTS or not rest:
        return
    text: _Text | None = _Text(rest)
    if name == b"zTXt":
        text = _Text(rest[1:], packed=True) if rest[0] == 0 else None
    elif name == b"iTXt":
        text = _international(rest)
    if text is not None:
        found[_ORIENTING_TEXTS[key]] = text


def _international(rest: bytes) -> _Text | None:
    """Return the text behind flag, method, language and translated key; None if unreadable."""
    if len(rest) < 3 or (rest[0] != 0 and rest[1] != 0):
        return None
    text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    return _Text(text, packed=bool(rest[0]))
