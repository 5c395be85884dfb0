"""Grey, many channels, 16 bits and padding: the same levels in C++ as in Python."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.types import ImageSpec, InputKind
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import (
    ImageSource,
    load_picture,
    prepare_batch,
    prepared_levels,
    shown,
    visible_box,
)
from tests.cpp.pictures import (
    FORMATS,
    Jobs,
    add_pixels,
    as_seen,
    encoded,
    gradient,
    in_order,
    noise,
    random_specs,
    spec_words,
)

ENCODED, GRAY16, RGB16, CHANNELS, CHANNELS16 = 0, 8, 9, 12, 13
WINDOWS = ((0, 65535), (1000, 5095), None)


def spec_of(base: ImageSpec, channels: int, dtype: InputKind, index: int) -> ImageSpec:
    """Return the geometry of a specification for other channels and bits, often padded."""
    own = ImageSpec()
    return replace(
        base.for_input(dtype),
        mean=own.mean if channels == 3 else (0.5,) * channels,
        std=own.std if channels == 3 else (0.25,) * channels,
        crop=("center", "none", "pad")[index % 3],
        pad_level=(index * 37) % 256,
        window=WINDOWS[index // 3 % 3],
    )


def levels(width: int, height: int, channels: int, bits: int, seed: int) -> NDArray[np.uint16]:
    """Return levels with extremes, uint8 or uint16 (height, width, channels)."""
    generator = np.random.default_rng(seed)
    dtype = np.dtype(f"uint{bits}")
    made = generator.integers(0, 2**bits, (height, width, channels), dtype.type)
    made[generator.random((height, width)) < 0.3] = 2**bits - 1
    made[generator.random((height, width)) < 0.3] = 0
    return made


def add_levels(jobs: Jobs, job: str, array: NDArray[np.uint16], words: str = "") -> None:
    height, width, channels = array.shape
    kind = CHANNELS if array.dtype == np.uint8 else CHANNELS16
    rows = np.pad(array.reshape(height, -1), ((0, 0), (0, 3)), constant_values=99)
    stride = rows.shape[1] * rows.itemsize
    jobs.add(f"{job} {{}} {kind} {width} {height} {stride} {channels} {words}", rows)


def check(jobs: Jobs, cases: list[tuple[ImageSource, ImageSpec]]) -> None:
    for (source, spec), (status, answer) in zip(cases, jobs.run(), strict=True):
        assert status == "ok", answer
        expected = prepare_batch([load_picture(source, spec)], spec)[0]
        found = np.frombuffer(answer, expected.dtype).reshape(expected.shape)
        assert np.array_equal(found, expected), (getattr(source, "shape", ""), spec)


@in_order
def test_channels_of_8_and_16_bits_equal_pythons(jobs):
    kinds: list[tuple[int, int, InputKind]] = [
        (1, 1, "uint16"), (3, 3, "uint16"), (1, 3, "uint16"), (3, 1, "uint16"), (5, 5, "uint16"),
        (5, 5, "uint8"), (2, 2, "float32"), (1, 1, "uint8"), (3, 1, "float32"),
    ]  # fmt: skip
    cases: list[tuple[ImageSource, ImageSpec]] = []
    for index, (width, height, base) in enumerate(random_specs(360)):
        found, wanted, dtype = kinds[index % len(kinds)]
        spec = spec_of(base, wanted, dtype, index // len(kinds))
        array = levels(width, height, found, 16 if index % 2 else 8, index)
        try:
            prepared_levels(load_picture(array, spec), spec)
        except InputError:  # too long and narrow to be padded
            continue
        add_levels(jobs, "prepare", array, spec_words(spec))
        cases.append((array, spec))
    assert len(cases) > 300
    check(jobs, cases)


@in_order
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_every_format_become_grey_deep_or_padded_as_in_python(jobs, dtype, channels):
    cases: list[tuple[ImageSource, ImageSpec]] = []
    for index, kind in enumerate(FORMATS):
        spec = spec_of(ImageSpec(40, 33, 36), channels, dtype, index)
        pixels = noise(61, 47, index)
        add_pixels(jobs, f"prepare {spec_words(spec)}", pixels, kind, 3)
        cases.append((as_seen(pixels, kind), spec))
    check(jobs, cases)


FILES = [
    encoded(Image.fromarray(levels(41, 30, 1, 16, 1)[..., 0]), "PNG"),
    encoded(Image.fromarray(levels(41, 30, 1, 16, 2)[..., 0] % 4096), "PNG", exif=b""),
    encoded(Image.fromarray(levels(41, 30, 1, 8, 3)[..., 0]), "PNG"),
    encoded(gradient(41, 30), "JPEG"),
    encoded(gradient(41, 30).convert("L"), "JPEG"),
    encoded(Image.fromarray(noise(41, 30)), "PNG"),
]


@in_order
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_files_keep_the_bits_that_a_network_takes(jobs, dtype):
    cases: list[tuple[ImageSource, ImageSpec]] = []
    for index, file in enumerate(FILES):
        for channels in (1, 3):
            spec = spec_of(ImageSpec(24, 24, 26), channels, dtype, index)
            jobs.add(f"prepare {{}} {ENCODED} 0 0 {len(file)} {spec_words(spec)}", file)
            cases.append((file, spec))
    check(jobs, cases)


def test_upright_16_bit_files_are_turned(jobs):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(Image.fromarray(levels(9, 5, 1, 16, 0)[..., 0]), "PNG", exif=exif)
    spec = spec_of(ImageSpec(9, 5), 1, "uint16", 1)
    jobs.add(f"prepare {{}} {ENCODED} 0 0 {len(file)} {spec_words(spec)}", file)
    check(jobs, [(file, spec)])
    assert load_picture(file, spec).shape == (9, 5, 1)  # type: ignore[union-attr]


def test_what_16_bits_and_many_channels_look_like_equals_pythons(jobs):
    deep = ImageSpec().for_input("uint16")
    arrays = [levels(13, 9, channels, 16, channels) // 3 for channels in (1, 2, 3, 5)]
    arrays += [levels(13, 9, channels, 8, channels) for channels in (2, 5)]
    arrays.append(np.full((4, 4, 1), 700, np.uint16))
    for array in arrays:
        add_levels(jobs, "shown", array)
    jobs.add(f"shown {{}} {ENCODED} 0 0 {len(FILES[1])}", FILES[1])
    expected = [shown(array) for array in arrays] + [shown(load_picture(FILES[1], deep))]
    answers = jobs.run()
    for one, (status, answer) in zip(expected, answers, strict=True):
        assert (status, answer) == ("ok", one.tobytes())


def test_boxes_of_padded_pictures_equal_pythons_to_the_bit(jobs):
    spec = ImageSpec(60, 90, crop="pad")
    sizes = [(100, 100), (333, 17), (17, 333), (90, 60), (1, 1), (9000, 101)]
    for width, height in sizes:
        jobs.add(f"box {width} {height} {spec_words(spec)}")
    for size, (_, answer) in zip(sizes, jobs.run(), strict=True):
        assert np.frombuffer(answer).tolist() == list(visible_box(size, spec))


def test_what_does_not_fit_is_told_in_one_line(jobs):
    five = spec_of(ImageSpec(8, 8, 8), 5, "uint8", 0)
    thin = spec_of(ImageSpec(8, 8, 8), 1, "uint8", 2)
    add_levels(jobs, "prepare", levels(9, 9, 4, 8, 0), spec_words(five))
    add_levels(jobs, "prepare", levels(9, 9, 4, 8, 0), spec_words(thin))
    add_levels(jobs, "prepare", levels(400, 1, 1, 8, 0), spec_words(thin))
    jobs.add(f"prepare {{}} {CHANNELS} 9 9 0 0 {spec_words(five)}", bytes(81))
    jobs.add(f"prepare {{}} {ENCODED} 0 0 {len(FILES[3])} {spec_words(five)}", FILES[3])
    assert [answer.decode() for status, answer in jobs.run() if status == "error"] == [
        "picture has 4 channels; the network takes 5: expected TAME_CHANNELS or TAME_CHANNELS16 of "
        "as many",
        "picture has 4 channels; the network takes 1: expected RGB or grey",
        "picture is 400x1: too long and narrow to resize",
        "picture has 0 channels; expected 1 to 1024",
        "picture has 3 channels; the network takes 5: expected TAME_CHANNELS or TAME_CHANNELS16 of "
        "as many",
    ]
