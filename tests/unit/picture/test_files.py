"""Pictures open as people see them, whatever they come in and whatever lies beside their pixels."""

import io
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from tame_deploy.errors import InputError
from tame_deploy.picture.files import FORMATS, IMAGE_SUFFIXES
from tame_deploy.picture.preprocess import load_image

with_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = Image.new("RGB", (40, 20), "black")
    upright.paste("white", (0, 0, 20, 10))  # the upper left quarter is white
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = load_image(encoded(stored, "PNG", exif=exif))
    assert np.array_equal(np.asarray(seen), np.asarray(upright))


def test_cmyk_is_seen_in_its_colours():
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixel = load_image(encoded(red, "JPEG", quality=95)).getpixel((4, 4))
    assert pixel[0] > 200
    assert max(pixel[1:]) < 60


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    seen = np.asarray(load_image(encoded(Image.fromarray(ramp), "PNG")))
    assert seen.shape == (4, 256, 3)
    assert np.array_equal(seen[0, :, 0], np.arange(256))
    mixed = np.random.default_rng(0).integers(0, 65536, (50, 50)).astype(np.uint16)
    seen = np.asarray(load_image(encoded(Image.fromarray(mixed), "PNG")))
    assert np.array_equal(seen[..., 0], np.round(mixed / 257))


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "YCbCr", "HSV", "LAB"])
def test_other_colour_modes_become_rgb(mode):
    assert load_image(
        noise(8, 6).convert("RGB").convert(mode) if mode != "LAB" else lab()
    ).mode == ("RGB")


def lab() -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(noise(8, 6), *profiles, outputMode="LAB")
    assert converted is not None
    return converted


def test_a_picture_from_the_caller_is_left_as_it_was():
    image = noise(8, 6).convert("L")
    load_image(image)
    assert image.mode == "L"


def test_arrays_paths_and_pil_give_the_same_picture(tmp_path):
    image = noise(9, 7)
    image.save(tmp_path / "it.png")
    for source in (image, np.asarray(image), tmp_path / "it.png", str(tmp_path / "it.png")):
        assert np.array_equal(np.asarray(load_image(source)), np.asarray(image))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.jpg", "no such file"),
        ("/", "is a directory"),
        (b"", "is not a picture"),
        (b"not a picture", "is not a picture"),
        (encoded(noise(64, 64), "PNG")[:200], "cannot be decoded"),
        (encoded(noise(64, 64), "JPEG")[:400], "cannot be decoded"),
        (encoded(noise(8, 8), "EPS"), "is not a picture in JPEG"),
        (np.zeros((0, 4, 3), np.uint8), "array is 4x0"),
        (np.zeros((4, 4, 2), np.uint8), r"expected uint8 \(H, W, 3\) RGB, \(H, W, 4\) RGBA or"),
        (np.zeros((4, 4, 2), np.uint16), "found uint16 array"),
        (np.zeros((4, 4, 3), np.float32), "found float32 array"),
        (Image.new("RGB", (0, 5)), "is 0x5"),
        (42, "found int; expected a path"),
    ],
)
def test_what_is_no_picture_is_one_line(source, message):
    with pytest.raises(InputError, match=message) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"]), st.data())
def test_damaged_files_are_refused_or_read_but_never_anything_else(kind, data):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "description"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoiled = bytearray(encoded(noise(12, 9), kind, exif=exif))
        for _ in range(data.draw(st.integers(1, 6))):
            spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
        try:
            assert load_image(bytes(spoiled)).mode == "RGB"
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_a_lazily_opened_broken_picture_is_one_line():
    lazy = Image.open(io.BytesIO(encoded(noise(64, 64), "PNG")[:200]))
    with pytest.raises(InputError, match="cannot be decoded"):
        load_image(lazy)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    for side in (10_000, 60_000):
        with pytest.raises(InputError, match=f"{side}x{side}; expected at most 89 megapixels"):
            load_image(cut_off(side, side))  # or it would be said to be cut off


def exif(orientation: int, *entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """EXIF with an orientation and entries (tag, type, count, four bytes) behind it."""
    packed = struct.pack(order + "H", orientation) + b"\0\0"
    found = sorted([(0x0112, 3, 1, packed), *entries])
    mark = b"II*\0" if order == "<" else b"MM\0*"
    block = b"".join(struct.pack(order + "HHL", *entry[:3]) + entry[3] for entry in found)
    head = struct.pack(order + "LH", 8, len(found))
    return b"Exif\0\0" + mark + head + block + b"\0" * 4


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_a_sound_orientation_turns_a_picture_as_pillow_would(orientation, order):
    kinds = ["JPEG", "PNG", "WEBP"] + ["AVIF"] * features.check("avif")
    for kind in kinds:
        file = encoded(noise(9, 6), kind, exif=exif(orientation, order=order))
        with Image.open(io.BytesIO(file)) as image:
            expected = ImageOps.exif_transpose(image).convert("RGB")
        assert load_image(file).tobytes() == expected.tobytes(), kind
        with Image.open(io.BytesIO(file)) as image:
            assert load_image(image).tobytes() == expected.tobytes(), kind


TEXT_AS_RESOLUTION = (0x011A, 2, 3, b"72\0\0")
BEYOND_THE_END = (0x010F, 2, 5000, struct.pack("<L", 100))


@pytest.mark.parametrize("entry", [TEXT_AS_RESOLUTION, BEYOND_THE_END], ids=["text", "cut off"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_counts_whatever_is_wrong_with_the_rest_of_exif(kind, entry):
    assert load_image(encoded(noise(9, 6), kind, exif=exif(6, entry))).size == (6, 9)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_warn_in_any_thread(kind):
    file = encoded(noise(9, 6), kind, exif=exif(6, BEYOND_THE_END)[:-9])
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(4) as threads:
        warnings.simplefilter("always")
        list(threads.map(load_image, [file] * 8))
    assert not caught


def chunk(name: bytes, contents: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + contents))
    return struct.pack(">I", len(contents)) + name + contents + checksum


LONG = zlib.compress(bytes(20_000_000))


@pytest.mark.parametrize(
    "metadata",
    [
        (b"zTXt", b"Comment\0\0" + LONG),
        (b"iTXt", b"Comment\0\1\0\0\0" + LONG),
        (b"iCCP", b"icc\0\0" + LONG),
        (b"zTXt", b"Raw profile type exif\0\0" + LONG),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    ],
    ids=["text", "international text", "profile", "exif as text", "xmp"],
)
def test_long_metadata_neither_refuses_a_png_nor_is_unpacked_whole(metadata):
    plain = encoded(noise(9, 6), "PNG")
    file = plain[:33] + chunk(*metadata) + plain[33:]
    tracemalloc.start()
    try:
        assert load_image(file).tobytes() == noise(9, 6).tobytes()
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
    finally:
        tracemalloc.stop()


def test_a_file_that_is_open_is_read_from_where_it_stands(tmp_path):
    file = encoded(noise(9, 7), "JPEG")
    stream = io.BytesIO(b"head" + file)
    stream.seek(4)
    assert load_image(stream).tobytes() == load_image(file).tobytes()
    (tmp_path / "it.jpg").write_bytes(file)
    with (tmp_path / "it.jpg").open("rb") as opened:
        assert load_image(opened).size == (9, 7)
    with (
        (tmp_path / "it.jpg").open(encoding="latin-1") as text,
        pytest.raises(InputError, match="gives str; expected one opened as binary"),
    ):
        load_image(text)


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_a_file_of_every_suffix_that_is_listed_can_be_read(tmp_path, suffix):
    path = tmp_path / f"it{suffix}"
    noise(9, 7).save(path, {".jfif": "JPEG", ".avifs": "AVIF"}.get(suffix))
    assert load_image(path).size == (9, 7)


@with_avif
def test_avif_is_read():
    assert load_image(encoded(noise(16, 12), "AVIF")).size == (16, 12)


def test_only_decoders_that_are_listed_see_a_file():
    assert "EPS" not in FORMATS
    assert "JPEG2000" not in FORMATS
    with pytest.raises(InputError, match="is not a picture in JPEG, PNG"):
        load_image(encoded(noise(8, 8), "JPEG2000"))


def test_grey_and_rgba_arrays_are_read():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(np.asarray(load_image(grey)), np.repeat(grey[..., None], 3, axis=2))
    rgba = np.array([[[10, 20, 30, 255], [40, 50, 60, 0], [70, 80, 90, 51]]], np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [218, 220, 222]]]
    assert np.asarray(load_image(rgba)).tolist() == expected


def tiff(bits: int, sample_format: int) -> bytes:
    """A TIFF file of one RGB pixel with so many bits a channel: 1 whole numbers, 3 floats."""
    entries = [(256, 1, 1), (257, 1, 1), (259, 1, 1), (262, 1, 2), (273, 1, 8), (277, 1, 3)]
    entries += [(278, 1, 1), (279, 1, 3 * bits // 8), (258, 3, 300), (339, 3, 306)]
    packed = b"".join(
        struct.pack("<HHLL", tag, 3, count, value) for tag, count, value in sorted(entries)
    )
    pixels = b"\0" * (3 * bits // 8)
    start = 8 + len(pixels)
    file = b"II*\0" + struct.pack("<L", start) + pixels
    file += struct.pack("<H", len(entries)) + packed + b"\0" * 4
    return file.ljust(300, b"\0") + struct.pack("<6H", *[bits] * 3, *[sample_format] * 3)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point pixels"),
        (tiff(32, 3), "^picture has floating-point pixels; expected 8 or 16 bits a channel$"),
        (tiff(32, 1), "^picture has 32 bits a channel; expected 8 or 16$"),
    ],
    ids=["grey float", "RGB float", "RGB of 32 bits"],
)
def test_pixels_of_other_kinds_are_named(file, message):
    with pytest.raises(InputError, match=message):
        load_image(file)


def clear_half(mode: str) -> Image.Image:
    """A picture whose left half is opaque blue, and whose right half hides red under alpha 0."""
    image = Image.new("RGBA", (8, 4), (0, 0, 255, 255))
    image.paste((255, 0, 0, 0), (4, 0, 8, 4))
    return (image.convert("LA") if mode == "La" else image).convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_hidden_colours_do_not_show(mode):
    seen = np.asarray(load_image(clear_half(mode)))
    assert (seen[:, 4:] == 255).all()
    assert (seen[:, :4].min(axis=2) < 255).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_hidden_colours_of_files_do_not_show(kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    seen = np.asarray(load_image(encoded(clear_half("RGBA"), kind, **options)))
    assert (seen[:, 4:] == 255).all()
    assert (seen[:, :4] == (0, 0, 255)).all()


def test_a_palette_hides_what_is_transparent():
    image = Image.new("P", (8, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (4, 0, 8, 4))
    for transparency in (0, bytes([0, 255])):
        seen = np.asarray(load_image(encoded(image, "PNG", transparency=transparency)))
        assert (seen[:, 4:] == 255).all()
        assert (seen[:, :4] == (0, 0, 255)).all()


def test_another_background_may_be_asked_for():
    seen = load_image(clear_half("RGBA"), background=(1, 2, 3))
    assert seen.getpixel((7, 0)) == (1, 2, 3)


def deep(most: int) -> bytes:
    levels = np.linspace(0, most, 256).astype(np.uint16)[None].repeat(2, axis=0)
    return encoded(Image.fromarray(levels), "PNG")


def test_twelve_bits_in_sixteen_are_warned_of_once_a_picture(caplog):
    assert np.asarray(load_image(deep(4095))).max() < 17
    assert caplog.messages == [
        "picture has 16-bit pixels of at most 4095, which come out nearly black; "
        "give it a window, such as 0,4095"
    ]
    load_image(deep(65535))
    load_image(deep(0))
    assert len(caplog.messages) == 1


def test_a_window_says_which_levels_are_black_and_white(caplog):
    seen = np.asarray(load_image(deep(4095), window=(0, 4095)))[0, :, 0]
    assert np.array_equal(seen, np.arange(256))
    narrow = np.asarray(load_image(deep(4095), window=(1000, 2000)))
    assert narrow.min() == 0
    assert narrow.max() == 255
    assert not caplog.messages


def test_a_window_takes_levels_that_sixteen_bits_do_not_hold():
    levels = Image.fromarray(np.array([[-1000, 0, 3000, 90_000]], np.int32))
    seen = np.asarray(load_image(levels, window=(-1000, 3000)))[0, :, 0]
    assert seen.tolist() == [0, 64, 255, 255]
    with pytest.raises(InputError, match="from -1000 to 90000; expected 0 to 65535, or a window"):
        load_image(levels)


def test_a_window_leaves_pictures_of_eight_bits_alone():
    assert load_image(noise(4, 4), window=(0, 10)).tobytes() == noise(4, 4).tobytes()


def cut_off(width: int, height: int) -> bytes:
    """The beginning of a PNG file of so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def test_as_many_pixels_as_are_asked_for_may_be_read_within_a_bound():
    """What is not refused for its size is found to be cut off."""
    photograph = cut_off(12_000, 9_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="expected at most 89 megapixels"):
            load_image(photograph)
        with pytest.raises(InputError, match="cannot be decoded"):
            load_image(photograph, max_pixels=108_000_000)
        with pytest.raises(InputError, match="expected at most 250 megapixels"):
            load_image(cut_off(20_000, 15_000), max_pixels=10**9)


def test_pillows_own_bound_on_pixels_does_not_count(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(encoded(noise(9, 7), "PNG")).size == (9, 7)
