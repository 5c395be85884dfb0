"""What everything that runs a graph has in common: one suite for all of them."""

from __future__ import annotations

import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tame_deploy.artifact.contrast import encode_contrast
from tame_deploy.artifact.directory import open_artifact
from tame_deploy.data.shapes import draw_picture
from tame_deploy.errors import BackendError, InputError
from tame_deploy.runtime.predict.predictor import Predictor
from tame_deploy.runtime.verify.reference import ParityReference
from tests.contract.candidates import CANDIDATES


@pytest.fixture(scope="module", params=CANDIDATES, ids=lambda candidate: candidate.name)
def candidate(request):
    return request.param


@pytest.fixture(scope="module")
def artifact(candidate, demo_export, tmp_path_factory):
    folder = tmp_path_factory.mktemp(candidate.name) / "demo"
    return open_artifact(shutil.copytree(demo_export, folder))


@pytest.fixture(scope="module")
def backend(candidate, artifact):
    with pytest.MonkeyPatch.context() as patched, candidate.open(artifact.path, patched) as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor(artifact, backend):
    return Predictor.of(artifact.manifest, backend)


@pytest.fixture(scope="module")
def pictures():
    """Pictures as the network sees them, uint8 (N, H, W, 3), no two alike."""
    return np.stack([np.asarray(draw_picture(seed)[0]) for seed in range(7)])


def applies(candidate, aspect):
    if aspect in candidate.skips:
        pytest.skip(candidate.skips[aspect])


def assert_same(found, expected, candidate):
    span = np.ptp(expected.logits, axis=1, keepdims=True)
    assert (np.abs(found.logits - expected.logits) <= candidate.logits * span).all()
    assert found.class_ids.tolist() == expected.class_ids.tolist()
    assert np.abs(found.maps - expected.maps).max() <= candidate.maps


def test_it_tells_the_specs_of_the_graph(artifact, backend):
    assert backend.name
    assert backend.inputs == artifact.manifest.inputs
    assert [spec.name for spec in backend.outputs] == ["logits", "explained", "maps"]


def test_it_answers_as_pytorch_did(candidate, artifact, predictor):
    reference = ParityReference.load(artifact)
    found = predictor.predict(reference.images, reference.class_ids)
    assert found.logits.dtype == found.maps.dtype == np.float32
    assert found.class_ids.dtype == np.int64
    assert_same(found, reference, candidate)


def test_any_number_of_pictures_equals_one_at_a_time(candidate, predictor, pictures):
    together = predictor.predict(pictures, predictor.class_ids(len(pictures), top_k=2))
    for row, picture in enumerate(pictures):
        alone = predictor.predict(picture[None], predictor.class_ids(1, top_k=2))
        assert np.abs(alone.logits[0] - together.logits[row]).max() < 1e-3
        assert alone.class_ids[0].tolist() == together.class_ids[row].tolist()
        assert np.abs(alone.maps[0] - together.maps[row]).max() <= candidate.maps


def test_ranks_are_the_likeliest_classes_of_its_own_logits(candidate, predictor, pictures):
    ranked = predictor.predict(pictures, predictor.class_ids(len(pictures), top_k=5))
    likeliest = np.argsort(-ranked.logits, axis=1, kind="stable")[:, :5]
    assert ranked.class_ids.tolist() == likeliest.tolist()
    named = predictor.predict(pictures, likeliest)
    assert np.abs(named.maps - ranked.maps).max() <= candidate.maps


def test_maps_follow_the_picture_and_the_class(predictor, pictures):
    found = predictor.predict(pictures, predictor.class_ids(len(pictures), [0, 5]))
    assert found.maps.min() >= 0
    assert found.maps.max() <= 1
    assert np.abs(found.maps[0, 0] - found.maps[1, 0]).max() > 0.05
    assert np.abs(found.maps[:, 0] - found.maps[:, 1]).max() > 0.05


def test_why_one_class_and_not_another_is_the_same_named_and_as_the_likeliest(
    candidate, artifact, predictor, pictures
):
    classes = artifact.manifest.classes
    likeliest = predictor.predict(pictures).class_ids
    other = (likeliest + 1) % classes
    named = predictor.predict(pictures, encode_contrast(likeliest, other, classes))
    assert named.class_ids.tolist() == encode_contrast(likeliest, other, classes).tolist()
    ranked = predictor.predict(pictures, encode_contrast(np.full_like(other, -1), other, classes))
    assert ranked.class_ids.tolist() == named.class_ids.tolist()
    assert np.abs(ranked.maps - named.maps).max() <= candidate.maps
    assert (np.abs(named.maps).max(axis=(2, 3)) > 0.999).all()


def test_every_pair_of_classes_is_told_apart_in_one_call(candidate, artifact, predictor, pictures):
    classes = artifact.manifest.classes
    pairs = np.array(list(itertools.permutations(range(classes), 2)))
    asked = encode_contrast(pairs[:, 0], pairs[:, 1], classes)[None]
    swapped = encode_contrast(pairs[:, 1], pairs[:, 0], classes)[None]
    found = predictor.predict(pictures[:1], asked)
    assert found.class_ids.tolist() == asked.tolist()
    other = predictor.predict(pictures[:1], swapped)
    assert np.abs(found.maps + other.maps).max() <= candidate.maps


def test_an_answer_is_the_callers_to_keep(predictor, pictures):
    first = predictor.predict(pictures[:1])
    kept = first.maps.copy(), first.logits.copy()
    predictor.predict(pictures[1:2])
    assert (first.maps == kept[0]).all()
    assert (first.logits == kept[1]).all()
    first.maps[:] = 0  # and writable


def test_threads_each_get_their_own_answer(candidate, predictor, pictures):
    alone = [predictor.predict(picture[None]) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        turns = list(range(len(pictures))) * 3
        found = list(pool.map(lambda row: predictor.predict(pictures[row][None]), turns))
    for row, one in zip(turns, found, strict=True):
        assert one.class_ids.tolist() == alone[row].class_ids.tolist()
        assert np.abs(one.maps - alone[row].maps).max() <= candidate.maps


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda feeds: feeds.pop("images"), "found inputs"),
        (lambda feeds: feeds.update(more=feeds["images"]), "found inputs"),
        (lambda feeds: feeds.update(images=feeds["images"][:, :-1]), "found images: uint8"),
        (lambda feeds: feeds.update(images=feeds["images"].astype(np.float32)), "float32"),
        (lambda feeds: feeds.update(class_ids=feeds["class_ids"][:1]), "found class_ids|found im"),
        (lambda feeds: feeds.update(images=feeds["images"][:0]), "found images|found class_ids"),
    ],
    ids=["missing", "unknown", "size", "type", "rows", "none"],
)
def test_what_does_not_fit_is_refused_by_name(candidate, backend, pictures, change, words):
    applies(candidate, "ill-fitting")
    feeds = {"images": pictures[:2], "class_ids": np.zeros((2, 1), np.int64)}
    change(feeds)
    with pytest.raises(InputError, match=words):
        backend.run(feeds)


def test_once_closed_it_says_so_and_closing_again_does_nothing(candidate, demo_export, tmp_path):
    folder = shutil.copytree(demo_export, tmp_path / "demo")
    feeds = {
        "images": np.zeros((1, 128, 128, 3), np.uint8),
        "class_ids": np.zeros((1, 1), np.int64),
    }
    with pytest.MonkeyPatch.context() as patched, candidate.open(folder, patched) as backend:
        backend.run(feeds)
        backend.close()
        with pytest.raises(BackendError, match="closed"):
            backend.run(feeds)
        backend.close()
