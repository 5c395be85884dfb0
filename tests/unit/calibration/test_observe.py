import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing import observe as module
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom, choose_pictures
from tame_deploy.calibration.observing.observe import observe, pictures_first
from tame_deploy.calibration.observing.record import Calibration, CalibrationInputs
from tame_deploy.data.labelled import DrawnPictures
from tame_deploy.errors import InputError, ManifestError
from tests.unit.calibration.graphs import SIDE, small_graph

IMAGE = ImageSpec(SIDE, SIDE, SIDE, dtype="float32", layout="NCHW", normalise="caller")
SOURCE = PicturesToChooseFrom(DrawnPictures(0, 40), "demo:40", IMAGE)


def inputs(count=20, seed=0, model="a" * 64):
    chosen, _ = choose_pictures(SOURCE, count, seed)
    return CalibrationInputs(model, "demo:40", seed, chosen, IMAGE)


def test_an_interrupted_calibration_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    graph, of = small_graph(), inputs()
    whole = observe(graph, of, SOURCE)
    batches = []
    watch_batch = module._watch_batch

    def interrupted(*arguments):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(watch_batch(*arguments))
        return batches[-1]

    monkeypatch.setattr(module, "_watch_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        observe(graph, of, SOURCE, cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{of.key}.partial.npz"]
    monkeypatch.undo()
    done = []
    again = observe(graph, of, SOURCE, cache=tmp_path, advance=done.append)
    assert done[0] == sum(batches) == 16
    assert again == whole
    assert [path.name for path in tmp_path.iterdir()] == [f"{of.key}.json"]


#: What graphs make of token maps (B, 4, 6): the shape as far as it is fixed, and how.
ARRANGED = {
    "as it comes": ((None, 4, 6), lambda x: x),
    "queries, keys, values": (
        (3, None, 4, 2),
        lambda x: x.reshape(-1, 4, 3, 2).transpose(2, 0, 1, 3),
    ),
    "a part of them": ((1, None, 4, 6), lambda x: x[None]),
    "heads with pictures": (
        (None, None, None),
        lambda x: x.reshape(-1, 4, 2, 3).swapaxes(1, 2).reshape(-1, 4, 3),
    ),
    "a constant": ((4, 6), lambda _: np.ones((4, 6), np.float32)),
}


@pytest.mark.parametrize("how", ARRANGED)
@given(pictures=st.integers(1, 7))
def test_what_is_seen_of_a_picture_does_not_depend_on_its_batch(how, pictures):
    shape, made = ARRANGED[how]
    tokens = np.random.default_rng(0).standard_normal((pictures, 4, 6)).astype(np.float32)
    together = pictures_first(made(tokens), shape, pictures)
    assert len(together) == pictures
    for one, seen in zip(tokens, together, strict=True):
        np.testing.assert_array_equal(pictures_first(made(one[None]), shape, 1)[0], seen)


def test_a_finished_calibration_is_not_repeated(tmp_path, monkeypatch):
    graph, of = small_graph(), inputs()
    first = observe(graph, of, SOURCE, cache=tmp_path)
    monkeypatch.setattr(module, "_watch_batch", None)
    assert observe(graph, of, SOURCE, cache=tmp_path) == first


@pytest.mark.parametrize("other", [{"model": "b" * 64}, {"seed": 1}, {"count": 19}])
def test_the_cache_of_another_model_or_other_pictures_is_not_taken(tmp_path, other):
    graph = small_graph()
    first = observe(graph, inputs(), SOURCE, cache=tmp_path)
    of = inputs(**other)
    assert of.key != first.key
    # Even under the right name it is refused by the key that it bears.
    (tmp_path / f"{of.key}.json").write_text(first.to_json())
    assert observe(graph, of, SOURCE, cache=tmp_path).key == of.key


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nothing", b"x" * 5000])
def test_a_damaged_unfinished_run_is_begun_anew(tmp_path, damage):
    graph, of = small_graph(), inputs()
    (tmp_path / f"{of.key}.partial.npz").write_bytes(damage)
    assert observe(graph, of, SOURCE, cache=tmp_path) == observe(graph, of, SOURCE)


def test_an_activation_that_is_nan_is_named_with_its_picture():
    graph = small_graph()
    for tensor in graph.model.graph.initializer:
        if tensor.name == "backbone.c4.bias":
            values = np.full(4, np.nan, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(InputError, match=r"activation relu4 .* is NaN or infinite for drawn"):
        observe(Graph(graph.model), inputs(), SOURCE)


@pytest.fixture(scope="module")
def record():
    return observe(small_graph(), inputs(8), SOURCE)


def test_the_record_comes_back_from_its_file(record):
    assert Calibration.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"seed": 0', '"seed": 1, "more": 2'),
        ('"momentum": 0.95', '"momentum": 0.9'),
        ('"minmax"', '"min-max"'),
        ('"version": 1', '"version": NaN'),
    ],
)
def test_an_altered_record_is_refused(record, before, after):
    text = record.to_json()
    assert before in text
    with pytest.raises(ManifestError):
        Calibration.from_json(text.replace(before, after))


def test_a_record_of_other_pictures_under_its_key_is_refused(record):
    digest = record.subject.pictures.sha256[0]
    with pytest.raises(ManifestError, match="was altered"):
        Calibration.from_json(record.to_json().replace(digest, "0" * 64))


@given(st.text(max_size=200))
def test_no_text_ends_in_another_error(text):
    with pytest.raises(ManifestError):
        Calibration.from_json(text)
