"""An explanation as a sequence of its pictures'."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.picture.lazy import LazyPicture
from tame_deploy.runtime.explain.explanation import Explanation

SPEC = ImageSpec(height=8, width=8, resize=8)


def explanation(count=3):
    random = np.random.default_rng(0)
    return Explanation(
        random.normal(size=(count, 4)).astype(np.float32),
        np.arange(2 * count).reshape(count, 2) % 4,
        random.random((count, 2, 4, 4)).astype(np.float32),
        ("a", "b", "c", "d"),
        tuple(Image.new("RGB", (10 + index, 10)) for index in range(count)),
        SPEC,
    )


def test_each_picture_has_its_own_by_position():
    whole = explanation()
    assert len(whole) == len(list(whole)) == 3
    for index, one in enumerate(whole):
        assert (one.logits == whole.logits[index]).all()
        assert (one.class_ids == whole.class_ids[index]).all()
        assert (one.maps == whole.maps[index]).all()
        assert one.class_names == whole.class_names[index]
        assert one.picture is whole.pictures[index]
        assert (one.probabilities == whole.probabilities[index]).all()
    assert whole[-1].picture is whole.pictures[2]
    assert whole[np.int64(1)].picture is whole.pictures[1]
    for index in (3, -4):
        with pytest.raises(IndexError):
            whole[index]


def test_a_slice_is_an_explanation_of_fewer():
    part = explanation()[1:]
    assert isinstance(part, Explanation)
    assert [one.picture.width for one in part] == [11, 12]
    assert part.class_names == explanation().class_names[1:]
    assert len(explanation()[3:]) == 0


def test_probabilities_are_computed_once_and_of_the_logits():
    one = explanation()[1]
    assert one.probabilities is one.probabilities
    exponents = np.exp(one.logits.astype(np.float64))
    np.testing.assert_allclose(one.probabilities, exponents / exponents.sum(), rtol=1e-6)
    assert one.probabilities.dtype == np.float32
    assert [score.probability for score in one.top(4)] == sorted(one.probabilities, reverse=True)
    assert [score.class_id for score in one.explained] == one.class_ids.tolist()


def test_one_picture_is_drawn_without_an_index():
    one = explanation()[2]
    assert one.overlay().size == (12, 10)
    assert one.overlay(1, max_side=6).size == (6, 5)
    assert not np.array_equal(one.overlay(0), one.overlay(1))
    assert one.panel(1, title="it").width > 900
    assert one.heat(1) is not None
    with pytest.raises(IndexError):
        one.heat(2)


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_picture_that_was_not_kept_is_decoded_when_it_is_drawn(tmp_path, as_bytes):
    path = tmp_path / "it.png"
    Image.new("RGB", (20, 30), "red").save(path)
    lazy = LazyPicture.of(path.read_bytes() if as_bytes else path, ImageSpec(), 600)
    assert np.asarray(lazy.decoded()).shape == (30, 20, 3)
    with pytest.raises(InputError, match="20x30"):
        LazyPicture.of(path, ImageSpec(), 599).decoded()


def test_a_file_that_is_another_by_now_is_not_drawn_under_the_old_map(tmp_path):
    path = tmp_path / "it.png"
    Image.new("RGB", (20, 30), "red").save(path)
    lazy = LazyPicture.of(path, ImageSpec(), 10**6)
    Image.new("RGB", (20, 30), "blue").save(path)
    os.utime(path, ns=(0, 0))  # whatever the resolution of the file system's clock
    with pytest.raises(InputError, match=r"it.png has changed since it was explained"):
        lazy.decoded()
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        lazy.decoded()
