"""Of the texts in a PNG file that may tell its orientation, the last of a name counts."""

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tame_deploy.picture import files
from tame_deploy.picture.preprocess import load_image
from tests.unit.picture.test_files import chunk, encoded

KEY = b"XML:com.adobe.xmp\0"


def packet(orientation: int) -> bytes:
    return b'<rdf:Description tiff:Orientation="%d"/>' % orientation


def packed(orientation: int) -> bytes:
    return chunk(b"zTXt", KEY + b"\0" + zlib.compress(packet(orientation)))


def plain(orientation: int) -> bytes:
    return chunk(b"tEXt", KEY + packet(orientation))


@pytest.mark.parametrize(
    ("texts", "size"),
    [
        ([packed(1)] * 50 + [packed(6)], (20, 30)),
        ([packed(6)] * 50 + [plain(1)], (30, 20)),
        ([plain(1), packed(6)], (20, 30)),
        ([packed(6), chunk(b"zTXt", KEY + b"\0what?")], (30, 20)),  # empty, and it counts
        ([packed(6), chunk(b"zTXt", KEY + b"\1what?")], (20, 30)),  # packed in no known way
    ],
    ids=["many", "plain-last", "packed-last", "broken-last", "unknown-last"],
)
def test_only_the_last_text_of_a_name_is_unpacked(texts, size, monkeypatch):
    unpacked = []

    def decompressobj():
        unpacked.append(1)
        return zlib.decompressobj()

    counting = SimpleNamespace(decompressobj=decompressobj, error=zlib.error, crc32=zlib.crc32)
    monkeypatch.setattr(files, "zlib", counting)
    file = encoded(Image.fromarray(np.zeros((20, 30, 3), np.uint8)), "PNG")
    assert load_image(file[:33] + b"".join(texts) + file[33:]).size == size
    assert len(unpacked) <= 1
