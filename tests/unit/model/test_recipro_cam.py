"""ReciproCAM: what the rest of any network scores for masked copies of one layer's output."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tame_deploy.artifact.contrast import encode_contrast
from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import HeadConfig, ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.backbones import Backbone, BackboneRequest, load_backbone
from tame_deploy.model.fused import FusedNetwork
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.model.outputs import read_layer, replace_layer

SIDE, CHANNELS, CLASSES = 32, 8, 5
GAUSSIAN = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16


def backbone_of(module: nn.Module, name: str = "mine") -> Backbone:
    image = ImageSpec(height=SIDE, width=SIDE, resize=SIDE)
    return Backbone(name, module.eval(), image, None, WeightsSource("made here", random=True))


def network_of(module: nn.Module, layers: list[str] | None = None):
    return build_network(backbone_of(module), HeadRequest("cam"), layers)


def stem() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, CHANNELS, 3, stride=2), nn.ReLU()
    )  # (B, 8, 7, 7)


def fully_connected() -> nn.Module:
    """As VGG and AlexNet end."""
    tail = [nn.Linear(CHANNELS * 9, 16), nn.ReLU(), nn.Linear(16, CLASSES)]
    return nn.Sequential(stem(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), *tail)


def norm_after_pooling() -> nn.Module:
    """As ConvNeXt ends."""
    return nn.Sequential(
        stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, CLASSES)
    )


def two_linear_layers() -> nn.Module:
    """As MobileNetV3 ends."""
    tail = [nn.Linear(CHANNELS, 16), nn.Hardswish(), nn.Linear(16, CLASSES)]
    return nn.Sequential(stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *tail)


class Transformer(nn.Module):
    """Patches of 4 pixels behind some tokens, two blocks; a class token answers, or the mean."""

    def __init__(self, *, prefix: int = 1, mean: bool = False, placed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_prefix_tokens, self.mean = prefix, mean
        self.patches = nn.Conv2d(3, CHANNELS, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, prefix, CHANNELS))
        self.places = nn.Parameter(torch.randn(1, 64, CHANNELS))
        # In the last block again, if it is to know where its tokens are.
        self.again = nn.Parameter(torch.randn(1, 64 + prefix, CHANNELS)) if placed else None
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(CHANNELS)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).mT + self.places
        tokens = torch.cat([self.tokens.expand(images.shape[0], -1, -1), patches], dim=1)
        for number, block in enumerate(self.blocks):
            if number == 2 and self.again is not None:
                tokens = tokens + self.again
            tokens = block(tokens)
        if self.mean:
            return self.head(self.norm(tokens[:, self.num_prefix_tokens :].mean(1)))
        return self.head(self.norm(tokens)[:, 0])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS)
        self.mix = nn.Linear(CHANNELS, 3 * CHANNELS)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.mix(self.norm(tokens)).chunk(3, dim=-1)
        return tokens + functional.scaled_dot_product_attention(query, key, value)


class GoesAround(nn.Module):
    """The mean colour of the picture goes to the classifier beside the features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.classifier = stem(), nn.Linear(CHANNELS + 3, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.cat([self.stem(images).mean((2, 3)), images.mean((2, 3)) * 10], dim=1)
        return self.classifier(seen)


def pictures(count: int = 2) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def at_places(height: int, width: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(height) for column in range(width)]


@pytest.mark.parametrize("tail", [fully_connected, norm_after_pooling, two_linear_layers])
@torch.no_grad()
def test_a_map_is_what_the_rest_scores_for_each_place_and_its_neighbours(tail):
    module = tail()
    network = network_of(module)
    logits, maps = network(pictures())
    assert network.head.config.variant == "recipro-cam"
    assert network.tap.layers == ["0.3"]
    assert torch.equal(logits, module(pictures()))
    features, rest = module[0](pictures()), module[1:]
    for row, column in at_places(7, 7):
        mask = torch.zeros(9, 9)
        mask[row : row + 3, column : column + 3] = GAUSSIAN
        expected = rest(features * mask[1:-1, 1:-1])
        torch.testing.assert_close(maps[:, :, row, column], expected)


@torch.no_grad()
def test_before_a_linear_end_it_is_the_class_activation_map_smoothed():
    classifier = nn.Linear(CHANNELS, CLASSES, bias=False)
    cam = network_of(nn.Sequential(stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier))
    # The same function, spelled as no linear end: what is above zero less what is below.
    split, joined = nn.Linear(CHANNELS, 16, bias=False), nn.Linear(16, CLASSES, bias=False)
    split.weight.copy_(torch.cat([torch.eye(CHANNELS), -torch.eye(CHANNELS)]))
    joined.weight.copy_(torch.cat([classifier.weight, -classifier.weight], dim=1))
    tail = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), split, nn.ReLU(), joined)
    found = network_of(nn.Sequential(stem(), *tail))(pictures())[1]
    exact = cam(pictures())[1]
    smooth = functional.conv2d(exact.flatten(0, 1)[:, None], GAUSSIAN[None, None], padding=1)
    torch.testing.assert_close(found, smooth.reshape(exact.shape) / 49)


@pytest.mark.parametrize("prefix", [1, 3])
@torch.no_grad()
def test_of_a_class_token_the_last_block_sees_a_window_and_what_is_before_the_patches(prefix):
    module = Transformer(prefix=prefix)
    network = network_of(module)
    maps = network(pictures())[1]
    assert network.tap.layers == ["blocks.1"]
    assert network.head.copies.windows
    tokens = network.look(pictures())[1][0]
    patches = tokens[:, prefix:].unflatten(1, (8, 8))
    around = nn.ReplicationPad2d(1)(patches.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    for row, column in at_places(8, 8):
        window = around[:, row : row + 3, column : column + 3].flatten(1, 2)
        copy = torch.cat([tokens[:, :prefix], window], dim=1)
        expected = module.head(module.norm(module.blocks[2](copy))[:, 0])
        torch.testing.assert_close(maps[:, :, row, column], expected)


@pytest.mark.parametrize("prefix", [0, 2])
@torch.no_grad()
def test_patches_that_are_averaged_are_masked_behind_the_last_block(prefix):
    module = Transformer(prefix=prefix, mean=True)
    network = network_of(module)
    assert network.tap.layers == ["blocks.2"]
    first = network.look(pictures())[1][0][:, prefix:].unflatten(1, (8, 8))[:, 3:6, 2:5]
    expected = module.head(module.norm(first.flatten(1, 2).mean(1)))
    torch.testing.assert_close(network(pictures())[1][:, :, 4, 3], expected)


@torch.no_grad()
def test_where_the_rest_knows_places_the_other_patches_are_masked():
    module = Transformer(placed=True)
    network = network_of(module)
    assert network.tap.layers == ["blocks.1"]
    assert not network.head.copies.windows
    maps = network(pictures())[1]
    mask = torch.zeros(8, 8)
    mask[3:6, 2:5] = GAUSSIAN
    weights = torch.cat([torch.ones(1), mask.flatten()])[:, None]
    copy = network.look(pictures())[1][0] * weights + module.again
    expected = module.head(module.norm(module.blocks[2](copy))[:, 0])
    torch.testing.assert_close(maps[:, :, 4, 3], expected)


@pytest.mark.parametrize("build", [fully_connected, Transformer])
@torch.no_grad()
def test_the_fused_network_gives_the_same_maps(build):
    network = network_of(build())
    fused = FusedNetwork(network, graph_input="float32", maps="logits")
    every = network(pictures())[1]
    _, explained, maps = fused(pictures(), torch.tensor([[4, 0], [1, -1]]))
    expected = every.gather(1, explained[..., None, None].expand(-1, -1, *every.shape[2:]))
    torch.testing.assert_close(maps, expected)
    outputs = network.look(pictures())[1]
    torch.testing.assert_close(network.head.class_maps(outputs, explained), expected)
    fused = FusedNetwork(network, explain="all", graph_input="float32", maps="logits")
    torch.testing.assert_close(fused(pictures())[2], every)


@torch.no_grad()
def test_the_network_itself_is_left_as_it_was():
    module = fully_connected()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    network_of(module)(pictures())
    assert not any(part._forward_hooks for part in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@torch.no_grad()
def test_an_untrained_classifier_of_zeros_hides_no_layer():
    module = Transformer()
    nn.init.zeros_(module.head.weight)
    assert network_of(module).tap.layers == ["blocks.1"]
    assert not module.head.weight.any()


def test_a_network_with_something_around_every_layer_is_told_which():
    with pytest.raises(InputError, match=r"of mine, layer stem.3 is gone around.*Train a"):
        network_of(GoesAround())


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        ("blocks.2", "layer blocks.2 has places that the answer does not depend on. Leave"),
        ("blocks.1.mix", "layer blocks.1.mix is gone around by a part of the answer. Leave"),
        ("nowhere", "the backbone has no layer 'nowhere'"),
    ],
)
def test_a_layer_that_cannot_be_masked_is_refused_with_the_reason(layer, found):
    with pytest.raises(InputError, match=found):
        network_of(Transformer(), [layer])


def test_another_layer_may_be_named_if_its_copies_are_not_too_dear():
    assert network_of(Transformer(), ["blocks.0"]).tap.layers == ["blocks.0"]
    with pytest.raises(InputError, match=r"layer 0.1 has 225 masked copies, which cost \d+ passes"):
        network_of(fully_connected(), ["0.1"])


def test_a_layer_before_a_linear_end_may_be_named_too():
    module = nn.Sequential(*stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    assert network_of(module).head.config.variant == "cam"
    named = network_of(module, ["2"])
    assert (named.tap.layers, named.head.config.variant) == (["2"], "recipro-cam")


def test_more_places_than_can_be_copied_are_refused():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 60 * 60, 4), nn.Tanh()
    )
    image = ImageSpec(height=60, width=60, resize=60)
    backbone = replace(backbone_of(module), image=image)
    with pytest.raises(InputError, match="layer 0 has 60x60 places; expected at most 3136"):
        build_network(backbone, HeadRequest("cam"))


@torch.no_grad()
def test_of_one_logit_there_is_a_map_for_and_one_against():
    module = fully_connected()
    module[-1] = nn.Linear(16, 1)
    backbone = replace(backbone_of(module), task="binary")
    maps = build_network(backbone, HeadRequest("cam"))(pictures())[1]
    assert maps.shape[1] == 2
    assert torch.equal(maps[:, 0], -maps[:, 1])
    features = module[0](pictures())
    mask = torch.zeros(7, 7)
    mask[3:6, 2:5] = GAUSSIAN
    torch.testing.assert_close(maps[:, 1, 4, 3], module[1:](features * mask)[:, 0])


@pytest.mark.parametrize(
    ("end", "task"), [(nn.Sigmoid(), "multilabel"), (nn.Softmax(1), "multiclass")]
)
@torch.no_grad()
def test_probabilities_become_logits_of_the_copies_too(end, task):
    module = fully_connected()
    expected = network_of(module)(pictures())[1]
    backbone = replace(backbone_of(nn.Sequential(module, end)), task=task, outputs="probabilities")
    maps = build_network(backbone, HeadRequest("cam"))(pictures())[1]
    if task == "multiclass":  # what a softmax takes off all classes is lost
        expected = expected.log_softmax(1)
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4)


def test_torchvisions_own_are_masked_where_their_papers_say():
    layers = {"vgg11": "features.20", "mobilenet_v3_small": "features.12"}
    layers |= {"convnext_tiny": "features.7", "vit_b_16": "encoder.layers.encoder_layer_10"}
    for name, layer in layers.items():
        backbone = load_backbone(BackboneRequest(name, "random", image_size=(64, 64), classes=7))
        network = build_network(backbone, HeadRequest("cam"))
        assert network.tap.layers == [layer], name
        assert network.head.config.classes == 7


def test_what_it_costs_is_said(caplog):
    caplog.set_level("INFO", logger="tame_deploy")
    network_of(fully_connected())
    # 49 copies through 72 x 16 + 16 x 5; alone 3 x 6 x 9 x 15 x 15 + 6 x 8 x 9 x 7 x 7 before.
    share = 49 * 1232 / (36450 + 21168 + 1232)
    assert f"49 masked copies go through what follows it, which adds {share:.2g}" in caplog.text


class Named(NamedTuple):
    hidden: Tensor
    other: int


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2),
        (torch.zeros(2), 1),
        [None, torch.zeros(2), torch.zeros(3)],
        {"a": 1, "b": torch.zeros(2)},
        (1, (torch.zeros(2), torch.zeros(3))),
        Named(torch.zeros(2), 1),
    ],
    ids=["tensor", "tuple", "list", "mapping", "nested", "named tuple"],
)
def test_of_what_a_layer_gives_out_the_tensor_that_is_read_is_replaced(output):
    other = torch.ones(2)
    replaced = replace_layer(output, other)
    assert type(replaced) is type(output)
    assert read_layer(replaced) is other
    assert read_layer(output) is not other


def test_several_layers_and_switches_of_branches_are_refused():
    with pytest.raises(InputError, match="--head cam reads one layer; found 0, 1"):
        network_of(fully_connected(), ["0", "1"])
    with pytest.raises(InputError, match="ReciproCAM reads one layer; found 2"):
        HeadConfig((3, 4), 5, batch_norm=False, skip=False, branch="recipro-cam")
    with pytest.raises(InputError, match="has channels width, no batch norm and no skip"):
        HeadConfig((3,), 5, branch="recipro-cam")


def test_one_class_and_not_another_is_the_difference_of_their_scores():
    fused = FusedNetwork(
        network_of(fully_connected()), ranks=1, graph_input="float32", maps="logits"
    )
    pictures = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    questions = torch.from_numpy(encode_contrast(np.array([[2], [4]]), 1, CLASSES))
    with torch.no_grad():
        found = fused(pictures, questions)[2]
        own, other = (
            fused(pictures, torch.tensor(classes))[2] for classes in ([[2], [4]], [[1], [1]])
        )
    assert torch.allclose(found, own - other, atol=1e-6)
    assert float(found.abs().max()) > 0
