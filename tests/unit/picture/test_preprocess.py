"""Preprocessing equals torchvision's to the pixel, and pictures open as people see them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import (
    as_input,
    load_image,
    prepare,
    prepare_batch,
    visible_box,
)

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


def test_shares_of_one_become_the_input_that_levels_do():
    levels = np.random.default_rng(1).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    shares = levels.astype(np.float32) / np.float32(255)
    for dtype in ("uint8", "float32"):
        spec = ImageSpec(5, 4).for_input(dtype)
        found = as_input(shares, spec)
        assert found.dtype == dtype
        assert np.array_equal(found, as_input(levels, spec))


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


def test_a_strip_that_resizing_would_blow_up_is_refused():
    with pytest.raises(InputError, match="too long and narrow"):
        prepare(Image.new("RGB", (1, 60_000)), ImageSpec(resize=2048))


@pytest.mark.parametrize(
    ("most", "words"), [(10, "at most 10 pixels"), (1_000_000, "at most 1 megapixels")]
)
def test_a_bound_on_pixels_is_said_as_people_say_it(most, words):
    with pytest.raises(InputError, match=words):
        load_image(np.zeros((1001, 1000), np.uint8), max_pixels=most)


def test_a_url_is_not_taken_for_a_file():
    with pytest.raises(InputError, match=r"https://example\.com/cat\.jpg is a URL; .* not fetched"):
        load_image("https://example.com/cat.jpg")
