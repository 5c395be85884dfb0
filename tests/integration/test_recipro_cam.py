"""ReciproCAM from a network to its artifact: the graph, every backend, eight bits."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
import torch
from torch import nn

from tame_deploy import open_artifact
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.quantize import quantize_artifact
from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures
from tame_deploy.errors import InputError
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import ParityReference
from tame_deploy.training.recipe import decode_recipe
from tame_deploy.training.train_head import build_recipe_network
from tests.once import made_once
from tests.unit.model.test_recipro_cam import (
    Transformer,
    fully_connected,
    network_of,
    norm_after_pooling,
)

NETWORKS = {
    "fully connected": fully_connected,
    "norm after pooling": norm_after_pooling,
    "class token": Transformer,
    "averaged tokens": lambda: Transformer(prefix=2, mean=True),
    "placed tokens": lambda: Transformer(placed=True),
}
QUICK = {"calibration_size": 24, "held_out_size": 32, "budget_s": 0.0}


class TwoLinearLayers(nn.Module):
    """The demo, its classifier spelled as two layers: what is above zero less what is below."""

    def __init__(self) -> None:
        super().__init__()
        demo = load_backbone(BackboneRequest("demo"))
        self.image_spec = demo.image
        self.blocks = nn.Sequential(*list(demo.module.children())[:-1])
        weight, bias = demo.module.classifier.weight, demo.module.classifier.bias
        self.split, self.joined = nn.Linear(128, 256, bias=False), nn.Linear(256, 6)
        self.split.weight = nn.Parameter(torch.cat([torch.eye(128), -torch.eye(128)]))
        self.joined.weight = nn.Parameter(torch.cat([weight, -weight], dim=1).detach())
        self.joined.bias = nn.Parameter(bias.detach())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.joined(torch.relu(self.split(self.blocks(images).mean((2, 3)))))


def exported(factory, name):
    """Return an artifact of one of the networks; tests must not write to it."""

    def make(folder):
        folder.mkdir()
        export_artifact(network_of(NETWORKS[name]()), folder / "it", ExportOptions())

    return made_once(factory, f"recipro-{name}", make) / "it"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_backend_gives_what_pytorch_gives(tmp_path_factory, name, backend):
    pytest.importorskip(backend)
    artifact = open_artifact(exported(tmp_path_factory, name))
    assert artifact.manifest.head.variant == "recipro-cam"
    with open_backend(artifact, backend) as opened:
        reference = ParityReference.load(artifact)
        check_parity(opened, reference, artifact, batches=(1, 2, 3, 7))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_comes_before_the_layer_is_in_the_graph_once(tmp_path_factory, name):
    artifact = open_artifact(exported(tmp_path_factory, name))
    graph = onnx.load(artifact.model).graph
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    expected = sum(isinstance(part, nn.Conv2d) for part in NETWORKS[name]().modules())
    assert len(convolutions) == expected
    stages = Counter(node.name.partition("/")[0] for node in graph.node)
    assert set(stages) == {"shape", "preprocess", "backbone", "branches", "tail"}
    # Weights that are used twice are there once, and none is transposed at every run.
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    large = [one.tobytes() for one in weights.values() if one.ndim > 1 and one.any()]
    assert len(large) == len(set(large))
    transposed = [node.input[0] for node in graph.node if node.op_type == "Transpose"]
    assert weights.keys().isdisjoint(transposed)


def test_the_rows_of_classes_and_the_stretching_stay_in_the_tail(tmp_path_factory):
    graph = onnx.load(exported(tmp_path_factory, "class token") / "model.onnx").graph
    stage = {node.op_type: node.name.partition("/")[0] for node in graph.node}
    assert (stage["GatherElements"], stage["ReduceMax"]) == ("tail", "tail")
    products = [node.name for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert {name.partition("/")[0] for name in products} == {"backbone", "branches"}


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions("predicted", 3, "float32", "sigmoid"),
        ExportOptions("all", None, "uint8", "logits", 20),
    ],
    ids=str,
)
def test_other_contracts_are_kept_too(tmp_path, options):
    # Held to PyTorch as it is made.
    manifest = export_artifact(network_of(fully_connected()), tmp_path / "it", options).manifest
    classes = 3 if options.explain == "predicted" else 5
    assert manifest.outputs[2].shape == ("batch", classes, 7, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "target"),
    [("int8", "cpu"), ("int8+fp16", "tensorrt")],  # which have all passes of the others
)
def test_in_lower_precision_maps_are_held_to_the_floor(tmp_path, precision, target):
    backbone = load_backbone(BackboneRequest(f"{__name__}:TwoLinearLayers"))
    artifact = export_artifact(
        build_network(backbone, HeadRequest("cam")), tmp_path / "it", ExportOptions()
    )
    image = artifact.manifest.image
    source = PicturesToChooseFrom(DrawnPictures(HELD_OUT_SEED, 120), "demo-held-out:120", image)
    options = QuantizeOptions(precision=precision, target=target, **QUICK)
    made = quantize_artifact(artifact, source, tmp_path / "small", options)
    assert made.artifact.manifest.fidelity.pearson_5th > 0.98
    model = onnx.load(made.artifact.model)
    copies = [node for node in model.graph.node if node.name.startswith("branches/")]
    assert copies


def test_there_is_nothing_to_train():
    model = {"backbone": f"{__name__}:TwoLinearLayers", "head": "cam"}
    data = {"train": "demo:8", "validation": "demo-held-out:8"}
    with pytest.raises(InputError, match="TwoLinearLayers is ReciproCAM, which has no weights"):
        build_recipe_network(decode_recipe({"model": model, "data": data}))
