"""CAM: the head that a classifier is already."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.backbones import Backbone, BackboneRequest, load_backbone
from tame_deploy.model.cam import find_class_activation
from tame_deploy.model.fused import FusedNetwork
from tame_deploy.model.network import HeadRequest, build_network

SIDE = 32


def backbone_of(module: nn.Module, name: str = "mine") -> Backbone:
    image = ImageSpec(height=SIDE, width=SIDE, resize=SIDE)
    source = WeightsSource("made here", random=True)
    return Backbone(name, module.eval(), image, None, source)


def features() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()]


def pooling(*classifier: nn.Module) -> nn.Module:
    return nn.Sequential(*features(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *classifier)


def pictures(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_of_a_map_is_the_logit(bias):
    network = build_network(backbone_of(pooling(nn.Linear(8, 5, bias=bias))), HeadRequest("cam"))
    with torch.no_grad():
        logits, maps = network(pictures())
    assert network.head.config.variant == "cam"
    assert torch.allclose(maps.mean((2, 3)), logits, atol=1e-5)


def test_dropout_between_pooling_and_classifier_is_none():
    module = pooling(nn.Dropout(0.5), nn.Linear(8, 5))
    assert build_network(backbone_of(module), HeadRequest("cam")).tap.layers == ["3"]


def test_a_convolution_that_classifies_before_the_pooling_is_a_classifier_too():
    tail = [nn.Conv2d(8, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = build_network(backbone_of(nn.Sequential(*features(), *tail)), HeadRequest("cam"))
    with torch.no_grad():
        logits, maps = network(pictures())
    assert torch.allclose(torch.relu(maps).mean((2, 3)), logits, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "mobilenet_v2", "squeezenet1_1", "swin_t"]
)
def test_torchvisions_pooled_classifiers_have_one(name):
    backbone = load_backbone(BackboneRequest(name, "random", image_size=(64, 64), classes=7))
    network = build_network(backbone, HeadRequest("cam"))
    assert network.head.config.classes == 7


def test_folded_it_is_the_same():
    network = build_network(backbone_of(pooling(nn.Linear(8, 5))), HeadRequest("cam"))
    fused = FusedNetwork(network, graph_input="float32", maps="logits")
    asked = torch.tensor([[4, 0], [1, -1]])
    with torch.no_grad():
        _, every = network(pictures())
        _, explained, maps = fused(pictures(), asked)
    expected = every.gather(1, explained[..., None, None].expand(-1, -1, *every.shape[2:]))
    assert torch.allclose(maps, expected, atol=1e-5)


def test_it_is_grad_cam_up_to_a_factor():
    library = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    module = pooling(nn.Linear(8, 5, bias=False))
    network = build_network(backbone_of(module), HeadRequest("cam"))
    chosen = [targets.ClassifierOutputTarget(2)] * 2
    with library.GradCAM(module.requires_grad_(True), [module[3]]) as cam:
        expected = cam(pictures(), chosen)
    with torch.no_grad():
        maps = torch.relu(network(pictures())[1][:, 2])
    resized = nn.functional.interpolate(maps[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
    for found, heat in zip(resized, expected, strict=True):
        assert (
            torch.corrcoef(torch.stack([found.flatten(), torch.tensor(heat).flatten()]))[0, 1]
            > 0.999
        )


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(*features(), nn.Flatten(), nn.Linear(8 * 49, 5)),
        pooling(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)),
        pooling(nn.Linear(8, 5), nn.Tanh()),
    ],
    ids=["fully connected", "two layers", "tanh"],
)
def test_a_network_with_another_tail_has_none(module):
    assert find_class_activation(backbone_of(module)) is None


def test_options_of_branches_are_refused():
    backbone = backbone_of(pooling(nn.Linear(8, 5)))
    with pytest.raises(InputError, match="--variant and --tokens have no meaning"):
        build_network(backbone, HeadRequest("cam", variant="tame"))
    with pytest.raises(InputError, match="found 2 labels for 5 classes"):
        build_network(replace(backbone, labels=("a", "b")), HeadRequest("cam"))


def test_of_one_logit_there_is_a_map_for_and_one_against():
    backbone = replace(backbone_of(pooling(nn.Linear(8, 1))), task="binary")
    network = build_network(backbone, HeadRequest("cam"))
    with torch.no_grad():
        logits, maps = network(pictures())
    assert torch.allclose(maps.mean((2, 3))[:, 1], logits[:, 1], atol=1e-5)
    assert torch.equal(maps[:, 0], -maps[:, 1])


@pytest.mark.parametrize(
    ("end", "task"), [(nn.Softmax(1), "multiclass"), (nn.Sigmoid(), "multilabel")]
)
def test_a_classifier_is_found_before_the_probabilities_that_end_a_network(end, task):
    module = pooling(nn.Linear(8, 5))
    plain = build_network(backbone_of(module), HeadRequest("cam"))
    backbone = replace(backbone_of(nn.Sequential(module, end)), task=task, outputs="probabilities")
    network = build_network(backbone, HeadRequest("cam"))
    with torch.no_grad():
        torch.testing.assert_close(network(pictures())[1], plain(pictures())[1])


class Returning(nn.Module):
    """A network that returns more than its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = pooling(nn.Linear(8, 5))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, int]:
        return self.net(images), 0


def test_logits_are_read_as_of_any_other_head():
    assert build_network(backbone_of(Returning()), HeadRequest("cam")).tap.layers == ["net.3"]


def test_a_network_that_fails_on_its_pictures_is_told_in_one_line():
    module = nn.Sequential(*features(), nn.Flatten(), nn.Linear(7, 5))
    with pytest.raises(InputError, match="the backbone fails on 2 32x32 pictures: mat1 and mat2"):
        build_network(backbone_of(module), HeadRequest("cam"))


def test_a_map_by_cam_is_said_as_one_by_reciprocam_is(caplog):
    with caplog.at_level("INFO", "tame_deploy"):
        build_network(backbone_of(pooling(nn.Linear(8, 5))), HeadRequest("cam"))
    assert "cam of mine is CAM on 3, which adds next to nothing" in caplog.text
