"""Metrics see only a backend; baselines share the table; a demo that is retrained is good."""

import csv
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.cli.evaluate import _baselines
from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures, FilePictures
from tame_deploy.errors import BackendError, InputError
from tame_deploy.evaluation.baselines import BASELINES, Rise, make_baseline
from tame_deploy.evaluation.compare import compare, comparison_lines, draw_grid, save_comparison
from tame_deploy.evaluation.evaluate import EvaluationOptions, evaluate
from tame_deploy.evaluation.plots import draw_scores
from tame_deploy.metrics.evaluated_model import evaluated_artifact, evaluated_network
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.picture.preprocess import as_input
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.training.recipe import decode_recipe, recipe_table
from tame_deploy.training.train_head import build_recipe_network, train_head
from tests.conftest import OTHER_CONTRACTS
from tests.unit.model.test_recipro_cam import GoesAround, backbone_of, fully_connected, network_of

PICTURES = DrawnPictures(HELD_OUT_SEED, 12)
QUICK = EvaluationOptions(metrics=("ad-ic", "localisation", "entropy"), batch_size=5)


@pytest.fixture(scope="module")
def network():
    return build_network(load_backbone(BackboneRequest("demo")), HeadRequest())


@pytest.fixture(scope="module")
def model(network):
    return evaluated_network(TorchBackend(network))


def on_artifact(path):
    artifact = open_artifact(path)
    return evaluated_artifact(artifact, open_backend(artifact))


def size_of(path):
    with Image.open(path) as image:
        return image.size


def means(found):
    return {name: estimate.mean for name, estimate in found.estimates().items()}


def test_an_exported_graph_scores_as_its_network_does(network, model, demo_export):
    in_torch = means(evaluate(model, PICTURES, QUICK))
    with on_artifact(demo_export) as exported:
        deployed = means(evaluate(exported, PICTURES, QUICK))
    rounding = means(evaluate(evaluated_network(TorchBackend(network, "uint8")), PICTURES, QUICK))
    assert deployed == pytest.approx(rounding, rel=1e-3, abs=1e-3)
    # The deployed graph takes whole levels of brightness, which masked pictures are not.
    for name, value in in_torch.items():
        assert deployed[name] == pytest.approx(value, abs=10 if "increase" in name else 0.1), name


@pytest.mark.parametrize("options", OTHER_CONTRACTS[:2], ids=str)
def test_every_kind_of_graph_can_be_evaluated(model, demo_with, options):
    with on_artifact(demo_with(**options)) as exported:
        found = evaluate(exported, PICTURES, QUICK)
    assert means(found) == pytest.approx(
        means(evaluate(model, PICTURES, QUICK)), rel=2e-3, abs=1e-3
    )


def test_sigmoid_maps_are_scored_with_a_note(network):
    model = evaluated_network(TorchBackend(network, maps="sigmoid"))
    found = evaluate(model, PICTURES, EvaluationOptions(metrics=("entropy",), limit=1))
    assert "sigmoids" in found.settings["note"]


def test_the_batch_size_changes_nothing(model):
    one = evaluate(model, PICTURES, dataclasses.replace(QUICK, batch_size=1))
    many = evaluate(model, PICTURES, dataclasses.replace(QUICK, batch_size=12))
    for name, values in one.scores.items():
        assert np.allclose(values, many.scores[name], atol=1e-2), name


@pytest.fixture(scope="module")
def all_metrics(model):
    return evaluate(model, DrawnPictures(HELD_OUT_SEED, 2))


def test_all_metrics_together_tell_a_good_map_from_noise(model, all_metrics):
    pictures = DrawnPictures(HELD_OUT_SEED, 2)
    tame = means(all_metrics)
    noise = means(evaluate(model, pictures, method=make_baseline("random", model, None)))
    assert tame["average_drop_100"] < noise["average_drop_100"]
    assert tame["pointing_game"] > noise["pointing_game"]
    assert tame["insertion"] > noise["insertion"]
    assert tame["deletion"] < noise["deletion"]
    assert tame["road_most"] < noise["road_most"]
    assert tame["road_least"] > noise["road_least"]
    assert tame["accuracy"] == noise["accuracy"] == 100


def test_evaluating_again_gives_the_same_numbers(model, all_metrics):
    again = evaluate(model, PICTURES, EvaluationOptions(metrics=("road",), limit=1))
    for name, values in again.scores.items():
        assert values[0] == all_metrics.scores[name][0], name


def test_unreadable_pictures_are_listed_and_too_many_stop(model, tmp_path):
    paths = []
    for index in range(4):
        paths.append(tmp_path / f"{index}.png")
        PICTURES.image(index).save(paths[-1])
    paths[2].write_bytes(b"broken")
    pictures = FilePictures(tuple(paths), (None,) * 4)
    with pytest.raises(InputError, match="1 of 4 pictures .*2.png"):
        evaluate(model, pictures, QUICK)
    found = evaluate(model, pictures, dataclasses.replace(QUICK, max_unreadable=0.5))
    assert [name.rpartition("/")[2] for name in found.names] == ["0.png", "1.png", "3.png"]
    assert "accuracy" not in found.estimates()
    assert len(found.unreadable) == 1


def test_a_mask_of_another_size_than_its_picture_is_refused(model, tmp_path):
    PICTURES.image(0).save(tmp_path / "a.png")
    Image.new("L", (5, 5), 255).save(tmp_path / "mask.png")
    path = tmp_path / "a.png"
    pictures = FilePictures((path,), (None,), regions={path: tmp_path / "mask.png"})
    with pytest.raises(InputError, match="its mask is 5x5, the picture 128x128"):
        evaluate(model, pictures, QUICK)


def test_a_model_that_gives_nan_is_an_error(model):
    class Broken(TorchBackend):
        def run(self, feeds):
            return {k: v * np.nan if k == "logits" else v for k, v in super().run(feeds).items()}

    predictor = model.predictor
    spoilt = dataclasses.replace(predictor, backend=Broken(predictor.backend.network))
    broken = dataclasses.replace(model, predictor=spoilt)
    with pytest.raises(BackendError, match="NaN or infinite"):
        evaluate(broken, PICTURES, QUICK)


@pytest.fixture(scope="module")
def compared(network, model):
    baselines = [make_baseline(name, model, network, rise_masks=60) for name in BASELINES]
    options = EvaluationOptions(metrics=("ad-ic", "localisation"))
    return compare(model, DrawnPictures(HELD_OUT_SEED, 3), [None, *baselines], options)


def test_every_baseline_is_scored_and_its_passes_are_counted(compared, network):
    passes = {one.method: (one.forward_passes, one.backward_passes) for one in compared}
    channels = 128
    assert passes == {
        "tame": (1, 0),
        "tame-sigmoid": (1, 0),
        "grad-cam": (1, 1),
        "grad-cam++": (1, 1),
        "layercam": (1, 1),
        "score-cam": (1 + channels, 0),
        "ablation-cam": (pytest.approx(2 + channels, abs=1), 0),
        "recipro-cam": (pytest.approx(1.0, abs=0.05), 0),  # 64 copies through one linear layer
        "rise": (60, 0),
        "random": (0, 0),
    }
    assert all(one.milliseconds > 0 for one in compared)
    # Nothing of the library stays behind on the classifier.
    module = network.backbone.module
    assert not any(part._forward_hooks for part in module.modules())
    drops = {one.method: means(one)["average_drop_100"] for one in compared}
    assert max(drops, key=drops.get) == "random"
    assert min(drops, key=drops.get) in ("tame", "tame-sigmoid")


def test_a_baselines_own_maps_are_asked_for_again_and_only_the_first_are_counted(network, model):
    options = EvaluationOptions(metrics=("adcc", "sensitivity"), batch_size=2)
    pictures = DrawnPictures(HELD_OUT_SEED, 3)
    found = {}
    for name in ("grad-cam", "random"):
        method = make_baseline(name, model, network)
        found[name] = evaluate(model, pictures, options, method=method)
    assert (found["grad-cam"].forward_passes, found["grad-cam"].backward_passes) == (1, 1)
    steady, noise = (means(found[name]) for name in ("grad-cam", "random"))
    assert steady["sensitivity_max"] < noise["sensitivity_average"] / 3
    assert steady["coherency"] > noise["coherency"] + 20


def test_a_comparison_is_a_table_a_plot_and_a_grid(compared, network, model, tmp_path):
    headings, lines = comparison_lines(compared)
    assert headings[:3] == ["method", "AD 100 % ↓", "IC 100 % ↑"]
    assert [line[0] for line in lines] == ["tame", *BASELINES]
    assert any(line[1].endswith("*") for line in lines[:2])
    save_comparison(compared, tmp_path)
    assert (tmp_path / "comparison.md").read_text().count("\n| ") == len(lines) + 1
    assert size_of(tmp_path / "comparison.png")[0] > 1000
    baselines = [None, make_baseline("grad-cam", model, network)]
    grid = draw_grid(model, PICTURES, baselines, tmp_path / "grid.jpg", rows=2)
    wide, high = size_of(grid)
    assert wide > high  # three columns, two rows


def test_one_evaluation_is_drawn_with_its_curves(all_metrics, tmp_path):
    assert size_of(draw_scores([all_metrics], tmp_path / "it.png"))[1] > 500
    with pytest.raises(InputError, match="cannot write"):
        draw_scores([all_metrics], tmp_path / "nowhere" / "it.png")


def test_rise_finds_the_only_place_that_matters():
    class Corner:
        def probabilities(self, pixels):
            bright = pixels[:, :8, :8].mean((1, 2, 3))
            return np.stack([bright, 1 - bright], 1)

    found = Rise(Corner(), 400, 50).explain(np.ones((1, 56, 56, 3), np.float32), np.array([0]))
    top, left = np.unravel_index(found[0].argmax(), (56, 56))
    assert max(top, left) < 16
    assert found[0][:8, :8].mean() > found[0][28:, 28:].mean() * 1.3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("saliency", {}, "unknown method 'saliency'; expected tame, tame-sigmoid"),
        ("grad-cam", {"cam_layer": "block9"}, "block9 is none; name one with --cam-layer, such as"),
        ("rise", {"rise_masks": 0}, "--rise-masks is 0"),
    ],
)
def test_baselines_that_cannot_be_had(network, model, name, options, message):
    with pytest.raises(InputError, match=message):
        make_baseline(name, model, network, **options)


def test_recipro_cam_is_the_head_that_needs_no_training(model):
    network = network_of(fully_connected())
    pixels = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    found = make_baseline("recipro-cam", model, network).explain(pixels, np.array([0, 3]))
    images = torch.from_numpy(as_input(pixels, network.backbone.image.for_input("float32")))
    with torch.no_grad():
        expected = network(images)[1]
    np.testing.assert_allclose(found, expected[[0, 1], [0, 3]], atol=1e-6)


def test_recipro_cam_is_left_out_of_all_methods_where_no_layer_can_be_masked(model, capsys):
    request = HeadRequest("random")
    network = build_network(backbone_of(GoesAround()), request, ["stem.1", "stem.3"])
    make = partial(make_baseline, model=model, network=network)
    names = ["tame", "recipro-cam", "random"]
    assert [one and one.name for one in _baselines(names, make, chosen=False)] == [None, "random"]
    assert "left out: recipro-cam: --head cam needs a layer" in capsys.readouterr().err
    with pytest.raises(InputError, match="gone around"):
        _baselines(names, make, chosen=True)


def test_cams_need_the_network(model):
    with pytest.raises(InputError, match="grad-cam needs the PyTorch network"):
        make_baseline("grad-cam", model, None)


def test_cams_of_a_transformer_look_at_its_patches():
    request = BackboneRequest("vit_b_16", "random", classes=7, image_size=(64, 64))
    transformer = build_network(load_backbone(request), HeadRequest("random", tokens="patch"))
    model = evaluated_network(TorchBackend(transformer))
    with pytest.raises(InputError, match="encoder_layer_11.ln is none; .*ln_1"):
        make_baseline("grad-cam", model, transformer)
    method = make_baseline(
        "grad-cam", model, transformer, cam_layer="encoder.layers.encoder_layer_11.ln_1"
    )
    pixels = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    assert method.explain(pixels, np.array([0, 3])).shape == (2, 64, 64)


def test_training_validates_by_the_drop_that_evaluation_finds(tmp_path):
    table = recipe_table("demo")
    table["data"] |= {"train": "demo:16", "validation": "demo-held-out:6"}
    table["run"] |= {"epochs": 1, "batch_size": 8, "workers": 0}
    trained = train_head(decode_recipe(table), tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        validated = [row for row in csv.DictReader(file) if row["average_drop"]][-1]
    table["model"]["head"] = str(trained.last_head)
    model = evaluated_network(TorchBackend(build_recipe_network(decode_recipe(table))))
    pictures = DrawnPictures(HELD_OUT_SEED, 6)
    found = means(evaluate(model, pictures, EvaluationOptions(metrics=("ad-ic",))))
    assert float(validated["average_drop"]) == pytest.approx(found["average_drop_100"], abs=0.01)
    assert float(validated["increase_in_confidence"]) == pytest.approx(found["increase_100"])
