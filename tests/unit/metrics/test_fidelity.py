from dataclasses import replace

import numpy as np
import pytest

from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.search.recovery import parse_recovery
from tame_deploy.calibration.search.trials import scored
from tame_deploy.errors import InputError
from tame_deploy.metrics.evaluation_set import NormalisedPredictions
from tame_deploy.metrics.fidelity import Floor, measure_fidelity, parse_floor
from tame_deploy.metrics.similarity import correlations, overlaps, squared_error

COUNT, CLASSES, SIDE = 40, 10, 12


def predictions(seed=0, noise=0.0):
    random = np.random.default_rng(seed)
    logits = random.standard_normal((COUNT, CLASSES)).astype(np.float32)
    maps = random.random((COUNT, SIDE, SIDE)).astype(np.float32)
    other = np.random.default_rng(99)
    logits += np.float32(noise) * other.standard_normal(logits.shape).astype(np.float32)
    maps += np.float32(noise) * other.random(maps.shape).astype(np.float32)
    return NormalisedPredictions(
        logits=logits, class_ids=logits.argmax(axis=1), maps=maps, flat=np.zeros(COUNT, bool)
    )


def measured(expected, found, labels=None):
    names = [f"picture {number}" for number in range(COUNT)]
    return measure_fidelity(expected, found, names, labels or [None] * COUNT, (224, 224))


def test_the_same_predictions_are_perfect():
    report = measured(predictions(), predictions(), list(predictions().predicted))
    assert report.top1_agreement == report.top5_agreement == report.top1 == 1
    assert report.pearson_worst == pytest.approx(1)
    assert report.spearman_worst == pytest.approx(1)
    assert report.iou_15 == report.iou_50 == 1
    assert report.peak_shift == report.flat_maps == 0
    assert squared_error(predictions(), predictions()) == pytest.approx(0, abs=1e-9)


def test_more_noise_is_worse_in_every_measure():
    reports = [measured(predictions(), predictions(noise=noise)) for noise in (0.02, 0.2)]
    for name in ("logit_cosine", "pearson_mean", "pearson_5th", "spearman_mean", "iou_15"):
        assert 1 > getattr(reports[0], name) > getattr(reports[1], name) > 0, name
    errors = [squared_error(predictions(), predictions(noise=noise)) for noise in (0.02, 0.2)]
    assert 0 < errors[0] < errors[1]


def test_the_worst_picture_is_named():
    found = predictions()
    found.maps[7] = found.maps[7][::-1]
    report = measured(predictions(), found)
    assert report.pearson_worst_picture == report.spearman_worst_picture == "picture 7"
    assert report.pearson_worst < 0.5


def test_maps_of_another_class_are_not_compared():
    found = predictions()
    found.class_ids[:10] = (found.class_ids[:10] + 1) % CLASSES
    found.maps[:10] = 1 - found.maps[:10]
    report = measured(predictions(), found)
    assert (report.maps, report.pearson_worst) == (30, pytest.approx(1))
    found.class_ids[:] = (predictions().class_ids + 1) % CLASSES
    with pytest.raises(InputError, match="different classes of every picture"):
        measured(predictions(), found)


def test_a_map_that_became_flat_is_counted_and_agrees_with_none():
    found = predictions()
    found.maps[3], found.flat[3] = 0, True
    report = measured(predictions(), found)
    assert (report.flat_maps, report.pearson_worst) == (1, 0)
    both = predictions()
    both.maps[3], both.flat[3] = 0, True
    assert correlations(both, found)[3] == 1


def test_overlap_by_hand():
    one, other = predictions(), predictions()
    one.maps[0] = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    other.maps[0] = one.maps[0]
    other.maps[0, -1, -11:] = -1  # half of the highest 22 fall out
    assert overlaps(one, other, 0.15)[0] == pytest.approx(11 / 33)


def test_the_peak_shifts_in_pixels_of_the_picture():
    one, other = predictions(), predictions()
    for each, place in ((one, (0, 0)), (other, (3, 4))):
        each.maps[:] = 0
        each.maps[:, place[0], place[1]] = 1
    assert measured(one, other).peak_shift == pytest.approx(5 * 224 / SIDE)


def test_a_floor_says_what_is_below_it():
    report = measured(predictions(), predictions(noise=0.2))
    assert Floor(0, 0, 0).shortfalls(report) == []
    words = Floor(1, 1, 1).shortfalls(report)
    assert len(words) == 3
    assert "IoU of the top 15 %" in words[1]
    assert "(floor 1)" in words[1]


@pytest.mark.parametrize("text", ["top1", "top1=2", "top1=x", "iou=0.9", "top1=nan", ","])
def test_a_floor_that_means_nothing_is_refused(text):
    with pytest.raises(InputError, match="--floor has"):
        parse_floor(text)


def test_a_floor_keeps_what_it_does_not_name():
    assert parse_floor("iou15=0.97") == Floor(iou15=0.97)
    assert parse_floor(None) == Floor()


def test_methods_of_accuracy_recovery_come_cheapest_first():
    assert parse_recovery("layers, equalize") == ("equalize", "layers")
    assert parse_recovery("none") == ()
    with pytest.raises(InputError, match="'paint'"):
        parse_recovery("paint")


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "tpu"},
        {"precision": "int4"},
        {"precision": "int8+fp16", "target": "cpu"},
        {"calibration_size": 0},
        {"budget_s": -1},
    ],
)
def test_options_that_cannot_be_honoured_are_refused(wrong):
    with pytest.raises(InputError):
        QuantizeOptions(**wrong)


def labels_of(*logits):
    """Return predictions of a multi-label classifier for as many pictures as there are logits."""
    maps = np.random.default_rng(0).random((len(logits), SIDE, SIDE)).astype(np.float32)
    rows = np.array(logits, np.float32)
    flat = np.zeros(len(logits), bool)
    return NormalisedPredictions(
        logits=rows, class_ids=rows.argmax(axis=1), maps=maps, flat=flat, task="multilabel"
    )


def test_multi_label_agreement_is_that_of_the_labels_shown():
    expected = labels_of([5, 4, -3], [2, -1, -1])
    found = labels_of([5, -0.1, -3], [2, -1, -1])
    report = measure_fidelity(expected, found, ["a", "b"], [0, 0], (224, 224))
    assert report.top1_agreement == pytest.approx((0.5 + 1) / 2)
    assert (report.top1, report.top1_fp32) == (None, None)  # one class a picture judges no labels
    assert scored(expected, found).top1 == report.top1_agreement


def test_a_shift_that_a_softmax_ignores_counts_among_sigmoids():
    expected, found = labels_of([5, 4, -3]), labels_of([6, 5, -2])
    assert squared_error(expected, found) > 0.05
    plain = [replace(one, task="multiclass") for one in (expected, found)]
    assert squared_error(*plain) == pytest.approx(0, abs=1e-9)
