"""What is declared of preprocessing is taken, and what is not is said."""

import numpy as np
import pytest

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.backbones.preprocessing import (
    IMAGENET,
    NOTHING_SAID,
    Preprocessing,
    declared_by,
    image_spec,
    overlay,
    read_preprocessing,
    undeclared,
)


def normalised(said, pixels):
    image = image_spec(said, IMAGENET)
    return (pixels / 255 - np.array(image.mean)) / np.array(image.std)


PIXELS = np.array([[0.0, 127, 255], [10, 20, 200]])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (Preprocessing(rescale="unit"), PIXELS / 255),
        (Preprocessing(rescale="signed"), (PIXELS - 127) / 128),
        (Preprocessing(rescale="none"), PIXELS),
        (
            Preprocessing(rescale="none", mean=(123.7, 116.8, 103.9), std=(58.4, 57.1, 57.4)),
            (PIXELS - (123.7, 116.8, 103.9)) / (58.4, 57.1, 57.4),
        ),
        (Preprocessing(rescale="none", mean=(1.0, 2.0, 3.0)), PIXELS - (1, 2, 3)),
        (Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3), (PIXELS / 255 - 0.5) / 0.25),
    ],
)
def test_pixels_come_as_the_network_expects_them(said, expected):
    assert np.allclose(normalised(said, PIXELS), expected)


def test_means_of_whole_levels_ask_for_rescale():
    with pytest.raises(InputError, match="found mean 123.7,116.8,103.9; .* --rescale none"):
        image_spec(Preprocessing(mean=(123.7, 116.8, 103.9)), IMAGENET)


def test_a_layer_says_more_than_the_one_below():
    base = declared_by(ImageSpec(height=100, width=100, resize=120, interpolation="bicubic"))
    found = overlay(base, Preprocessing(image_size=(200, 200), crop="none"))
    assert (found.image_size, found.resize, found.crop) == ((200, 200), 240, "none")
    assert found.interpolation == "bicubic"
    assert overlay(base, Preprocessing(image_size=(200, 200), resize=210)).resize == 210


def test_what_nobody_declared_is_said_and_nothing_else():
    image = image_spec(NOTHING_SAID, IMAGENET)
    assert undeclared(NOTHING_SAID, image) == (
        "pictures of 224x224, the middle cut out, the short side resized to 256, bilinear "
        "interpolation, ImageNet's mean 0.485,0.456,0.406, ImageNet's standard deviation "
        "0.229,0.224,0.225"
    )
    said = Preprocessing(image_size=(64, 64), crop="none", interpolation="nearest", rescale="unit")
    said = overlay(NOTHING_SAID, said)
    assert undeclared(said, image_spec(said, IMAGENET)) == ""
    half = Preprocessing(mean=(0.5,) * 3, image_size=(64, 64))
    assert undeclared(half, image_spec(half, IMAGENET)).startswith("the middle cut out, the short")
    assert undeclared(declared_by(image), image) == ""


def test_a_file_says_it_in_toml(tmp_path):
    path = tmp_path / "preprocessing.toml"
    path.write_text(
        'image_size = [96, 128]\ncrop = "pad"\npad_level = 114\nchannel_order = "bgr"\n'
    )
    said = read_preprocessing(str(path))
    assert said == Preprocessing(
        image_size=(96, 128), crop="pad", pad_level=114, channel_order="bgr"
    )
    assert image_spec(said, IMAGENET).pad_level == 114


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop_ = 1", "unknown key crop_; did you mean crop?"),
        ('crop = "middle"', "crop is 'middle'; expected one of center, none, pad"),
        ("mean = 0.5", "mean is 0.5; expected a list"),
        ("mean = [", "is not TOML"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(tmp_path, text, message):
    path = tmp_path / "preprocessing.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_preprocessing(str(path))
    assert message in str(caught.value)
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)
