"""Sparsity, ADCC and sensitivity: worked by hand, and held to the libraries that have them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tame_deploy.errors import InputError
from tame_deploy.metrics.families import ExplainedBatch, adcc, chance, gini, sensitivity, sparsity
from tame_deploy.metrics.similarity import pearson, spearman

PIXELS = np.random.default_rng(5).uniform(0.2, 0.8, (3, 6, 5, 3)).astype(np.float32)


def map_of(pixels):
    """A map (B, H, W) that depends on the picture, with neither 0 nor 1 as its ends."""
    bright = pixels.mean(axis=3)
    return bright**2 * pixels[..., 0] / pixels.max(axis=(1, 2, 3))[:, None, None]


def certainty(pixels):
    bright = pixels.mean(axis=(1, 2, 3))
    return np.stack([bright, 1 - bright], axis=1)


def explained(pixels=PIXELS, heat=None, explain=map_of):
    return ExplainedBatch(
        pixels=pixels,
        heat=map_of(pixels) if heat is None else heat,
        class_ids=np.zeros(len(pixels), np.int64),
        confidences=certainty(pixels)[:, 0],
        masks=[None] * len(pixels),
        indices=range(len(pixels)),
        classify=certainty,
        explain=explain,
    )


def test_sparsity_is_quantus_sparseness():
    # quantus 0.6.0, Sparseness(abs=True, normalise=False); it adds 1e-7 to every value.
    expected = [0.3021486255934079, 0.32793544124461493, 0.32356920251306037]
    assert sparsity(explained())["sparsity"] / 100 == pytest.approx(expected, abs=1e-6)


def test_sensitivity_is_quantus_with_the_same_noise():
    # quantus 0.6.0, MaxSensitivity and AvgSensitivity (normalise=False, abs=False, nr_samples=10),
    # given our noise by perturb_func.
    largest = [0.0399598628282547, 0.05009111016988754, 0.049980878829956055]
    average = [0.03624006994068622, 0.04100569859147072, 0.04153933934867382]
    found = sensitivity(explained())
    assert found["sensitivity_max"] / 100 == pytest.approx(largest, rel=1e-4)
    assert found["sensitivity_average"] / 100 == pytest.approx(average, rel=1e-4)


def test_rank_correlation_is_quantus_with_ties():
    # quantus 0.6.0, functions.similarity_func.correlation_spearman.
    expected = [-0.3113744206409841, 0.9456886538567387, -0.1975345725088435]
    heat = map_of(PIXELS)
    assert spearman(heat, np.rint(heat[::-1] * 8)) == pytest.approx(expected, abs=1e-6)


def test_coherency_and_complexity_are_the_grad_cam_librarys():
    library = pytest.importorskip("pytorch_grad_cam.metrics.arcc")  # since 1.5.6
    torch = pytest.importorskip("torch")
    found = adcc(explained())

    def explain(input_tensor, targets):
        return map_of(input_tensor.numpy().transpose(0, 2, 3, 1))

    pictures = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())
    expected = library.Coherency()(pictures, map_of(PIXELS), [], None, explain)
    assert found["coherency"] / 100 == pytest.approx(expected, abs=1e-4)
    expected = library.Complexity()(map_of(PIXELS))
    assert found["complexity"] / 100 == pytest.approx(expected, rel=1e-5)


def test_adcc_by_hand():
    # Two pixels, of which the map shows one: half of the certainty is lost (1 - AD = 1/2), the
    # map's mean is 1/2 (1 - complexity = 1/2), and the masked picture has the same map (coherency
    # 1), so ADCC = 3 / (2 + 2 + 1) = 3/5.
    pixels = np.full((1, 1, 2, 3), 0.8, np.float32)
    heat = np.array([[[1, 0]]], np.float32)
    found = adcc(explained(pixels, heat, lambda _: heat))
    assert found["adcc"] == pytest.approx(60)
    assert found["coherency"] == pytest.approx(100)
    assert found["complexity"] == pytest.approx(50)
    # A map that turns round has no coherency, and no ADCC.
    assert adcc(explained(pixels, heat, lambda _: 1 - heat))["adcc"] == 0


def test_gini_by_hand():
    # (2 * 3 - 3 - 1) * 1 / (3 * 1): one of three places has it all.
    assert gini(np.array([[[0, 0, 1.0]], [[5, 5, 5]], [[0, 0, 0]]])) == pytest.approx([2 / 3, 0, 0])


MAPS = arrays(np.float64, (2, 4, 3), elements=st.floats(0, 1, width=32))


@given(MAPS, st.floats(1e-3, 1e3))
def test_gini_lies_in_its_range_and_knows_no_scale(maps, scale):
    found = gini(maps)
    assert ((found >= 0) & (found <= 1)).all()
    assert gini(scale * maps) == pytest.approx(found, abs=1e-9)


@given(MAPS, MAPS)
def test_adcc_and_its_parts_are_percent(heat, other):
    found = adcc(explained(PIXELS[:2, :4, :3], heat, lambda _: other))
    for values in found.values():
        assert ((values >= 0) & (values <= 100)).all()


@given(MAPS, MAPS)
def test_correlations_are_symmetric_and_in_range(first, second):
    for correlation in (pearson, spearman):
        found = correlation(first, second)
        assert (np.abs(found) <= 1).all()
        assert correlation(second, first) == pytest.approx(found, abs=1e-9)


@given(MAPS)
def test_a_map_that_ignores_the_picture_is_not_sensitive(heat):
    found = sensitivity(explained(PIXELS[:2, :4, :3], heat, lambda _: heat))
    # Of a map of zeros there is no saying how far it moved.
    expected = np.where(heat.reshape(2, -1).any(axis=1), 0.0, np.nan)
    for name in ("sensitivity_max", "sensitivity_average"):
        np.testing.assert_array_equal(found[name], expected)


def test_noise_is_small_and_each_pictures_own():
    asked = []
    batch = explained(explain=lambda pixels: asked.append(pixels) or map_of(pixels))
    sensitivity(batch)
    noise = np.stack(asked) - PIXELS
    assert 0.019 < np.abs(noise).max() <= 0.02 + 1e-6
    assert not np.array_equal(noise[0, 0], noise[0, 1])
    alone = replace(
        batch, pixels=PIXELS[1:], heat=batch.heat[1:], indices=[1, 2], class_ids=np.zeros(2, int)
    )
    whole = sensitivity(batch)["sensitivity_max"]
    assert sensitivity(alone)["sensitivity_max"] == pytest.approx(whole[1:], rel=1e-5)


def test_chance_is_a_random_maps_drop():
    found = chance(explained())["chance_average_drop_50"]
    assert ((found > 0) & (found < 100)).all()
    assert chance(explained())["chance_average_drop_50"].tolist() == found.tolist()


def test_a_graph_that_cannot_be_asked_for_a_class_says_so():
    with pytest.raises(InputError, match="export with --explain selectable"):
        adcc(explained(explain=None))
