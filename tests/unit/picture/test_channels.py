"""Grey, 16 bits, many channels and padding: what a network gets, and what people see."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.data.labelled import DrawnPictures
from tame_deploy.data.shapes import draw_levels
from tame_deploy.errors import InputError
from tame_deploy.model.fused import Preprocess, Shares
from tame_deploy.picture.overlay import blend
from tame_deploy.picture.preprocess import (
    as_input,
    check_window,
    load_image,
    load_picture,
    prepare_batch,
    prepared_levels,
    shares_of,
    shown,
    visible_box,
)


def spec_of(channels, dtype="uint8", **changes):
    changes = {"height": 4, "width": 6, "crop": "none"} | changes
    spec = ImageSpec(mean=(0.5,) * channels, std=(0.25,) * channels)
    return replace(spec.for_input(dtype), **changes)


def noise(channels, bits=8, height=4, width=6):
    levels = np.random.default_rng(channels).integers(0, 2**bits, (height, width, channels))
    return levels.astype(f"uint{bits}")


def file_of(*pages, kind="TIFF"):
    stream = io.BytesIO()
    first, *others = (Image.fromarray(page) for page in pages)
    more = {"save_all": True, "append_images": others} if others else {}
    first.save(stream, kind, **more)
    return stream.getvalue()


def seen(source, spec):
    return prepared_levels(load_picture(source, spec), spec)


def test_a_grey_network_takes_colours_as_pillows_grey_and_one_of_colours_takes_grey():
    colours = noise(3)
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    assert np.array_equal(seen(colours, spec_of(1))[..., 0], expected)
    assert np.array_equal(seen(noise(1), spec_of(1)), noise(1))
    assert np.array_equal(seen(noise(1), spec_of(3)), noise(1).repeat(3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "array", "picture"])
def test_16_bits_arrive_with_all_of_them(kind):
    levels = noise(1, 16)
    source = {"array": levels, "picture": Image.fromarray(levels[..., 0])}.get(kind)
    source = file_of(levels[..., 0], kind=kind) if source is None else source
    assert np.array_equal(seen(source, spec_of(1, "uint16")), levels)


def test_16_bits_are_resized_without_being_rounded_to_8():
    levels = (np.arange(48, dtype=np.uint16) * 1000).reshape(4, 12, 1)
    found = seen(levels, spec_of(1, "uint16"))[..., 0]
    exact = levels[..., 0].astype(float).reshape(4, 6, 2).mean(axis=2)
    assert np.abs(found - exact).max() < 600  # edges weigh otherwise
    assert len(set(np.diff(found[0].astype(int)).tolist()) - {2000}) <= 4
    assert (found % 257 != 0).any()
    one = spec_of(1, "uint16", height=1, width=1)
    assert seen(np.array([[10, 11, 11]], np.uint16), one).item() == 11  # to the nearest level


@pytest.mark.parametrize(
    ("window", "first", "last"),
    [((0, 65535), 0, 65535), ((100, 4195), 100, 4195), (None, 0, 65535)],
)
def test_8_bits_fill_the_window_of_a_network_of_16(window, first, last):
    ramp = np.array([[0, 255]], np.uint8)
    spec = spec_of(1, "uint16", height=1, width=2, window=window)
    assert seen(ramp, spec).ravel().tolist() == [first, last]
    white = prepare_batch([load_picture(ramp, spec)], spec)
    assert shares_of(white, spec).ravel().tolist() == [0, 1]


def test_grey_and_colours_of_16_bits_become_each_other():
    colours = noise(3, 16)
    grey = seen(colours, spec_of(1, "uint16"))[..., 0]
    exact = colours @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey - exact).max() < 1
    spread = seen(noise(1, 16), spec_of(3, "uint16"))
    assert np.array_equal(spread, noise(1, 16).repeat(3, axis=2))


def test_16_bits_for_a_network_of_8_are_scaled_or_windowed():
    levels = noise(5, 16)
    exact = np.floor((levels.astype(float) * 255 + 32767) / 65535)
    assert np.array_equal(seen(levels, spec_of(5)), exact)
    windowed = load_picture(levels // 100, spec_of(5), window=(0, 655))
    assert windowed.max() > 250
    assert load_image(noise(3, 16)).tobytes() == (noise(3, 16) >> 8).astype(np.uint8).tobytes()


@pytest.mark.parametrize("bits", [8, 16])
def test_many_channels_come_from_arrays_and_from_pages(bits):
    levels = noise(5, bits)
    spec = spec_of(5, f"uint{bits}")
    file = file_of(*np.moveaxis(levels, 2, 0))
    assert np.array_equal(seen(levels, spec), levels)
    assert np.array_equal(seen(file, spec), levels)
    with Image.open(io.BytesIO(file)) as opened:  # the caller's own stays where it was
        assert np.array_equal(seen(opened, spec), levels)
        assert opened.tell() == 0


FIVE = np.zeros((5, 4, 6), np.uint8)


@pytest.mark.parametrize(
    ("source", "spec", "message"),
    [
        (noise(4), spec_of(5), r"array of shape \(4, 6, 4\); the network takes 5 channels: expec"),
        (noise(5), spec_of(3), r"found uint8 array of shape \(4, 6, 5\); expected uint8 \(H, W, 3"),
        (noise(5), spec_of(1, "uint16"), r"found uint8 array of shape \(4, 6, 5\); expected uint8"),
        (noise(2, 16), spec_of(1, "uint16"), r"uint16 array of shape \(4, 6, 2\); expected \(H, W"),
        (noise(5).astype(float), spec_of(5), "found float64 array"),
        (file_of(*FIVE[:4]), spec_of(5), "picture has 4 pages; the network takes 5 channels"),
        (file_of(noise(3), kind="PNG"), spec_of(5), r"picture has one page \(RGB\); the network"),
        (file_of(*FIVE[:1], *noise(12).reshape(4, 6, 4, 3)), spec_of(5), "page 1 .* no grey one"),
        (file_of(*FIVE[:4], FIVE[0, :3]), spec_of(5), "the pages of picture are 6x4 uint8, 6x4 ui"),
    ],
)  # fmt: skip
def test_other_channels_than_the_network_takes_are_one_line(source, spec, message):
    with pytest.raises(InputError, match=message) as caught:
        seen(source, spec)
    assert "\n" not in str(caught.value)


def test_pixels_of_all_pages_are_counted_before_they_are_decoded():
    with pytest.raises(InputError, match="expected at most 20 pixels"):
        load_picture(file_of(*FIVE), spec_of(5), max_pixels=100)


def test_a_network_of_16_bits_has_its_own_window():
    for window, told in (((0, 4095), "0,4095"), (None, "each picture's own")):
        with pytest.raises(InputError, match=rf"the graph has its own \({told}\), so leave it out"):
            check_window((0, 10), spec_of(1, "uint16", window=window))
    check_window((0, 10), spec_of(1))


WINDOWED = [spec_of(2, "uint16", window=window) for window in ((0, 65535), (900, 5000), None)]


@pytest.mark.parametrize("spec", [spec_of(2), *WINDOWED], ids=str)
def test_the_graph_normalises_as_the_runtime_does(spec):
    levels = np.stack([noise(2, 16), np.full((4, 6, 2), 7, np.uint16), noise(2, 16) // 16])
    levels = levels.astype(spec.dtype)
    expected = as_input(shares_of(levels, spec), spec.for_input("float32"))
    found = Preprocess(spec)(torch.from_numpy(levels)).numpy()
    assert np.abs(found - expected).max() < 1e-5
    shares = Shares(spec)(torch.from_numpy(levels.astype(np.float32)).permute(0, 3, 1, 2))
    assert torch.allclose((shares - 0.5) / 0.25, torch.from_numpy(expected), atol=1e-5)


def test_a_picture_of_one_level_is_black_in_its_own_window():
    assert shares_of(np.full((1, 4, 6, 1), 700, np.uint16), WINDOWED[2]).max() == 0


@pytest.mark.parametrize("spec", WINDOWED, ids=str)
def test_shares_become_the_levels_that_they_came_from(spec):
    low, high = spec.window or (0, 65535)
    levels = np.linspace(low, high, 24).astype(np.uint16).reshape(1, 4, 6, 1)
    assert np.array_equal(as_input(shares_of(levels, spec), spec), levels)


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((100, 50), (6, 3)),
        ((50, 100), (2, 4)),
        ((6, 4), (6, 4)),
        ((7, 4), (6, 3)),
        ((60, 45), (5, 4)),
    ],
)
def test_letterboxed_pictures_keep_their_proportions_and_lie_in_the_middle(size, resized):
    spec = spec_of(1, crop="pad", pad_level=9)
    found = seen(np.full(size[::-1], 200, np.uint8), spec)[..., 0]
    rows, columns = np.nonzero(found == 200)
    assert (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1) == resized
    assert columns.min() == (6 - resized[0]) // 2
    assert rows.min() == (4 - resized[1]) // 2
    assert set(np.unique(found)) <= {9, 200}


def test_padding_is_a_level_of_8_bits_whatever_the_graph_takes():
    for dtype, scale in (("uint8", 1), ("uint16", 257)):
        spec = spec_of(3, dtype, crop="pad", pad_level=114)
        found = seen(np.zeros((1, 6, 3), np.uint8), spec)
        assert found[0].max() == found[0].min() == 114 * scale


def test_the_map_of_a_letterboxed_picture_lies_over_it_and_its_padding_is_cut_off():
    spec = spec_of(3, height=100, width=100, crop="pad")
    left, top, right, bottom = visible_box((200, 100), spec)
    assert (left, top, right, bottom) == (0, -50, 200, 150)
    heat = np.zeros((4, 4), np.float32)
    heat[0] = heat[3] = 1  # where it is padded
    drawn = np.asarray(blend(Image.new("RGB", (200, 100)), heat, (left, top, right, bottom)))
    assert drawn[50].max() < 30
    assert drawn[0].max() > 30  # the map is interpolated across the edge
    with pytest.raises(InputError, match="301x1: too long and narrow"):
        seen(np.zeros((1, 301, 3), np.uint8), spec)


def test_a_long_letterboxed_picture_takes_no_memory_for_what_is_cut_off():
    size = (30_000, 20)
    heat = np.linspace(0, 1, 49, dtype=np.float32).reshape(7, 7)
    box = visible_box(size, spec_of(3, height=3000, width=3000, crop="pad"))
    drawn = np.asarray(blend(Image.new("RGB", size), heat, box))
    assert drawn.shape == (20, 30_000, 3)
    assert drawn[10, -1].sum() > drawn[10, 0].sum()


def test_what_people_see_of_other_channels_and_bits():
    assert np.asarray(shown(noise(5))).tolist() == noise(5)[..., :3].tolist()
    two = np.array([[[10, 21]]], np.uint8)
    assert np.asarray(shown(two)).tolist() == [[[16] * 3]]
    deep = np.array([[[1000], [1500], [2000]]], np.uint16)
    assert np.asarray(shown(deep))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(shown(np.full((2, 2, 1), 5, np.uint16))).max() == 0
    picture = Image.new("RGB", (3, 3))
    assert shown(picture) is picture


@pytest.mark.parametrize("spec", [spec_of(5), *WINDOWED, spec_of(1, "uint16")], ids=str)
def test_drawn_pictures_have_the_networks_channels_and_bits(spec):
    drawn = draw_levels(3, spec)
    assert drawn.shape == (128, 128, spec.channels)
    assert drawn.dtype == spec.dtype
    low, high = spec.window or (0, 65535)
    assert spec.dtype == "uint8" or (low <= drawn.min() and drawn.max() <= high)
    assert np.array_equal(DrawnPictures(3, 1).image(0, spec), drawn)
