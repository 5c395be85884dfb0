"""Which layers of a backbone are listed, and which are proposed."""

import pytest
import torch
import torchvision
from torch import nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.layer_proposal import find_layers
from tests.conftest import TinyNet
from tests.unit.model.test_features import Returning, narrow_swin, vision_transformer


def found_in(net, side=64, prefix_tokens=None):
    image = ImageSpec(side, side, side)
    net = net.eval().requires_grad_(False)
    return find_layers(Backbone("it", net, image, None, WeightsSource("test"), prefix_tokens))


def proposed(net, side=64):
    return [one.layer for one in found_in(net, side).proposed]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["layer2", "layer3", "layer4"]),
        ("mobilenet_v3_small", ["features.3", "features.8", "features.12"]),
        ("googlenet", ["inception3b", "inception4e", "inception5b"]),
        ("squeezenet1_1", ["features.4", "features.7", "features.12"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*initialization:FutureWarning")
def test_proposals_are_the_last_stages(name, expected):
    arguments = {"init_weights": False} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, weights=None, **arguments)
    found = found_in(net).proposed
    assert [feature.layer for feature in found] == expected
    assert len({feature.height for feature in found}) == 3


def test_the_last_is_what_the_classifier_reads():
    found = found_in(narrow_swin(), 128).proposed
    assert [one.layer for one in found] == ["features.3", "features.5", "permute"]


def test_a_network_without_feature_maps_is_one_line():
    with pytest.raises(InputError, match="no layer of this backbone gives out a feature map"):
        found_in(nn.Sequential(nn.Flatten(), nn.Linear(12288, 4)))


def test_as_many_channels_as_classes_hide_no_layer():
    assert found_in(TinyNet(5)).every[-1].channels == 5


def test_a_transformer_is_proposed_its_last_blocks():
    net = vision_transformer()
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    assert [layer.rsplit(".", 1)[-1] for layer in proposed(net)] == [
        f"encoder_layer_{i}" for i in (9, 10, 11)
    ]


class Blocks(nn.Module):
    """A container of its own, with a stem of several resolutions before it."""

    def __init__(self, container, count=5):
        super().__init__()
        self.stem = nn.Sequential(*(nn.Conv2d(a, 8, 3, 2, 1) for a in (3, 8, 8)))
        self.blocks = container(nn.Conv2d(8, 8, 3, 1, 1) for _ in range(count))
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        features = self.stem(images)
        if isinstance(self.blocks, nn.ModuleList):
            for block in self.blocks:
                features = block(features)
        else:
            features = self.blocks(features)
        return self.head(self.norm(features).mean((2, 3)))


@pytest.mark.parametrize("container", [nn.ModuleList, lambda blocks: nn.Sequential(*blocks)])
def test_blocks_of_one_resolution_are_found_in_any_container(container):
    assert proposed(Blocks(container)) == ["blocks.2", "blocks.3", "blocks.4"]


def test_stages_are_proposed_and_not_the_container_around_them():
    net = nn.Module()
    net.stem = nn.Conv2d(3, 4, 3, 2, 1)
    net.stages = nn.Sequential(*(nn.Conv2d(4, 4, 3, 2, 1) for _ in range(4)))
    net.head = nn.Linear(4, 3)
    net.forward = lambda images: net.head(net.stages(net.stem(images)).mean((2, 3)))
    found = found_in(net)
    assert [one.layer for one in found.proposed] == ["stages.1", "stages.2", "stages.3"]
    assert [one.layer for one in found.every] == ["stem", *(f"stages.{i}" for i in range(4))]


def test_two_stages_are_better_than_the_blocks_of_the_last():
    blocks = [[nn.Conv2d(4, 4, 3, 1, 1) for _ in range(3)] for _ in range(2)]
    net = nn.Sequential(
        *(nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(c, 4, 3, 1, 1), *rest)
          for c, rest in zip((3, 4), blocks, strict=True)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    assert proposed(net) == ["0", "1"]


class Tuples(nn.Module):
    """Stages that give out tuples."""

    def __init__(self):
        super().__init__()
        self.net = TinyNet()
        self.stages = nn.ModuleList(Returning(tuple) for _ in range(4))

    def forward(self, images):
        for own, stage in zip(self.net.stages, self.stages, strict=True):
            images = stage(own(images))[0]
        return images.mean((2, 3))


def test_stages_that_give_out_tuples_are_listed():
    assert "stages.2" in [one.layer for one in found_in(Tuples()).every]


def test_a_wrapped_model_is_listed_by_its_own_names():
    assert proposed(nn.DataParallel(TinyNet())) == ["stages.1", "stages.2", "stages.3"]


class Scrambled(nn.Module):
    """A transformer that keeps its tokens column by column, as windowed ones do in their way."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 16, 16, stride=16)
        self.blocks = nn.Sequential(*(nn.LayerNorm(16) for _ in range(3)))
        self.head = nn.Linear(16, 4)

    def forward(self, images):
        return self.head(
            self.blocks(self.proj(images).flatten(2).transpose(1, 2)[:, ORDER]).mean(1)
        )


ORDER = torch.arange(16).reshape(4, 4).T.flatten()


def test_layers_in_another_order_than_the_picture_are_not_proposed():
    found = found_in(Scrambled())
    assert found.scrambled == found.main
    assert found.proposed == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_tiny_patch16_224", [f"blocks.{i}" for i in (9, 10, 11)]),
        ("test_convnext3", ["stages.1", "stages.2", "stages.3"]),
    ],
)
def test_timms_models_are_proposed_blocks_or_stages(name, expected):
    timm = pytest.importorskip("timm")
    small = {"img_size": 64, "embed_dim": 12, "num_heads": 2} if name.startswith("vit") else {}
    assert proposed(timm.create_model(name, **small)) == expected


def test_registers_of_dinov2_are_taken_from_the_model():
    timm = pytest.importorskip("timm")
    net = timm.create_model(
        "vit_small_patch14_reg4_dinov2", img_size=56, embed_dim=12, num_heads=2, num_classes=3
    )
    found = found_in(net, 56)
    assert [one.layer for one in found.proposed] == [f"blocks.{i}" for i in (9, 10, 11)]
    assert (found.proposed[0].prefix_tokens, found.proposed[0].height) == (5, 4)


def test_transformers_models_are_proposed_their_last_layers():
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=12, num_attention_heads=2, mlp_ratio=2, num_hidden_layers=4, image_size=56
    )
    net = transformers.Dinov2WithRegistersForImageClassification(config)
    found = found_in(net, 64)
    assert [one.layer.rpartition("encoder.")[2] for one in found.proposed] == [
        "layer.1", "layer.2", "layer.3",
    ]  # fmt: skip
    assert (found.proposed[0].prefix_tokens, found.proposed[0].height) == (5, 4)


def test_a_network_inside_a_wrapper_of_ones_own_has_its_stages():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = TinyNet()

        def forward(self, images):
            return self.net(images)

    inside = proposed(Wrapper())
    assert inside == [f"net.{layer}" for layer in proposed(TinyNet())]
    assert len(inside) == 3
