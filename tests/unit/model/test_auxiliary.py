"""P-TAME: the head reads an auxiliary network, and the classifier gives its logits alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.evaluation.baselines import _target
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.features import FeatureTap
from tame_deploy.model.head_checkpoint import HeadCheckpoint, read_head, write_head
from tame_deploy.model.head_start import cam_network, start_from_cam
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network
from tests.conftest import TinyNet

SIDE = 64
SMALL, OTHER = "tests.unit.model.test_auxiliary:small", "tests.unit.model.test_auxiliary:other"
LAYERS = ("stages.1", "stages.2")


class Opaque(nn.Module):
    """A classifier whose layers are no modules, and which torch.fx cannot trace."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.kernel = nn.Parameter(torch.randn(8, channels, 4, 4, generator=generator))
        self.rows = nn.Parameter(torch.randn(8, 5, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] < 4:  # which stops torch.fx
            raise ValueError("too small")
        return torch.relu(functional.conv2d(images, self.kernel, stride=4)).mean((2, 3)) @ self.rows


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return TinyNet()


def other() -> nn.Module:
    return small(1)


def backbone_of(module: nn.Module, channels: int = 3) -> Backbone:
    spread = tuple(0.3 + 0.1 * channel for channel in range(channels))
    image = ImageSpec(height=SIDE, width=SIDE, resize=SIDE, mean=spread, std=spread)
    return Backbone("opaque", module.eval(), image, None, WeightsSource("made here"))


def network_with(
    request: HeadRequest | None = None,
    module: nn.Module | None = None,
    layers: tuple[str, ...] | None = LAYERS,
    channels: int = 3,
) -> ExplainedNetwork:
    request = request or HeadRequest("random", auxiliary=SMALL)
    return build_network(backbone_of(module or Opaque(channels), channels), request, layers)


def head_file(network: ExplainedNetwork, folder: Path) -> str:
    assert network.auxiliary is not None
    identity = network.auxiliary.identity
    checkpoint = HeadCheckpoint(network.attention_head, "opaque", LAYERS, auxiliary=identity)
    return str(write_head(checkpoint, folder / "head.safetensors"))


def test_a_classifier_that_cannot_be_tapped_needs_an_auxiliary_network():
    with pytest.raises(InputError, match="has no layer"):
        network_with(HeadRequest("random"))
    assert network_with().head.config.channels == (6, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_networks_see_the_picture_as_they_are_used_to(channels):
    network = network_with(channels=channels)
    shares = torch.rand(2, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    image = network.backbone.image
    mean, std = (torch.tensor(some).view(1, -1, 1, 1) for some in (image.mean, image.std))
    images = (shares - mean) / std
    imagenet = ImageSpec()
    mean, std = (torch.tensor(some).view(1, -1, 1, 1) for some in (imagenet.mean, imagenet.std))
    with torch.no_grad():
        logits, outputs = network.tap(images)
        _, expected = FeatureTap(small().eval(), LAYERS)(
            (shares.expand(-1, 3, -1, -1) - mean) / std
        )
        assert torch.equal(logits, network.backbone.module(images))
    for found, right in zip(outputs, expected, strict=True):
        assert torch.allclose(found, right, atol=1e-5)


def test_pictures_of_two_channels_are_refused():
    with pytest.raises(InputError, match="takes pictures of 2 channels, and the auxiliary network"):
        network_with(channels=2)


def test_resnet18_has_its_layers_of_the_paper():
    request = HeadRequest("random", auxiliary="resnet18", auxiliary_weights="random")
    network = network_with(request, layers=None)
    assert network.head.config.channels == (64, 128, 256, 512)
    assert network.auxiliary.source.random
    assert network.speed_only
    with pytest.raises(InputError, match="no published choice of layers"):
        network_with(layers=None)


def test_a_heads_file_says_which_auxiliary_network_it_reads(tmp_path):
    network = network_with()
    path = head_file(network, tmp_path)
    assert read_head(path).auxiliary == network.auxiliary.identity
    again = network_with(HeadRequest(path), layers=None)
    assert again.auxiliary.identity == network.auxiliary.identity
    images = torch.randn(1, 3, SIDE, SIDE)
    assert torch.equal(again(images)[1], network(images)[1])


def test_another_auxiliary_network_than_the_heads_is_refused(tmp_path):
    network = network_with()
    path = head_file(network, tmp_path)
    with pytest.raises(InputError, match="not tests.unit.model.test_auxiliary:other"):
        network_with(HeadRequest(path, auxiliary=OTHER))
    torch.save(other().state_dict(), tmp_path / "other.pt")
    wrong = HeadRequest(path, auxiliary_weights=str(tmp_path / "other.pt"))
    with pytest.raises(InputError, match="other.pt.*the head was trained on.*--auxiliary-weights"):
        network_with(wrong)


def test_weights_of_the_auxiliary_network_are_read_from_a_file(tmp_path):
    torch.save(other().state_dict(), tmp_path / "other.pt")
    request = HeadRequest("random", auxiliary=SMALL, auxiliary_weights=str(tmp_path / "other.pt"))
    expected = network_with(HeadRequest("random", auxiliary=OTHER))
    assert network_with(request).auxiliary.sha256 == expected.auxiliary.sha256


def test_a_head_of_the_classifiers_own_layers_takes_no_auxiliary_network(tmp_path):
    own = network_with(HeadRequest("random"), small())
    checkpoint = HeadCheckpoint(own.attention_head, "opaque", LAYERS)
    path = write_head(checkpoint, tmp_path / "head.safetensors")
    with pytest.raises(InputError, match="leave --auxiliary out"):
        network_with(HeadRequest(str(path), auxiliary=SMALL), small())


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (HeadRequest("cam", auxiliary=SMALL), "leave --auxiliary out"),
        (HeadRequest("random", auxiliary_weights="random"), "no meaning without --auxiliary"),
    ],
)
def test_options_that_do_nothing_are_refused(request_, words):
    with pytest.raises(InputError, match=words):
        network_with(request_)


def test_a_head_is_fitted_to_cam_also_where_a_layer_of_the_classifier_has_the_same_name():
    torch.manual_seed(0)
    stages = [nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 12, 3, stride=2), nn.ReLU()]
    module = nn.Sequential()
    module.stages = nn.Sequential(*stages)
    module.pool, module.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    module.classifier = nn.Linear(12, 5)
    network = network_with(module=module, layers=("stages.2", "stages.3"))
    cam = cam_network(network)
    assert cam.features[-1].layer == network.features[-1].layer
    start = start_from_cam(network, cam, torch.randn(16, 3, SIDE, SIDE))
    assert not start.exact


class Tokens(nn.Conv2d):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).flatten(2).transpose(1, 2)


class Turned(nn.Module):
    """A classifier whose layer is called as one of the auxiliary network, and gives out tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Identity(), nn.Identity(), Tokens(3, 5, 4, 4)])

    def forward(self, images: Tensor) -> Tensor:
        return self.stages[2](images).mean(1)


def test_cams_are_told_to_look_at_the_classifier():
    network = network_with(module=Turned())
    with pytest.raises(InputError, match="auxiliary network .*--cam-layer"):
        _target(network, None)
    module, transform = _target(network, "stages.2")
    assert module is network.backbone.module.stages[2]
    assert transform is not None
    assert transform(torch.zeros(1, 256, 5)).shape == (1, 5, 16, 16)


def test_a_size_that_the_auxiliary_network_does_not_take_is_its_own_fault():
    backbone = backbone_of(Opaque())
    image = replace(backbone.image, height=8, width=8)
    request = HeadRequest("random", auxiliary="alexnet", auxiliary_weights="random")
    with pytest.raises(InputError, match="the auxiliary network alexnet: the backbone fails on"):
        build_network(replace(backbone, image=image), request, ("features.0",))
