"""Small architectures of other libraries, from layers to answers equal to PyTorch's.

benchmarks/zoo.py does more, to more and larger ones, in an hour or so.
"""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.layer_proposal import find_layers
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import ParityReference

pytestmark = pytest.mark.slow

#: timm's own small members of families: convolutions, norm-free networks, hybrids, transformers.
TIMM = ("byobnet", "coatnet", "convnext", "efficientnet", "mambaout", "nfnet", "resnet", "vit",
        "vit4")  # fmt: skip
BATCHES = (1, 2, 3, 7)


class Unusual(nn.Module):
    """What foreign networks have, and exporters trip over."""

    def __init__(self) -> None:
        super().__init__()
        self.spectral = parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, 2, 1))
        self.normed = parametrizations.weight_norm(nn.Conv2d(8, 8, 3, 2, 1))
        self.tied = nn.Conv2d(8, 8, 3, 1, 1)
        self.again = nn.Conv2d(8, 8, 3, 1, 1)
        self.again.weight = self.tied.weight
        self.relu = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(8, 5)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        features = self.relu(self.normed(self.relu(self.spectral(images))))
        features = self.relu(self.again(self.relu(self.tied(features))))
        return self.classifier(features.mean((2, 3))), None


class Windows(nn.Module):
    """Attends within windows, which are an axis of their own, as Hiera and Twins do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, 8)
        self.mix = nn.Conv2d(8, 8, 1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.embed(images)  # (B, 8, 4, 4)
        halves = features.flatten(2).mT.unflatten(1, (2, 8)).unflatten(3, (2, 4)).transpose(2, 3)
        attended = nn.functional.scaled_dot_product_attention(halves, halves, halves)
        tokens = attended.transpose(2, 3).flatten(3).flatten(1, 2)
        mixed = self.mix(tokens.mT.unflatten(2, (4, 4)))
        return self.classifier(mixed.mean((2, 3)))


def unusual_in_half() -> nn.Module:
    return Unusual().half()


def exported_and_compared(name: str, folder: Path, size: tuple[int, int] | None = None) -> None:
    """Export a backbone with the layers that are proposed, and hold it to PyTorch."""
    backbone = load_backbone(BackboneRequest(name, "random", image_size=size))
    layers = [feature.layer for feature in find_layers(backbone).proposed]
    network = build_network(backbone, HeadRequest("random"), layers)
    artifact = export_artifact(network, folder / "artifact", ExportOptions())
    reference = ParityReference.load(artifact)
    with open_backend(artifact, "onnxruntime") as backend:
        check_parity(backend, reference, artifact, batches=BATCHES)


@pytest.mark.parametrize("name", TIMM)
def test_timms_families_give_what_pytorch_gives(name, tmp_path):
    pytest.importorskip("timm")
    exported_and_compared(f"timm:test_{name}", tmp_path)


def test_attention_within_windows_gives_what_pytorch_gives(tmp_path):
    exported_and_compared(f"{__name__}:Windows", tmp_path, size=(32, 32))


def test_unusual_modules_in_half_precision_give_what_pytorch_gives(tmp_path):
    exported_and_compared(f"{__name__}:unusual_in_half", tmp_path, size=(32, 32))


def test_a_member_of_the_zoo_leaves_nothing_behind(tmp_path, monkeypatch):
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TAME_DEPLOY_CACHE", "put back after the test")
    tried = runpy.run_path(str(benchmarks / "zoo.py"))["tried"]
    monkeypatch.setitem(tried.__globals__, "stages", lambda *_: [])
    assert tried(None, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
