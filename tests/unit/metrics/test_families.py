"""Each metric on a case that was worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from tame_deploy.errors import InputError
from tame_deploy.metrics.families import (
    METRICS,
    ExplainedBatch,
    average_drop_and_increase,
    check_metrics,
    entropy,
    insertion_and_deletion,
    localisation,
    road,
)
from tame_deploy.metrics.road import NOISE, impute
from tests.conftest import shared_file


def brightness_of_the_left(pixels):
    """A classifier of two classes: class 0 is as likely as the left half is bright."""
    bright = pixels[:, :, : pixels.shape[2] // 2].mean(axis=(1, 2, 3))
    return np.stack([bright, 1 - bright], axis=1).astype(np.float32)


def batch(pixels, heat, masks=None, class_ids=None):
    confidences = brightness_of_the_left(pixels)
    class_ids = confidences.argmax(1) if class_ids is None else np.array(class_ids)
    return ExplainedBatch(
        pixels=pixels,
        heat=heat,
        class_ids=class_ids,
        confidences=confidences[np.arange(len(pixels)), class_ids],
        masks=masks or [None] * len(pixels),
        indices=range(len(pixels)),
        classify=brightness_of_the_left,
    )


WHITE = np.ones((1, 8, 8, 3), np.float32)
LEFT = np.zeros((1, 8, 8), np.float32)
LEFT[:, :, :4] = np.linspace(1, 0.5, 32, dtype=np.float32).reshape(8, 4)
RIGHT = LEFT[:, :, ::-1]


def test_average_drop_and_increase_are_the_references():
    golden = np.load(shared_file("golden/metrics.npz"))
    before, after = golden["p_full"], golden["p_masked"]
    pixels = np.zeros((50, 2, 2, 3), np.float32)
    confidence = np.stack([after, 1 - after], axis=1)
    found = average_drop_and_increase(
        ExplainedBatch(
            pixels=pixels,
            heat=pixels[..., 0],
            class_ids=np.zeros(50, int),
            confidences=before,
            masks=[None] * 50,
            indices=range(50),
            classify=lambda _: confidence,
        )
    )
    assert found["average_drop_100"].mean() == pytest.approx(float(golden["average_drop"]))
    assert found["increase_100"].mean() == pytest.approx(float(golden["increase_in_confidence"]))


def test_a_map_that_darkens_the_object_drops_its_confidence():
    good = average_drop_and_increase(batch(WHITE, LEFT))
    bad = average_drop_and_increase(batch(WHITE, RIGHT))
    assert good["average_drop_100"] == pytest.approx(100 * (1 - LEFT[:, :, :4].mean()))
    assert bad["average_drop_100"] == pytest.approx(100)
    assert good["average_drop_50"] == pytest.approx(good["average_drop_100"])  # half is all of it
    assert good["average_drop_15"] > good["average_drop_50"]


def test_a_drop_is_a_share_of_what_was_there():
    found = average_drop_and_increase(batch(0.8 * WHITE, np.full((1, 8, 8), 0.5, np.float32)))
    assert found["average_drop_100"] == pytest.approx(50)  # from 0.8 to 0.4


def test_increase_counts_pictures_that_become_surer():
    # Class 1 is likelier the darker the left half is, and the map darkens it.
    found = average_drop_and_increase(batch(0.4 * WHITE, RIGHT))
    assert found["increase_100"] == 100
    assert found["average_drop_100"] == 0


def test_pointing_game_and_energy():
    inside = np.zeros((8, 8), bool)
    inside[0, :4] = True
    found = localisation(
        batch(np.repeat(WHITE, 3, 0), np.repeat(LEFT, 3, 0), [inside, ~inside, None])
    )
    assert found["pointing_game"][:2].tolist() == [100, 0]
    share = 100 * LEFT[0, 0].sum() / LEFT.sum()
    assert found["energy_inside"][:2] == pytest.approx([share, 100 - share])
    assert np.isnan(found["pointing_game"][2])


def test_an_object_that_the_crop_cut_off_does_not_count():
    found = localisation(batch(WHITE, LEFT, [np.zeros((8, 8), bool)]))
    assert np.isnan(found["pointing_game"][0])
    assert np.isnan(found["energy_inside"][0])


def test_entropy_is_one_for_a_uniform_map_and_zero_for_a_point():
    point = np.zeros((1, 8, 8), np.float32)
    point[0, 3, 3] = 1
    maps = np.concatenate([np.full((1, 8, 8), 0.3, np.float32), point, np.zeros_like(point)])
    found = entropy(batch(np.repeat(WHITE, 3, 0), maps))["map_entropy"]
    assert found == pytest.approx([1, 0, 1])


def test_deletion_of_the_object_first_is_quick_and_insertion_too():
    good, bad = (insertion_and_deletion(batch(WHITE, heat)) for heat in (LEFT, RIGHT))
    # The left half holds all: its probability falls linearly over the first half of the pixels.
    assert good["deletion"][0] == pytest.approx(25, abs=2)
    assert bad["deletion"][0] == pytest.approx(75, abs=2)
    assert good["deletion_0"][0] == 100
    assert good["deletion_100"][0] == 0
    black = WHITE.copy()
    black[:, :, :4] = 0.6
    assert insertion_and_deletion(batch(black, LEFT))["insertion_100"][0] == pytest.approx(60)


def test_insertion_starts_from_a_blurred_picture():
    pixels = np.zeros((1, 40, 40, 3), np.float32)
    pixels[:, :, :20] = 1
    heat = np.zeros((1, 40, 40), np.float32)
    found = insertion_and_deletion(batch(pixels, heat))
    assert 80 < found["insertion_0"][0] < 99  # some light has leaked to the right
    assert found["insertion_100"][0] == pytest.approx(100)


@pytest.mark.slow
def test_imputation_solves_the_papers_equations():
    # One unknown pixel among known ones: the weighted mean of its eight neighbours.
    pixels = np.arange(27, dtype=np.float32).reshape(3, 3, 3) / 27
    removed = np.zeros((3, 3), bool)
    removed[1, 1] = True
    weights = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12
    expected = (pixels * weights[..., None]).sum(axis=(0, 1))
    found = np.mean([impute(pixels, removed, seed=(i,))[1, 1] for i in range(2000)], axis=0)
    assert found == pytest.approx(expected, abs=4 * NOISE / 2000**0.5)


@pytest.mark.slow
def test_imputation_solves_for_unknown_neighbours_together():
    # A row of two unknowns between 0 and 1, nothing above or below: u = v/3·..., by hand.
    pixels = np.zeros((1, 4, 3), np.float32)
    pixels[0, 3] = 1
    removed = np.array([[False, True, True, False]])
    found = np.mean([impute(pixels, removed, seed=(i,))[0, 1:3, 0] for i in range(2000)], axis=0)
    # Only left and right neighbours exist, with equal weights: u = v/2 and v = (u + 1)/2.
    assert found == pytest.approx([1 / 3, 2 / 3], abs=4 * NOISE / 2000**0.5)


def test_imputed_pixels_alone_are_noisy_and_repeatable():
    pixels = np.full((8, 8, 3), 0.5, np.float32)
    removed = LEFT[0] > 0
    found = impute(pixels, removed, seed=(1, 10))
    assert np.array_equal(found, impute(pixels, removed, seed=(1, 10)))
    assert not np.array_equal(found, impute(pixels, removed, seed=(2, 10)))
    assert (found[~removed] == 0.5).all()
    assert 0.5 * NOISE < (found[removed] - 0.5).std() < 1.5 * NOISE
    assert impute(pixels, np.zeros((8, 8), bool), seed=(0,)) is pixels


def test_road_keeps_the_class_as_long_as_what_matters_is_there():
    pixels = 0.2 * WHITE
    pixels[:, :, :4] = 0.9
    good, bad = (road(batch(pixels, heat)) for heat in (LEFT, RIGHT))
    assert good["road_most"][0] < bad["road_most"][0]
    assert good["road_least"][0] > bad["road_least"][0]
    assert good["road_most_10"][0] == 100
    assert good["road_most_70"][0] == 0  # only dark pixels are left to impute from
    assert good["road_least_40"][0] == 100


def test_an_unknown_metric_is_refused():
    assert check_metrics(["road", "ad-ic", "road"]) == ("road", "ad-ic")
    with pytest.raises(InputError, match=f"unknown metric 'x'; expected {', '.join(METRICS)}"):
        check_metrics(["x"])
    with pytest.raises(InputError, match="unknown metric ''"):
        check_metrics([])


def test_a_label_is_kept_while_it_is_as_likely_as_not_whatever_the_others_are():
    after = np.array([[0.6, 0.9], [0.4, 0.1], [0.2, 0.1]])
    asked = ExplainedBatch(
        pixels=np.zeros((3, 2, 2, 3), np.float32),
        heat=np.zeros((3, 2, 2), np.float32),
        class_ids=np.zeros(3, int),
        confidences=np.array([0.9, 0.8, 0.3]),
        masks=[None] * 3,
        indices=range(3),
        classify=lambda _: after,
        task="multilabel",
    )
    # The last picture had no label to keep.
    np.testing.assert_array_equal(asked.keeps_class(asked.pixels), [1, 0, np.nan])
    as_classes = replace(asked, task="multiclass").keeps_class(asked.pixels)
    np.testing.assert_array_equal(as_classes, [0, 1, 1])
