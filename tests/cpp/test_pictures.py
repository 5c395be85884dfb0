"""Pictures become the network's in C++ as in Python, to the pixel."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import prepare, prepare_batch, visible_box
from tests.cpp.pictures import (
    FORMATS,
    add_pixels,
    as_seen,
    in_order,
    noise,
    random_specs,
    spec_words,
)


@in_order
def test_prepared_pictures_equal_pillows_to_the_pixel(jobs):
    cases = []
    for index, (width, height, spec) in enumerate(random_specs(1200)):
        kind = list(FORMATS)[index % len(FORMATS)]
        pixels = noise(width, height, index)
        add_pixels(jobs, f"prepare {spec_words(spec)}", pixels, kind, index % 4)
        cases.append((pixels, spec, kind))
    for (pixels, spec, kind), (status, answer) in zip(cases, jobs.run(), strict=True):
        assert status == "ok", answer
        expected = np.asarray(prepare(as_seen(pixels, kind), spec))
        found = np.frombuffer(answer, np.uint8).reshape(expected.shape)
        assert np.array_equal(found, expected), (pixels.shape, spec, kind)


REAL = [
    (500, 375, ImageSpec()),
    (640, 480, ImageSpec(interpolation="bicubic")),
    (1280, 720, ImageSpec(interpolation="lanczos")),
    (375, 500, ImageSpec(384, 384, 438, interpolation="bicubic")),
    (256, 256, ImageSpec()),
    (256, 999, ImageSpec()),
    (224, 224, ImageSpec(crop="none")),
    (224, 500, ImageSpec(crop="none", interpolation="lanczos")),
    (500, 224, ImageSpec(crop="none", interpolation="bicubic")),
    (3001, 7, ImageSpec(299, 299, 5, interpolation="nearest")),
    (2, 2, ImageSpec(700, 700, 699, interpolation="lanczos")),
    (9000, 3, ImageSpec(100, 100, crop="none", interpolation="lanczos")),
]


@in_order
@pytest.mark.parametrize("kind", FORMATS)
def test_pictures_of_real_sizes_equal_pillows_to_the_pixel(jobs, kind):
    for width, height, spec in REAL:
        add_pixels(jobs, f"prepare {spec_words(spec)}", noise(width, height), kind, 5)
    for (width, height, spec), (status, answer) in zip(REAL, jobs.run(), strict=True):
        assert status == "ok", answer
        expected = np.asarray(prepare(as_seen(noise(width, height), kind), spec))
        assert answer == expected.tobytes(), (width, height, spec)


def test_float_input_equals_pythons_to_the_bit(jobs):
    spec = ImageSpec(50, 40, 64).for_input("float32")
    add_pixels(jobs, f"prepare {spec_words(spec)}", noise(90, 70), "RGB", 0)
    expected = prepare_batch([Image.fromarray(noise(90, 70))], spec)[0]
    assert jobs.run() == [("ok", expected.tobytes())]


def test_a_strip_is_refused_with_pythons_words(jobs):
    spec = ImageSpec(resize=2048)
    add_pixels(jobs, f"prepare {spec_words(spec)}", noise(1, 60_000), "RGB", 0)
    with pytest.raises(InputError) as caught:
        prepare(Image.new("RGB", (1, 60_000)), spec)
    assert jobs.run() == [("error", str(caught.value).encode())]


def test_visible_boxes_equal_pythons_to_the_bit(jobs):
    cases = list(random_specs(300))
    for width, height, spec in cases:
        jobs.add(f"box {width} {height} {spec_words(spec)}")
    for (width, height, spec), (_, answer) in zip(cases, jobs.run(), strict=True):
        assert struct.unpack("4d", answer) == visible_box((width, height), spec)
