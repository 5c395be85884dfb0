"""Preprocessing equals torchvision's to the pixel, and pictures open as people see them."""

import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import load_image, prepare, prepare_batch, visible_box

sides = st.integers(1, 200)
MODES = {
    "nearest": transforms.InterpolationMode.NEAREST,
    "bilinear": transforms.InterpolationMode.BILINEAR,
    "bicubic": transforms.InterpolationMode.BICUBIC,
    "lanczos": transforms.InterpolationMode.LANCZOS,
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(deadline=None, max_examples=150)
@given(sides, sides, st.integers(1, 96), sides, sides, st.sampled_from(list(MODES)))
def test_resize_and_crop_equal_torchvision(width, height, resize, crop_height, crop_width, mode):
    spec = ImageSpec(crop_height, crop_width, resize, interpolation=mode)
    image = noise(width, height)
    reference = transforms.Compose(
        [
            transforms.Resize(resize, MODES[mode]),
            transforms.CenterCrop((crop_height, crop_width)),
        ]
    )
    assert np.array_equal(np.asarray(prepare(image, spec)), np.asarray(reference(image)))


@settings(deadline=None, max_examples=30)
@given(sides, sides, sides, sides)
def test_squeezing_equals_torchvision(width, height, target_height, target_width):
    spec = ImageSpec(target_height, target_width, crop="none")
    image = noise(width, height)
    reference = transforms.Resize((target_height, target_width))
    assert np.array_equal(np.asarray(prepare(image, spec)), np.asarray(reference(image)))


def test_float_input_equals_torchvision():
    image = noise(300, 260)
    spec = ImageSpec().for_input("float32")
    reference = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    ours = prepare_batch([image, image], spec)
    assert ours.dtype == np.float32
    assert ours.shape == (2, 3, 224, 224)
    assert torch.allclose(torch.from_numpy(ours[1]), reference(image), atol=1e-6)


@given(sides, sides, sides, sides)
def test_the_visible_box_has_the_shape_of_the_input(width, height, crop_height, crop_width):
    spec = ImageSpec(crop_height, crop_width, 64)
    left, top, right, bottom = visible_box((width, height), spec)
    resized = int(64 * max(width, height) / min(width, height))
    scale_x = width / (64 if width <= height else resized)
    assert right - left == pytest.approx(crop_width * scale_x)
    assert abs((left + right) / 2 - width / 2) <= scale_x
    assert top < bottom


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


def test_float_pixels_are_refused():
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(InputError, match="floating-point pixels"):
        load_image(data)


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
        (np.zeros((4, 4), np.uint8), r"expected uint8 \(H, W, 3\)"),
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
    bomb = encoded(Image.new("1", (60_000, 60_000)), "PNG")
    assert len(bomb) < 1_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(InputError, match="megapixels"):
            load_image(bomb)
        with pytest.raises(InputError, match="10000x10000; expected at most 89 megapixels"):
            load_image(encoded(Image.new("1", (10_000, 10_000)), "PNG"))


def test_a_strip_that_resizing_would_blow_up_is_refused():
    with pytest.raises(InputError, match="too long and narrow"):
        prepare(Image.new("RGB", (1, 60_000)), ImageSpec(resize=2048))
