"""Layers of any backbone: tapped, described, proposed."""

import pytest
import torch
import torchvision
from torch import nn

from tame_deploy.errors import InputError
from tame_deploy.model.features import (
    FeatureTap,
    as_map,
    list_feature_maps,
    probe_layers,
    propose,
)
from tests.conftest import TinyNet

PICTURE = torch.zeros(1, 3, 64, 64)


def vision_transformer():
    """Return torchvision's, as deep as vit_b_16 and as narrow as can be."""
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=12, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=3,
    ).eval()  # fmt: skip


def test_a_tap_gives_logits_and_layers_in_the_order_asked_for():
    net = TinyNet().eval()
    logits, outputs = FeatureTap(net, ["stages.3", "stages.1"])(PICTURE)
    assert torch.equal(logits, net(PICTURE))
    assert [tuple(o.shape) for o in outputs] == [(1, 5, 4, 4), (1, 6, 16, 16)]
    assert not any(m._forward_hooks for m in net.modules())


def test_graph_nodes_that_are_no_modules():
    net = torchvision.models.resnet18(num_classes=4).eval()
    tap = FeatureTap(net, ["layer3.0.add", "layer4"])
    with torch.no_grad():
        logits, outputs = tap(PICTURE)
        assert torch.allclose(logits, net(PICTURE))
    assert [o.shape[1] for o in outputs] == [256, 512]


def test_the_transformer_node_of_the_paper_is_the_first_norm():
    net = vision_transformer()
    picture = torch.randn(1, 3, 64, 64)
    by_node = FeatureTap(net, ["encoder.layers.encoder_layer_11.ln"])(picture)[1][0]
    by_module = FeatureTap(net, ["encoder.layers.encoder_layer_11.ln_1"])(picture)[1][0]
    assert torch.allclose(by_node, by_module, atol=1e-5)
    features = probe_layers(FeatureTap(net, ["encoder.layers.encoder_layer_11.ln"]), picture)
    assert (features[0].channels, features[0].height) == (16, 4)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["stages.9"], "no layer 'stages.9'. Nearest: stages"),
        (["???"], "See: tame-deploy layers MODEL"),
        (["unused"], "layer unused is not used"),
        (["classifier"], r"gives out \(1, 5\), not a feature map"),
    ],
)
def test_layers_that_cannot_be_tapped(layers, message):
    with pytest.raises(InputError, match=message):
        probe_layers(FeatureTap(TinyNet().eval(), layers), PICTURE)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(3, 4, 3), r"returns \(1, 4, 62, 62\); expected logits"),
        (nn.Linear(5, 5), "fails on a 64x64 picture"),
    ],
)
def test_backbones_that_are_no_classifiers(module, message):
    with pytest.raises(InputError, match=message):
        probe_layers(FeatureTap(nn.Sequential(module), ["0"]), PICTURE)


def test_tokens_become_maps_channels_first():
    tokens = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3)
    dropped = as_map(tokens, "class-token-first", "patch")
    assert dropped.shape == (2, 3, 2, 2)
    assert torch.equal(dropped[0, :, 0, 1], tokens[0, 2])
    times = as_map(tokens, "class-token-first", "patch-times-class")
    assert torch.equal(times[1, :, 1, 0], tokens[1, 3] * tokens[1, 0])
    plain = as_map(tokens[:, :4], "tokens", "patch-times-class")
    assert torch.equal(plain[0, :, 1, 1], tokens[0, 3])
    last = torch.randn(1, 4, 5, 6)
    assert torch.equal(as_map(last, "channels-last", "patch")[0, 2], last[0, ..., 2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["layer2", "layer3", "layer4"]),
        ("mobilenet_v3_small", ["features.3", "features.8", "features.12"]),
        ("swin_t", ["features.3", "features.5", "permute"]),
        ("googlenet", ["inception3b", "inception4e", "inception5b"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*initialization:FutureWarning")
def test_proposals_are_the_last_stages(name, expected):
    arguments = {"init_weights": False} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, weights=None, **arguments).eval()
    candidates = list_feature_maps(net, torch.zeros(1, 3, 224, 224))
    proposed = propose(candidates)
    assert [feature.layer for feature in proposed] == expected
    assert len({feature.height for feature in proposed}) == 3


@pytest.mark.parametrize("size", [(224, 448), (448, 224), (224, 224)])
def test_channels_last_is_told_by_the_pictures_proportions(size):
    net = torchvision.models.SwinTransformer(  # swin_t, but narrower
        patch_size=[4, 4], embed_dim=12, depths=[2, 2, 6, 2], num_heads=[1, 2, 3, 4],
        window_size=[7, 7],
    ).eval()  # fmt: skip
    tap = FeatureTap(net, ["features.3", "features.5", "permute"])
    features = probe_layers(tap, torch.zeros(1, 3, *size))
    assert [feature.channels for feature in features] == [24, 48, 96]
    assert features[0].height * size[1] == features[0].width * size[0]


def test_a_network_without_feature_maps_is_one_line():
    with pytest.raises(InputError, match="no layer of this backbone gives out a feature map"):
        propose(list_feature_maps(nn.Sequential(nn.Flatten(), nn.Linear(12288, 4)), PICTURE))


def test_as_many_channels_as_classes_hide_no_layer():
    candidates = list_feature_maps(TinyNet(5).eval(), PICTURE)
    assert candidates[-1].channels == 5


def test_a_transformer_is_proposed_its_last_blocks():
    proposed = propose(list_feature_maps(vision_transformer(), PICTURE))
    assert [f.layer.rsplit(".", 1)[-1] for f in proposed] == [
        f"encoder_layer_{i}" for i in (9, 10, 11)
    ]
