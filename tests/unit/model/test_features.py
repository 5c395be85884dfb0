"""Layers of any backbone, tapped; and what they give out, as maps."""

from collections import namedtuple

import pytest
import torch
import torchvision
from torch import nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.features import FeatureTap, as_map, probe_layers
from tame_deploy.model.geometry import FeatureMap
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.model.outputs import read_logits
from tests.conftest import TinyNet

PICTURE = torch.zeros(1, 3, 64, 64)


def vision_transformer():
    """Return torchvision's, as deep as vit_b_16 and as narrow as can be."""
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=12, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=3,
    ).eval()  # fmt: skip


def narrow_swin():
    """Return torchvision's swin_t, but shallower and narrower."""
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=12, depths=[2, 2, 2, 2], num_heads=[1, 2, 3, 4],
        window_size=[7, 7],
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


class WithAuxiliary(nn.Module):
    """Its auxiliary head is computed last, behind a sum that is no module."""

    def __init__(self, returned):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.classifier, self.auxiliary = nn.Linear(4, 5), nn.Linear(4, 5)
        self.returned = returned

    def forward(self, images):
        features = torch.add(self.first(images), self.second(images)).mean((2, 3))
        return self.returned(self.classifier(features), self.auxiliary(features))


@pytest.mark.parametrize(
    "returned",
    [
        lambda logits, other: (logits, other),
        lambda logits, other: {"auxiliary": other, "logits": logits},
        lambda logits, other: namedtuple("Output", ["other", "logits"])(other, logits),
        lambda logits, other: logits + 0 * other,
    ],
    ids=["tuple", "mapping", "named tuple", "tensor"],
)
def test_beside_graph_nodes_the_logits_are_those_that_the_network_returns(returned):
    net = WithAuxiliary(returned).eval()
    logits, (layer,) = FeatureTap(net, ["add"])(PICTURE)
    assert torch.equal(logits, read_logits(net(PICTURE)))
    assert torch.equal(net.classifier(layer.mean((2, 3))), logits)


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


def feature(arrangement, prefix_tokens=0, height=2, width=2):
    return FeatureMap(
        layer="it", arrangement=arrangement, channels=3, height=height, width=width,
        prefix_tokens=prefix_tokens,
    )  # fmt: skip


def test_tokens_become_maps_channels_first():
    tokens = torch.arange(2 * 6 * 3.0).reshape(2, 6, 3)
    dropped = as_map(tokens, feature("tokens", 2), "patch")
    assert dropped.shape == (2, 3, 2, 2)
    assert torch.equal(dropped[0, :, 0, 1], tokens[0, 3])
    times = as_map(tokens, feature("tokens", 2), "patch-times-class")
    assert torch.equal(times[1, :, 1, 0], tokens[1, 4] * tokens[1, 0])
    plain = as_map(tokens[:, :4], feature("tokens"), "patch-times-class")
    assert torch.equal(plain[0, :, 1, 1], tokens[0, 3])
    wide = as_map(tokens, feature("tokens", height=2, width=3), "patch")
    assert torch.equal(wide[0, :, 1, 0], tokens[0, 3])
    last = torch.randn(1, 4, 5, 6)
    assert torch.equal(as_map(last, feature("channels-last"), "patch")[0, 2], last[0, ..., 2])


class Nested(nn.Module):
    """Its stage gives out a tuple, and its neck a mapping of tuples, as transformers' do."""

    def __init__(self):
        super().__init__()
        self.net = TinyNet()
        self.stage, self.neck = Returning(tuple), Returning(lambda x: {"maps": (x[0], None)})

    def forward(self, images):
        features = self.neck(self.stage(self.net.stages[0](images)))["maps"][0]
        return features.mean((2, 3))


class Returning(nn.Module):
    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped

    def forward(self, images):
        return self.wrapped((images[0] if isinstance(images, tuple) else images, None))


def test_of_a_tuple_or_mapping_the_first_tensor_is_the_layer():
    tap = FeatureTap(Nested().eval(), ["stage", "neck"])
    assert [str(one) for one in probe_layers(tap, PICTURE)] == [
        f"{layer} (4 channels, 32x32)" for layer in ("stage", "neck")
    ]


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.compile, lambda net: nn.DataParallel(torch.compile(net))]
)
def test_layers_of_wrapped_models_have_their_own_names(wrap):
    tap = FeatureTap(wrap(TinyNet().eval()), ["stages.3"])
    assert probe_layers(tap, PICTURE)[0].channels == 5


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_torchscript_is_refused_by_name():
    with pytest.raises(InputError, match="the backbone is TorchScript, .* Python model"):
        FeatureTap(torch.jit.trace(TinyNet().eval(), PICTURE), ["stages.3"])


class Odd(nn.Module):
    """A network whose answer is of another kind than float32, or which takes one picture alone."""

    def __init__(self, answer):
        super().__init__()
        self.conv, self.head, self.answer = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, 5), answer

    def forward(self, images):
        if self.answer == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                return self.head(self.conv(images).mean((2, 3))).float()
        if self.answer == "one":
            return self.head(self.conv(images.view(1, 3, 16, 16)).mean((2, 3)))
        return self.head(self.conv(images).mean((2, 3))).argmax(1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("class", "the backbone gives out int64; expected float32: return logits and not the cl"),
        ("autocast", "layer conv gives out bfloat16; expected float32: .* take autocast out of"),
        ("one", "the backbone fails on 4 16x16 pictures: shape"),
    ],
)
def test_answers_that_are_no_logits_of_a_batch_are_one_line(answer, message):
    image = ImageSpec(16, 16, 16)
    backbone = Backbone("odd", Odd(answer).eval(), image, None, WeightsSource("test"))
    with pytest.raises(InputError, match=message):
        build_network(backbone, HeadRequest("random"), ["conv"])


def test_channels_are_not_blamed_for_a_size():
    """The first convolution takes what was made of the picture, which has channels of its own."""
    layers = [nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3), nn.Flatten(), nn.Linear(9, 5)]
    module = nn.Sequential(*layers).eval()
    backbone = Backbone("odd", module, ImageSpec(16, 16, 16), None, WeightsSource("test"))
    with pytest.raises(InputError, match="the backbone fails on a 16x16 picture: mat1 and mat2"):
        build_network(backbone, HeadRequest("random"), ["1"])
    assert not module[1]._forward_pre_hooks
