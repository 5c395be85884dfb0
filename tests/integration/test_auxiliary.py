"""P-TAME through the pipeline: a classifier that cannot be tapped is trained for and explained."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
import torch

from tame_deploy import open_artifact
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.quantize import quantize_artifact
from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures
from tame_deploy.data.shapes import draw_levels
from tame_deploy.evaluation.randomisation import RandomisableGraph
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.head_checkpoint import read_head
from tame_deploy.model.network import HeadRequest, build_network
from tests.command_line import run_here
from tests.integration.test_training import one_thread  # noqa: F401
from tests.once import made_once
from tests.unit.model.test_auxiliary import SIDE, network_with

SOURCE = '''
import torch
from torch import nn
from torch.nn import functional

from tame_deploy.artifact.types import ImageSpec


class Opaque(nn.Module):
    """Its layers are no modules, and torch.fx cannot trace it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.kernel = nn.Parameter(torch.randn(8, 3, 4, 4))
        self.rows = nn.Parameter(torch.randn(8, 4))
        side = {"height": 32, "width": 32, "resize": 32}
        self.image_spec = ImageSpec(**side, mean=(0.4,) * 3, std=(0.2,) * 3)

    def forward(self, images):
        if images.shape[2] < 4:
            raise ValueError("too small")
        found = torch.relu(functional.conv2d(images, self.kernel, stride=4))
        return found.mean((2, 3)) @ self.rows


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.first, self.last = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)

    def forward(self, images):
        return self.last(torch.relu(self.first(images))).mean((2, 3))
'''
NAMED = ("-b", "net.py:Opaque", "--auxiliary", "net.py:Small")
LAYERS = ("block2", "block3", "block4")
QUICK = {"calibration_size": 24, "held_out_size": 32, "budget_s": 0.0}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a trained run and of its artifact."""

    def make(folder):
        folder.mkdir()
        (folder / "net.py").write_text(SOURCE)
        done = run_here(
            "train", "--recipe", "p-tame", *NAMED, "--layers", "first,last", "--data", "demo:32",
            "--validation", "demo-held-out:4", "--batch-size", 8, "--set", "run.workers=0",
            "-o", "run", cwd=folder,
        )  # fmt: skip
        (folder / "said.txt").write_text(done.stdout)
        run_here("export", *NAMED, "--head", "run/head-best.safetensors", "-o", "artifact",
                 cwd=folder)  # fmt: skip

    return made_once(tmp_path_factory, "p-tame", make)


@pytest.mark.slow
def test_a_head_is_trained_exported_and_held_to_parity(exported):
    manifest = open_artifact(exported / "artifact").manifest
    assert manifest.auxiliary == "net.py:Small"
    assert manifest.feature_layers == ("first", "last")
    assert manifest.weights.keys() == {"backbone", "head", "auxiliary"}
    assert manifest.parity is not None
    assert manifest.parity.map_correlation > 0.999
    head = read_head(exported / "run" / "head-best.safetensors")
    assert head.auxiliary is not None
    assert head.auxiliary.name == "net.py:Small"
    assert "--auxiliary net.py:Small" in (exported / "said.txt").read_text()


@pytest.mark.slow
def test_the_artifact_explains_and_says_what_it_is_made_of(exported, tmp_path):
    draw_levels(0, ImageSpec(height=32, width=32, resize=32)).save(tmp_path / "0.png")
    run_here("explain", exported / "artifact", tmp_path / "0.png", "-o", tmp_path / "out",
             "--backend", "onnxruntime")  # fmt: skip
    (line,) = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert len(json.loads(line)["top"]) == 4
    said = run_here("inspect", exported / "artifact").stdout
    assert "auxiliary" in said
    assert "net.py:Small" in said


def moved_demo():
    """The demo's network with slightly other weights, so that it is another one."""
    torch.manual_seed(0)
    demo = load_backbone(BackboneRequest("demo"))
    for weight in demo.module.parameters():
        weight.add_(0.02 * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0)
    demo.module.image_spec = replace(demo.image, mean=(0.4, 0.5, 0.6))
    return demo.module


@pytest.fixture(scope="module")
def of_demo(tmp_path_factory):
    """The demo, whose head reads another network."""

    def make(folder):
        folder.mkdir()
        demo = load_backbone(BackboneRequest("demo"))
        request = HeadRequest("random", auxiliary=f"{__name__}:moved_demo")
        export_artifact(build_network(demo, request, LAYERS), folder / "it", ExportOptions())

    return made_once(tmp_path_factory, "p-tame-demo", make) / "it"


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "target"), [("int8", "cpu")])
def test_both_networks_are_quantized(of_demo, tmp_path, precision, target):
    artifact = open_artifact(of_demo)
    image = artifact.manifest.image
    source = PicturesToChooseFrom(DrawnPictures(HELD_OUT_SEED, 120), "demo-held-out:120", image)
    options = QuantizeOptions(precision=precision, target=target, **QUICK)
    made = quantize_artifact(artifact, source, tmp_path / "small", options).artifact
    assert made.manifest.auxiliary == f"{__name__}:moved_demo"
    assert made.manifest.fidelity.pearson_5th > 0.95
    kinds = {one.name: one.data_type for one in onnx.load(made.model).graph.initializer}
    for part in ("backbone.backbone.", "backbone.classifier."):  # the auxiliary is tapped
        found = {kind for name, kind in kinds.items() if part in name and "weight" in name}
        assert onnx.TensorProto.INT8 in found, part


def test_randomisation_shuffles_the_classifier_alone(of_demo):
    layers = RandomisableGraph.of_artifact(open_artifact(of_demo)).layers
    assert layers
    assert all(name.startswith("backbone.classifier.") for one in layers for name in one)


def test_a_grey_classifier_is_exported_too(tmp_path):
    network = network_with(channels=1)
    manifest = export_artifact(network, tmp_path / "it", ExportOptions()).manifest
    assert manifest.inputs[0].shape == ("batch", SIDE, SIDE, 1)
    assert manifest.parity.map_correlation > 0.999


@pytest.mark.slow
def test_compare_looks_at_the_head_and_its_classifier(exported, tmp_path):
    pytest.importorskip("pytorch_grad_cam")
    words = (
        "compare", *NAMED, "--head", "run/head-best.safetensors", "--data", "demo-held-out:4",
        "--metrics", "ad-ic", "-o", tmp_path / "out",
    )  # fmt: skip
    run_here(*words, "--methods", "tame,random", cwd=exported)
    refused = run_here(*words, "--methods", "tame,grad-cam", "--overwrite", cwd=exported, expect=1)
    assert "--cam-layer" in refused.stderr
    # Beside an artifact nobody asks for the head's maps, nor for its auxiliary network's weights.
    run_here("compare", "artifact", *NAMED, "--data", "demo-held-out:4", "--metrics", "ad-ic",
             "--methods", "tame,random", "-o", tmp_path / "beside", cwd=exported)  # fmt: skip
