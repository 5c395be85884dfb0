"""Streams of pictures: order, bounds, breakage, and threads that end."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from tame_deploy import load
from tame_deploy.data.shapes import draw_picture
from tame_deploy.errors import BackendError, InputError
from tame_deploy.runtime.explain.stream import NamedPicture


@pytest.fixture(scope="module")
def pictures():
    return [np.asarray(draw_picture(seed)[0]) for seed in range(23)]


@pytest.fixture(scope="module")
def explainer(demo_export):
    with load(demo_export, backend="onnxruntime", threads=1) as opened:
        yield opened


def own_threads():
    return [one.name for one in threading.enumerate() if one.name.startswith("tame-deploy")]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_stream_gives_what_explain_gives_in_order(explainer, pictures, batch_size, workers):
    expected = explainer.explain(pictures, top_k=2)
    found = list(
        explainer.stream(iter(pictures), top_k=2, batch_size=batch_size, workers=workers)
    )  # fmt: skip
    assert [one.index for one in found] == list(range(len(pictures)))
    for one in found:
        assert one.source is pictures[one.index]
        assert (one.explanation.class_ids == expected.class_ids[one.index]).all()
        np.testing.assert_allclose(one.explanation.maps, expected.maps[one.index], atol=1e-5)
    assert not own_threads()


def test_classes_can_be_chosen(explainer, pictures):
    (one, *_) = explainer.stream(pictures, [3, 1])
    assert one.explanation.class_ids.tolist() == [3, 1]
    with pytest.raises(InputError, match="out of range"):
        explainer.stream(pictures, 99)  # told at once, not at the first picture
    for wrong in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(InputError, match="at least 1"):
            explainer.stream(pictures, **wrong)


def test_each_picture_brings_its_name(explainer, pictures, tmp_path):
    path = tmp_path / "it.png"
    draw_picture(0)[0].save(path)
    given = [NamedPicture("the first", pictures[0]), path, str(path), pictures[1]]
    found = list(explainer.stream(given))
    assert [one.name for one in found] == ["the first", str(path), str(path), ""]
    assert found[0].source is pictures[0]


def test_nothing_comes_of_nothing(explainer):
    assert list(explainer.stream([])) == []


def test_a_picture_that_breaks_is_told_by_its_index(explainer, pictures):
    broken = [*pictures[:4], b"no picture", *pictures[5:7], "missing.jpg", *pictures[8:]]
    found = []
    with pytest.raises(InputError, match="picture 4: "):
        found.extend(explainer.stream(broken, batch_size=3))
    assert [one.index for one in found] == [0, 1, 2, 3]
    assert not own_threads()
    found = list(explainer.stream(broken, batch_size=3, skip_unreadable=True))
    assert [one.index for one in found] == list(range(len(broken)))
    assert [one.index for one in found if one.explanation is None] == [4, 7]
    assert "missing.jpg" in str(found[7].error)
    assert all((one.explanation is None) != (one.error is None) for one in found)


def test_pictures_are_asked_for_only_as_they_are_needed(explainer, pictures):
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield pictures[asked % len(pictures)]

    with closing(explainer.stream(endless(), batch_size=4, workers=2)) as found:
        for number, one in zip(range(40), found, strict=False):
            assert one.index == number
            # Two batches on their way, one being filled, and what the workers read ahead.
            assert asked - number <= 4 * 4 + 2
    assert not own_threads()


def test_a_consumer_that_stops_leaves_no_threads(explainer, pictures):
    found = explainer.stream(pictures * 10, batch_size=2)
    next(found)
    assert own_threads()
    found.close()
    assert not own_threads()

    def interrupted():
        yield from pictures[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(explainer.stream(interrupted()))
    assert not own_threads()


def test_a_backend_that_fails_ends_the_stream(explainer, pictures, monkeypatch):
    def fails(feeds):
        raise BackendError("the device is gone")

    monkeypatch.setattr(explainer.backend, "run", fails)
    with pytest.raises(BackendError, match="the device is gone"):
        list(explainer.stream(pictures))
    assert not own_threads()


def test_an_explainer_that_is_closed_ends_its_stream(demo_export, pictures):
    with load(demo_export, backend="onnxruntime") as explainer:
        found = explainer.stream(pictures, batch_size=1)
        next(found)
        explainer.close()
        with pytest.raises(BackendError, match="closed"):
            list(found)
    assert not own_threads()


def test_many_threads_and_streams_at_once(explainer, pictures):
    expected = explainer.explain(pictures)

    def whole(seed):
        order = np.random.default_rng(seed).permutation(len(pictures))
        return order, [
            one.explanation.logits
            for one in explainer.stream([pictures[i] for i in order], batch_size=1 + seed)
        ]

    with ThreadPoolExecutor(6) as pool:
        for order, logits in pool.map(whole, range(6)):
            np.testing.assert_allclose(logits, expected.logits[order], atol=1e-4)


def test_an_event_loop_goes_on_while_pictures_are_explained(explainer, pictures):
    async def several():
        return await asyncio.gather(
            *(explainer.explain_async(picture) for picture in pictures[:5])
        )  # fmt: skip

    found = asyncio.run(several())
    expected = explainer.explain(pictures[:5])
    for number, one in enumerate(found):
        np.testing.assert_allclose(one.logits[0], expected.logits[number], atol=1e-4)
