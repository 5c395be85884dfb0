"""The runtime: whatever pictures come in, the right answers come out."""

import gc
import threading

import numpy as np
import pytest
from PIL import Image

from tame_deploy import load
from tame_deploy.data.shapes import LABELS, draw_picture
from tame_deploy.errors import (
    BackendError,
    BackendNotInstalledError,
    DeviceError,
    InputError,
    ParityError,
)
from tame_deploy.picture.preprocess import load_image, prepare_batch
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import ParityReference
from tests.conftest import shared_file

SEED = 20_000_000
PICTURES = [draw_picture(SEED + i)[0] for i in range(8)]


@pytest.fixture(scope="module")
def explainer(demo_export):
    with load(demo_export, threads=1) as opened:
        yield opened


def test_it_names_the_shapes_and_points_at_them(explainer):
    drawn = [draw_picture(SEED + i) for i in range(60)]
    result = explainer.explain([picture for picture, _, _ in drawn])
    named = [row[0] for row in result.class_names]
    assert np.mean([n == LABELS[c] for n, (_, _, c) in zip(named, drawn, strict=True)]) > 0.95
    inside = []
    for one, (_, mask, _) in zip(result, drawn, strict=True):
        heat = Image.fromarray(one.heat()).resize(mask.shape, Image.Resampling.BILINEAR)
        inside.append(mask.ravel()[np.asarray(heat).argmax()])
    assert np.mean(inside) > 0.9


def test_eight_at_once_equal_eight_one_by_one(explainer):
    together = explainer.explain(PICTURES, top_k=3)
    for index, picture in enumerate(PICTURES):
        alone = explainer.explain(picture, top_k=3)
        assert np.allclose(alone.logits[0], together.logits[index], atol=1e-5)
        assert np.array_equal(alone.class_ids[0], together.class_ids[index])
        assert np.allclose(alone.maps[0], together.maps[index], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_batch_size_changes_nothing(explainer, batch_size):
    expected = explainer.explain(PICTURES)
    result = explainer.explain(PICTURES, batch_size=batch_size)
    assert np.allclose(result.maps, expected.maps, atol=1e-5)


def test_pictures_come_in_many_forms(explainer, tmp_path):
    PICTURES[0].save(tmp_path / "it.png")
    array = np.asarray(PICTURES[0])
    expected = explainer.explain(PICTURES[0]).logits
    data = (tmp_path / "it.png").read_bytes()
    for source in (str(tmp_path / "it.png"), tmp_path / "it.png", data, array, array[None]):
        assert np.array_equal(explainer.explain(source).logits, expected)
    mixed = explainer.explain([PICTURES[0], PICTURES[1].resize((300, 200)), array])
    assert len(mixed) == 3
    assert mixed[1].overlay().size == (300, 200)


def test_result_has_all_that_was_promised(explainer):
    result = explainer.explain(PICTURES[:2], top_k=2)
    assert result.logits.shape == (2, 6)
    assert result.maps.shape == (2, 2, 32, 32)
    assert result.maps.dtype == np.float32
    assert np.allclose(result.probabilities.sum(axis=1), 1)
    best = result[0].top()
    assert (best[0].class_id, best[0].name) == (result.class_ids[0, 0], result.class_names[0][0])
    assert best[0].probability >= best[1].probability
    assert result[0].panel(1).width > 900


def test_classes_can_be_chosen_in_every_form(explainer):
    same = [explainer.explain(PICTURES[:2], ids) for ids in (3, [3], [[3], [3]], np.array([3]))]
    assert all(np.array_equal(r.class_ids, [[3], [3]]) for r in same)
    mixed = explainer.explain(PICTURES[:2], [[5, -1], [0, 2]])
    second = np.argsort(-mixed.logits[0])[1]
    assert mixed.class_ids.tolist() == [[5, second], [0, 2]]
    one = explainer.explain(PICTURES[0], 5).maps[0, 0]
    assert np.allclose(one, mixed.maps[0, 0], atol=1e-5)
    assert not np.allclose(one, explainer.explain(PICTURES[0], 0).maps[0, 0], atol=0.05)


@pytest.mark.parametrize(
    ("class_ids", "message"),
    [
        (6, "class id 6 is out of range; expected -1 to 5"),
        (-2, "class id -2 is out of range"),
        ([0.5], "float64 of shape .1.; expected whole numbers"),
        ([], "class_ids is empty"),
        ([[0], [1], [2]], "3 rows; expected 2"),
        ([[0], [1, 2]], "different lengths"),
        ("ring", "holds the text 'ring'; expected class numbers"),
        (["ring"], "holds the text 'ring'"),
        ([0, 0, 0, 0, 0, -1], "place 6 or later; this artifact ranks 5"),
    ],
)
def test_classes_that_cannot_be_explained(explainer, class_ids, message):
    with pytest.raises(InputError, match=message):
        explainer.explain(PICTURES[:2], class_ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "found no pictures"),
        ({"images": PICTURES[0], "top_k": 6}, "top_k is 6; this artifact ranks 1 to 5"),
        ({"images": PICTURES[0], "top_k": 1, "class_ids": 1}, "expected one of them"),
        ({"images": PICTURES[0], "batch_size": 0}, "batch_size is 0"),
        ({"images": [PICTURES[0], "missing.jpg"]}, "picture 1: missing.jpg: no such file"),
        ({"images": np.zeros((2, 4, 4, 3))}, "picture 0: found float64 array"),
    ],
)
def test_requests_that_cannot_be_honoured(explainer, arguments, message):
    with pytest.raises(InputError, match=message):
        explainer.explain(**arguments)


@pytest.mark.parametrize("top_k", [2.0, True, "2", 0])
def test_how_many_classes_must_be_a_whole_number(explainer, top_k):
    for ask in (explainer.explain, explainer.stream):
        with pytest.raises(InputError, match=f"top_k is {top_k!r}; |top_k is 0; this artifact"):
            ask(PICTURES[:1], top_k=top_k)


@pytest.fixture
def only_new_objects():
    """Have the garbage collector leave alone what is there already, torch for the most part."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def decoded_pictures(size):
    """Return how many pictures of a size are in memory."""
    gc.collect()
    found = (one for one in gc.get_objects() if issubclass(type(one), Image.Image))
    return sum(one.size == size and one.mode == "RGB" for one in found)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_long_list_of_photographs_is_never_in_memory_at_once(
    explainer, tmp_path, monkeypatch, only_new_objects, as_bytes
):
    size = (517, 311)  # like no other picture of these tests
    paths = [tmp_path / f"{index}.png" for index in range(9)]
    for path, picture in zip(paths, [*PICTURES, PICTURES[0]], strict=True):
        picture.resize(size).save(path)
    sources = [path.read_bytes() for path in paths] if as_bytes else paths
    expected = explainer.explain([load_image(path) for path in paths])
    drawn = expected[8].overlay()
    del expected
    run, alive = explainer.backend.run, []

    def counted(feeds):
        alive.append(decoded_pictures(size))
        return run(feeds)

    monkeypatch.setattr(explainer.backend, "run", counted)
    before = decoded_pictures(size)
    found = explainer.explain(sources, batch_size=2)
    assert len(alive) == 5
    assert max(alive) <= before + 2
    assert decoded_pictures(size) <= before + 1
    assert found[8].overlay() == drawn


def test_a_list_of_one_batch_is_kept_and_need_not_be_read_again(explainer, tmp_path):
    path = tmp_path / "it.png"
    PICTURES[0].save(path)
    found = explainer.explain([path, path], batch_size=2)
    path.unlink()
    assert found[1].overlay().size == PICTURES[0].size


def test_pictures_before_a_bad_one_are_explained_first(explainer, monkeypatch):
    run, batches = explainer.backend.run, []

    def counted(feeds):
        batches.append(len(feeds["images"]))
        return run(feeds)

    monkeypatch.setattr(explainer.backend, "run", counted)
    with pytest.raises(InputError, match="picture 5: missing.jpg: no such file"):
        explainer.explain([*PICTURES[:5], "missing.jpg", "also missing.jpg"], batch_size=2)
    assert batches == [2, 2]


def test_large_pictures_are_refused_unless_they_are_allowed(explainer):
    picture = PICTURES[0].resize((40, 30))
    assert len(explainer.explain(picture, max_pixels=1200)) == 1
    for ask in (explainer.explain, lambda *a, **k: list(explainer.stream(*a, **k))):
        with pytest.raises(InputError, match="picture 0: .*40x30"):
            ask([picture], max_pixels=1199)


def test_labels_find_classes_and_near_misses_are_offered(explainer):
    assert explainer.class_id(" Ring") == LABELS.index("ring")
    with pytest.raises(InputError, match="no class is called 'rings'. Nearest: ring"):
        explainer.class_id("rings")


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"found inputs \[\]; expected \['class_ids', 'images'\]"),
        ({"images": np.zeros((1, 128, 128, 3), np.float32)}, "found images: float32"),
        ({"images": np.zeros((1, 64, 128, 3), np.uint8)}, r"expected images: uint8 \[batch, 128"),
        ({"class_ids": np.zeros((2, 1), np.int64)}, "found class_ids|found images"),
        ({"class_ids": np.zeros((1, 0), np.int64)}, "found class_ids"),
        ({"class_ids": np.zeros((1, 1), np.int32)}, "found class_ids: int32"),
    ],
)
def test_the_backend_names_an_input_that_does_not_fit(explainer, feeds, message):
    good = {
        "images": prepare_batch(PICTURES[:1], explainer.artifact.manifest.image),
        "class_ids": np.zeros((1, 1), np.int64),
    }
    with pytest.raises(InputError, match=message):
        explainer.backend.run({} if not feeds else good | feeds)


def test_a_provider_that_is_not_obtained_is_an_error(demo_export):
    with pytest.raises(DeviceError, match="CUDAExecutionProvider"):
        load(demo_export, providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    with pytest.raises(DeviceError):
        load(demo_export, providers=())


def test_backends_that_do_not_exist(demo_export):
    with pytest.raises(BackendNotInstalledError, match="unknown backend 'tflite'"):
        load(demo_export, backend="tflite")
    with pytest.raises(InputError, match="threads is 0"):
        load(demo_export, threads=0)


def test_closing_is_final_and_harmless_twice(demo_export):
    explainer = load(demo_export)
    explainer.close()
    explainer.close()
    with pytest.raises(BackendError, match="closed"):
        explainer.explain(PICTURES[0])


def test_many_threads_share_one_explainer(explainer):
    expected = explainer.explain(PICTURES).maps
    wrong = []

    def work(index):
        for _ in range(5):
            found = explainer.explain(PICTURES[index]).maps[0]
            if not np.allclose(found, expected[index], atol=1e-5):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_verifying_notices_another_answer(explainer):
    reference = ParityReference.load(explainer.artifact)
    report = check_parity(explainer.backend, reference, explainer.artifact)
    assert report.top1_agreement == 1.0
    assert report.map_correlation > 0.9999
    assert report.warnings == ()
    reference.logits[2, 3] += 5
    with pytest.raises(ParityError, match=r"logits\[2, 3\] is .* at batch 3"):
        check_parity(explainer.backend, reference, explainer.artifact)


def test_real_pictures_on_the_real_squeezenet(tmp_path):
    from tame_deploy.export.artifact_export import export_artifact
    from tame_deploy.export.options import ExportOptions
    from tame_deploy.model.backbones import BackboneRequest, load_backbone
    from tame_deploy.model.network import HeadRequest, build_network

    weights = shared_file("data/squeezenet1_1-imagenet.safetensors")
    head = shared_file("data/squeezenet1_1-head.safetensors")
    folder = shared_file("data/imagenet-sample")
    request = BackboneRequest("squeezenet1_1", str(weights), labels="imagenet")
    layers = ("features.7", "features.10", "features.12")
    network = build_network(load_backbone(request), HeadRequest(str(head)), layers)
    artifact = export_artifact(network, tmp_path / "squeezenet", ExportOptions())
    assert artifact.manifest.outputs[2].shape[2:] == (27, 27)
    rows = shared_file("data/imagenet-sample.csv").read_text().splitlines()[1:]
    truth = {name: int(class_id) for name, class_id in (row.split(",") for row in rows)}
    names = sorted(truth)[::2]
    with load(artifact.path) as explainer:
        result = explainer.explain([folder / name for name in names])
        likeliest = result.class_ids[:, 0]
        right = np.mean([truth[n] == c for n, c in zip(names, likeliest, strict=True)])
        assert 0.5 < right < 0.72  # 61 % on the whole sample it was drawn from
        assert (result.maps.max(axis=(2, 3)) > 0.999).all()
        tench = explainer.explain(folder / "n01440764_tench.jpg")
        assert tench.class_names[0][0] == "tench"
