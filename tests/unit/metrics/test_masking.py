"""Maps become masks as the reference makes them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tame_deploy.metrics.masking import heat_of, keep_highest, normalise, ranks
from tests.conftest import shared_file

maps = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(2, 6)),
    elements=st.floats(-100, 100, width=32),
)  # fmt: skip


def test_masks_are_those_of_the_reference():
    golden = np.load(shared_file("golden/metrics.npz"))
    assert np.allclose(normalise(golden["cam"][0]), golden["minmax"][0], atol=1e-6)
    heat = heat_of(golden["cam"][0], 224, 224)
    for share in (50, 15):
        kept = keep_highest(heat, share) > 0
        assert (kept == golden[f"kept_{share}"][0]).all()


@given(maps)
def test_normalised_maps_span_zero_to_one_or_are_flat(given_maps):
    found = normalise(given_maps)
    assert found.min() >= 0
    assert found.max() <= 1
    for before, after in zip(given_maps, found, strict=True):
        if before.max() - before.min() > 1e-3:
            assert after.max() == pytest.approx(1)
            assert after.min() == 0


@given(maps)
def test_enlarging_equals_torch(given_maps):
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(normalise(given_maps))[:, None], (19, 23), mode="bilinear"
    )[:, 0]
    assert np.allclose(heat_of(given_maps, 19, 23), expected.numpy(), atol=1e-5)


@given(maps, st.sampled_from([100, 50, 15]))
def test_what_is_kept_keeps_its_value_and_is_the_highest(given_maps, share):
    kept = keep_highest(given_maps, share)
    for before, after in zip(given_maps, kept, strict=True):
        changed = before != after
        assert (after[changed] == 0).all()
        assert changed.sum() <= before.size * (1 - share / 100) + 1
        if changed.any() and (~changed).any():
            assert before[changed].max() <= before[~changed].max()


def test_ranks_put_the_highest_first_and_equals_in_reading_order():
    heat = np.array([[[0.1, 0.9], [0.9, 0.5]]], np.float32)
    assert ranks(heat).tolist() == [[[0.75, 0.0], [0.25, 0.5]]]
