"""Pictures of explanations show what they claim."""

import numpy as np
import pytest
from PIL import Image

from tame_deploy.picture.overlay import blend, colorize, contact_sheet, layer, panel

GREY = Image.new("RGB", (40, 30), (100, 100, 100))


def test_a_hot_corner_is_coloured_and_the_rest_is_left_alone():
    heat = np.zeros((3, 4), np.float32)
    heat[0, 0] = 1
    result = np.asarray(blend(GREY, heat)).astype(int)
    assert abs(result[2, 2] - 100).max() > 50
    assert np.array_equal(result[-1, -1], [100, 100, 100])


def test_two_classes_have_two_colours_and_zero_has_none():
    heat = np.zeros((3, 9), np.float32)
    heat[:, 0], heat[:, -1] = 1, -1
    result = np.asarray(blend(GREY, heat, signed=True)).astype(int)
    red, blue = result[..., 0], result[..., 2]
    assert (red - blue)[15, 1] > 60
    assert (blue - red)[15, -2] > 60
    assert np.array_equal(result[15, 20], [100, 100, 100])
    assert np.array_equal(np.asarray(layer(heat, signed=True))[1, [0, 4, 8], 3], [255, 0, 255])


def test_both_sides_of_the_scale_are_alike_in_lightness():
    ramp = np.asarray(colorize(np.linspace(-1, 1, 255)[None], (255, 1), signed=True))[0]
    weights = (0.299, 0.587, 0.114)
    lightness = ramp @ weights
    assert np.abs(lightness - lightness[::-1]).max() < 20
    assert (np.diff(lightness[127:]) >= -0.5).all()


def test_a_panel_names_both_ends_of_its_scale_and_a_sheet_both_colours():
    drawn = [
        panel(GREY, np.zeros((2, 2)), GREY, title="t", classes=[("a", 0.9)], versus=versus)
        for versus in (("a", "b"), ("a", "another"), ("a", "a"), None)
    ]
    seen = {picture.tobytes() for picture in drawn}
    assert len(seen) == 4
    plain, keyed = (contact_sheet([(GREY, "a")], versus=versus) for versus in (None, "b"))
    assert keyed.height > plain.height


def test_what_was_not_seen_is_dimmed_and_what_was_seen_is_not():
    result = np.asarray(blend(GREY.point(lambda _: 0), np.zeros((2, 2)), (10, 0, 30, 30)))
    assert result[:, 10:30].max() == 0
    assert result[:, :10].min() > 0
    assert result[:, 30:].min() > 0


def test_a_box_beyond_the_picture_shows_its_middle():
    heat = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    result = np.asarray(blend(GREY, heat, (-40, -45, 80, 75))).astype(int)
    assert result.shape == (30, 40, 3)
    middle = np.tile(np.linspace(1 / 3, 2 / 3, 64, dtype=np.float32), (64, 1))
    assert np.abs(result - np.asarray(blend(GREY, middle)).astype(int)).max() < 6


@pytest.mark.parametrize(
    ("value", "shown"), [(np.nan, 0), (-np.inf, 0), (-5, 0), (5, 1), (np.inf, 1)]
)
def test_values_outside_the_range_show_as_its_nearest_end_and_nan_as_nothing(value, shown):
    drawn = np.asarray(blend(GREY, np.full((2, 2), value, np.float32)))
    expected = np.asarray(blend(GREY, np.full((2, 2), shown, np.float32)))
    # At the edge, infinity times a weight of zero is a NaN again.
    assert np.array_equal(drawn[10:20, 12:28], expected[10:20, 12:28])


def test_a_single_nan_leaves_the_rest_of_the_map():
    heat = np.ones((8, 8), np.float32)
    whole = np.asarray(blend(GREY, heat)).copy()
    heat[0, 0] = np.nan
    holed = np.asarray(blend(GREY, heat))
    assert np.array_equal(holed[0, 0], [100, 100, 100])
    assert np.array_equal(holed[:, 20:], whole[:, 20:])


def test_the_colour_scale_grows_lighter():
    ramp = np.asarray(colorize(np.linspace(0, 1, 64)[None], (64, 1))).astype(int)
    assert (np.diff(ramp.sum(axis=2)[0]) >= 0).all()


def test_panel_bars_follow_probabilities():
    classes = [("sure", 1.0), ("unsure", 0.25), ("never", 0.0)]
    sheet = np.asarray(panel(GREY, np.eye(4), GREY, title="t", classes=classes))
    blue = (sheet == (66, 133, 244)).all(axis=2)
    filled = [int(row.sum()) for row in blue if row.sum() > 20]
    assert max(filled) == pytest.approx(301, abs=2)
    assert min(filled) == pytest.approx(75, abs=8)


@pytest.mark.slow
def test_long_and_odd_labels_stay_inside(tmp_path):
    odd = "a\nvery " * 80 + "Ω 猫"
    panel(GREY, np.eye(2), GREY, title=odd, classes=[(odd, 0.5)], note=odd).save(tmp_path / "p.png")
    contact_sheet([(GREY, odd)] * 7, columns=3).save(tmp_path / "s.png")


def test_contact_sheet_has_a_cell_a_picture():
    one = contact_sheet([(GREY, "a")], columns=2)
    five = contact_sheet([(GREY, "a")] * 5, columns=2)
    assert five.width > one.width
    assert five.height == pytest.approx(3 * one.height, rel=0.1)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])
