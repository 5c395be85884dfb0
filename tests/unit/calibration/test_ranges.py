import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tame_deploy.calibration.observing.histogram import BINS, Histogram, TensorStatistics
from tame_deploy.calibration.observing.ranges import METHODS, ranges_of

VALUES = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 4)),
    elements=st.floats(-1e6, 1e6, width=32),
)


def seen(values):
    statistics = TensorStatistics()
    statistics.add(np.asarray(values, np.float32).reshape(1, 1, -1))
    return statistics


@given(VALUES, st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_statistics_do_not_depend_on_how_pictures_are_batched(values, size):
    whole, parts = TensorStatistics(), TensorStatistics()
    whole.add(values)
    for start in range(0, len(values), size):
        parts.add(values[start : start + size])
    for name, array in whole.state().items():
        np.testing.assert_allclose(parts.state()[name], array, rtol=1e-6, err_msg=name)
    assert whole.histogram.counts.sum() == values.size


@given(VALUES)
@settings(max_examples=40, deadline=None)
def test_statistics_come_back_from_their_state(values):
    before = TensorStatistics()
    before.add(values)
    after = TensorStatistics.from_state(before.state())
    assert ranges_of(after) == ranges_of(before)


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_every_range_holds_zero_and_nothing_that_was_never_seen(values):
    statistics = TensorStatistics()
    statistics.add(values)
    found = ranges_of(statistics)
    assert tuple(found) == METHODS
    for low, high in found.values():
        assert min(statistics.low, 0) <= low <= 0 <= high <= max(statistics.high, 0)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50))
def test_a_value_lies_in_the_bin_that_counts_it(values):
    histogram = Histogram()
    for value in values:
        histogram.add(np.array([value], np.float32), abs(value))
    places = np.repeat(histogram.centres, histogram.counts)
    ordered = np.sort(np.array(values, np.float32).astype(float))
    assert np.abs(np.sort(places) - ordered).max() <= histogram.width * 0.51


def test_one_outlier_moves_minmax_and_no_other_range():
    ordinary = np.abs(np.random.default_rng(0).standard_normal(200_000))
    found = ranges_of(seen(np.append(ordinary, 100)))
    assert found["minmax"] == (0, 100)
    for method in ("percentile", "entropy", "mse-symmetric", "mse"):
        assert found[method][1] < 90, method
    assert found["percentile"][1] == pytest.approx(np.quantile(ordinary, 0.9999), rel=0.03)


def test_least_squares_loses_less_than_minmax():
    values = np.random.default_rng(0).standard_t(2, 100_000)
    found = ranges_of(seen(values))

    def loss(span):
        step = max(-span[0], span[1]) / 127
        return ((np.clip(np.round(values / step), -127, 127) * step - values) ** 2).mean()

    assert loss(found["mse-symmetric"]) < 0.8 * loss(found["minmax"])


def test_a_moving_average_forgets_one_odd_picture():
    statistics = TensorStatistics()
    usual = np.ones((30, 1, 2), np.float32)
    statistics.add(usual)
    statistics.add(50 * usual[:1])
    statistics.add(np.repeat(usual, 3, axis=0))
    assert statistics.high == 50
    assert ranges_of(statistics)["moving-average"][1] < 1.1


def test_bins_mirror_around_zero():
    both = Histogram()
    both.add(np.array([0.3, -0.3], np.float32), 0.3)
    assert (both.counts == both.counts[::-1]).all()
    assert both.counts.shape == (BINS,)
