"""Grey of 16 bits and pictures of many channels through the stages, on networks of kilobytes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tame_deploy
import tame_deploy.training.train_head as train_head_module
from tame_deploy.artifact.directory import open_artifact
from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec, variant_config
from tame_deploy.data.labelled import DrawnPictures
from tame_deploy.data.shapes import draw_levels
from tame_deploy.errors import InputError
from tame_deploy.evaluation.evaluate import EvaluationOptions, evaluate, prepared_batches
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.metrics.evaluated_model import evaluated_network
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.features import FeatureTap, probe_layers
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.picture.preprocess import load_picture, prepared_levels
from tame_deploy.picture.window import graph_image
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import ParityReference
from tame_deploy.training.data import PictureTensors, make_loader
from tame_deploy.training.losses import LossConfig
from tame_deploy.training.recipe import decode_recipe
from tame_deploy.training.step import MaskedStep
from tests.command_line import run_here
from tests.golden.test_artifacts import ARTIFACTS
from tests.unit.model.test_head import random_head

GREY16, FIVE = (ARTIFACTS[0].parent / name for name in ("schema-3-grey16", "schema-3-five"))
both = pytest.mark.parametrize("path", [GREY16, FIVE], ids=lambda path: path.name)


def network_of(image: ImageSpec) -> ExplainedNetwork:
    torch.manual_seed(0)
    widths = ((image.channels, 6), (6, 8), (8, 8))
    stages = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in widths]
    module = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    backbone = Backbone("tiny", module.eval(), image, None, WeightsSource("test"))
    tap = FeatureTap(module, ["1", "2"]).eval()
    features = probe_layers(tap, backbone.example)
    config = variant_config("tame", tuple(feature.channels for feature in features), 5)
    return ExplainedNetwork(backbone, tap, features, random_head(config, 0), WeightsSource("test"))


def spec_of(channels: int, **changes: object) -> ImageSpec:
    return ImageSpec(24, 24, 26, mean=(0.5,) * channels, std=(0.25,) * channels, **changes)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@both
def test_graphs_of_other_pictures_answer_as_pytorch_did(path, backend):
    pytest.importorskip(backend)
    artifact = open_artifact(path)
    with open_backend(artifact, backend, BackendOptions(threads=1)) as opened:
        check_parity(opened, ParityReference.load(artifact), artifact)


def test_an_export_of_16_bits_in_each_pictures_own_window_is_held_to_pytorch(tmp_path):
    image = graph_image(spec_of(1), "uint16", "own")
    artifact = export_artifact(network_of(image), tmp_path / "own", ExportOptions(input="uint16"))
    assert artifact.manifest.image.window is None
    assert str(artifact.manifest.inputs[0]) == "images: uint16 [batch, 24, 24, 1]"
    assert artifact.manifest.parity.top1_agreement == 1
    levels = draw_levels(1, image)
    with tame_deploy.load(artifact.path, backend="onnxruntime") as explainer:
        bright, dim = explainer.explain([levels, levels // 16 + 5]).logits
        assert np.abs(bright - dim).max() < 0.01  # as it stretches both alike
        constant = explainer.explain(np.full((24, 24), 700, np.uint16))
        assert np.isfinite(constant.logits).all()


@pytest.mark.parametrize(
    ("graph_input", "window", "message"),
    [
        (None, "0,4095", "--window is for --input uint16, found uint8; leave it out"),
        ("uint16", "some", "--window: found window 'some'; expected two levels, such as 0,4095; o"),
        ("uint16", "9,70000", "image window is 9 to 70000; expected two levels of 16 bits"),
    ],
)
def test_windows_that_are_none_are_one_line(graph_input, window, message):
    with pytest.raises(InputError, match=message):
        graph_image(spec_of(1), graph_input, window)


def test_a_window_is_that_of_the_backbone_unless_another_is_given():
    declared = spec_of(1, dtype="uint16", window=(5, 900))
    assert graph_image(declared, None, None) == declared
    assert graph_image(declared, None, "full").window == (0, 65535)
    assert graph_image(declared, "uint8", None).dtype == "uint8"


def test_pictures_are_explained_from_files_arrays_and_pages(tmp_path):
    deep = np.random.default_rng(0).integers(0, 4096, (50, 30)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with tame_deploy.load(GREY16, backend="onnxruntime") as explainer:
        found = explainer.explain([tmp_path / "deep.png", deep, deep[..., None]])
        assert np.array_equal(found.logits[0], found.logits[2])
        overlay = found[0].overlay()
        assert (overlay.size, overlay.mode) == ((30, 50), "RGB")
        with pytest.raises(InputError, match=r"the graph has its own \(0,4095\)"):
            explainer.explain(deep, window=(0, 9))
        with pytest.raises(InputError, match=r"the graph has its own \(0,4095\)"):
            explainer.stream([deep], window=(0, 9))
    pages = [Image.fromarray(page) for page in np.moveaxis(draw_levels(1, spec_of(5)), 2, 0)]
    pages[0].save(tmp_path / "five.tif", save_all=True, append_images=pages[1:])
    with tame_deploy.load(FIVE, backend="onnxruntime") as explainer:
        one = explainer.explain([tmp_path / "five.tif"] * 3, batch_size=2)  # decoded again to draw
        assert np.array_equal(
            one.logits[0], explainer.explain(draw_levels(1, spec_of(5))).logits[0]
        )
        shown = np.asarray(one[0].picture)
        assert np.array_equal(shown, draw_levels(1, spec_of(5))[..., :3])


def test_the_command_explains_16_bit_files_and_tells_of_those_that_do_not_fit(tmp_path):
    deep = np.random.default_rng(0).integers(0, 4096, (50, 30)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    out = str(tmp_path / "out")
    asked = ("explain", GREY16, tmp_path / "deep.png", "--backend", "onnxruntime", "-o")
    run_here(*asked, out)
    record = json.loads(Path(out, "results.jsonl").read_text())
    with Image.open(Path(out, record["explained"][0]["overlay"])) as overlay:
        assert overlay.size == (30, 50)
    refused = run_here(*asked, out + "2", "--window", "0,9", expect=1)
    assert "the graph has its own (0,4095), so leave it out" in refused.stderr
    other = ("explain", FIVE, tmp_path / "deep.png", "--backend", "onnxruntime", "-o", out + "3")
    told = run_here(*other, expect=1)
    assert "has one page (I;16); the network takes 5 channels" in told.stdout + told.stderr


def test_the_command_exports_a_window_for_16_bits_alone(tmp_path):
    done = run_here("export", "-b", "demo", "--window", "0,4095", cwd=tmp_path, expect=1)
    assert "--window is for --input uint16, found uint8; leave it out" in done.stderr


def test_other_channels_than_were_declared_are_one_line():
    backbone = network_of(spec_of(3)).backbone
    grey = replace(backbone, image=spec_of(1))
    with pytest.raises(
        InputError, match="tiny takes pictures of 3 channels, and the means are of 1;"
    ):
        build_network(grey, HeadRequest("random"), ("1", "2"))


@pytest.mark.parametrize("channels", [1, 5])
def test_heads_train_on_16_bits_and_any_channels(channels):
    image = spec_of(channels, dtype="uint16", window=(100, 5000))
    network = network_of(image)
    pictures = PictureTensors(DrawnPictures(0, 4), image, 0, random_crop=True, flip=True)
    batch = next(iter(make_loader(pictures, [[(0, index) for index in range(4)]], 0)))
    assert batch.pixels.dtype == torch.uint16
    assert batch.pixels.shape == (4, channels, 24, 24)
    step = MaskedStep(network, LossConfig())
    terms, labels = step.losses(batch.pixels)
    terms.total.backward()
    with TorchBackend(network, "uint16") as backend:
        levels = np.ascontiguousarray(batch.pixels.permute(0, 2, 3, 1).numpy())
        feeds = {"images": levels, "class_ids": np.full((4, 1), -1, np.int64)}
        assert backend.run(feeds)["logits"].argmax(1).tolist() == labels.tolist()


def train_tiny(image, folder, monkeypatch):
    recipe = decode_recipe(
        {
            "model": {"backbone": "tiny"},
            "data": {"train": "demo:8", "validation": "demo-held-out:4"},
            "run": {"epochs": 1, "batch_size": 8, "workers": 0},
        }
    )
    monkeypatch.setattr(train_head_module, "build_recipe_network", lambda *_: network_of(image))
    train_head_module.train_head(recipe, folder)
    with (folder / "metrics.csv").open(newline="") as file:
        (validation,) = (row for row in csv.DictReader(file) if row["split"] == "validation")
    return validation


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
@pytest.mark.parametrize("channels", [1, 5])
def test_a_run_draws_maps_and_validates_the_same_in_8_and_16_bits(channels, tmp_path, monkeypatch):
    eight = train_tiny(spec_of(channels), tmp_path / "8", monkeypatch)
    deep = spec_of(channels, dtype="uint16", window=(100, 5000))
    sixteen = train_tiny(deep, tmp_path / "16", monkeypatch)
    # The same pictures in other levels: only rounding differs.
    for name in ("loss", "average_drop"):
        assert float(sixteen[name]) == pytest.approx(float(eight[name]), rel=0.02, abs=0.02)
    for folder in ("8", "16"):
        with Image.open(tmp_path / folder / "maps" / "step-000001.jpg") as sheet:
            assert sheet.mode == "RGB"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_networks_of_many_channels_are_evaluated(dtype):
    image = replace(spec_of(4).for_input(dtype), crop="pad")
    with TorchBackend(network_of(image), dtype) as backend:
        options = EvaluationOptions(metrics=["ad-ic", "localisation", "entropy"], limit=4)
        found = evaluate(evaluated_network(backend), DrawnPictures(0, 4), options)
    assert len(found.names) == 4
    assert not found.unreadable


def test_what_is_padded_is_not_the_object():
    image = replace(spec_of(3), width=48, crop="pad", pad_level=255)
    (batch,) = prepared_batches(DrawnPictures(0, 1), image, EvaluationOptions(), [])
    assert batch.pixels[0, :, 0].min() == 1
    assert not batch.masks[0][:, :12].any()
    assert batch.masks[0].any()


def test_what_is_prepared_for_float32_is_of_8_bits():
    spec = spec_of(1).for_input("float32")
    deep = np.full((30, 30), 65535, np.uint16)
    assert prepared_levels(load_picture(deep, spec), spec).max() == 255
