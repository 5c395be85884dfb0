"""How what a layer gives out lies over the picture."""

import pytest
import torch
import torchvision
from torch import nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.features import FeatureTap, probe_layers
from tame_deploy.model.geometry import has_class_token
from tame_deploy.model.network import HeadRequest, build_network
from tests.unit.model.test_features import narrow_swin


class Transformer(nn.Module):
    """Patches by a convolution or not, tokens in front of them, and a layer that keeps all."""

    def __init__(self, prefix=0, *, patch=16, convolution=True, names=("cls_token", "reg_token")):
        super().__init__()
        self.patch = patch
        if convolution:
            self.proj = nn.Conv2d(3, 8, patch, stride=patch)
        else:
            self.proj = nn.Linear(3 * patch * patch, 8)
        for name, count in zip(names, (min(prefix, 1), prefix - 1), strict=False):
            if count > 0:
                setattr(self, name, nn.Parameter(torch.ones(1, count, 8)))
        self.names = names
        self.block = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        if isinstance(self.proj, nn.Conv2d):
            tokens = self.proj(images).flatten(2).transpose(1, 2)
        else:
            unfolded = nn.functional.unfold(images, self.patch, stride=self.patch)
            tokens = self.proj(unfolded.transpose(1, 2))
        front = [getattr(self, n).expand(len(images), -1, -1) for n in self.names if n in self]
        tokens = self.block(torch.cat([*front, tokens], dim=1))
        return self.head(tokens.mean(1))

    def __contains__(self, name):
        return name in self._parameters


def grid(net, size, prefix_tokens=None, layer="block"):
    tap = FeatureTap(net.eval(), [layer])
    found = probe_layers(tap, torch.zeros(1, 3, *size), prefix_tokens)[0]
    return found.prefix_tokens, found.height, found.width


@pytest.mark.parametrize("convolution", [True, False])
@pytest.mark.parametrize(
    ("size", "prefix", "expected"),
    [
        ((128, 512), 0, (0, 8, 32)),
        ((128, 512), 1, (1, 8, 32)),
        ((32, 32), 5, (5, 2, 2)),
        ((224, 224), 2, (2, 14, 14)),
        ((224, 224), 5, (5, 14, 14)),
        ((48, 32), 4, (4, 3, 2)),
    ],
)
def test_tokens_are_laid_out_as_the_patches_of_the_picture(convolution, size, prefix, expected):
    assert grid(Transformer(prefix, convolution=convolution), size) == expected


@pytest.mark.parametrize("prefix", [1, 5])
def test_tokens_in_front_that_nobody_names_are_counted_by_the_patches(prefix):
    net = Transformer(prefix, names=("mine", "others"))
    assert grid(net, (32, 48)) == (prefix, 2, 3)


def test_patch_size_of_a_module_or_its_configuration_decides():
    net = Transformer(5, patch=48, convolution=False, names=("mine", "others"))
    net.config = type("Config", (), {"patch_size": 48})()
    assert grid(net, (96, 96)) == (5, 2, 2)


def test_two_plausible_layouts_are_named_and_asked_for():
    net = Transformer(5, patch=48, convolution=False, names=("mine", "others"))
    with pytest.raises(
        InputError,
        match="9 tokens, which may be 3x3 patches behind 0 or 2x2 patches behind 5 others; "
        "say which with --prefix-tokens 0 or --prefix-tokens 5",
    ):
        grid(net, (96, 96))
    assert grid(net, (96, 96), 0) == (0, 3, 3)
    assert grid(net, (96, 96), 5) == (5, 2, 2)


def test_a_stated_number_that_leaves_no_grid_is_refused():
    with pytest.raises(InputError, match=r"13 tokens, which no grid .* behind 2 others; say with"):
        grid(Transformer(1), (48, 64), 2)


def test_what_timm_says_of_its_tokens_is_taken():
    net = Transformer(5, convolution=False, patch=48, names=("mine", "others"))
    net.num_prefix_tokens = 5
    assert grid(net, (96, 96)) == (5, 2, 2)


class Wide(nn.Module):
    """A convolution whose map, read the other way around, has the picture's proportions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 1, stride=(1, 2))
        self.relu = nn.ReLU()
        self.block = nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU(inplace=True))
        self.residual = Residual()

    def forward(self, images):
        return self.residual(self.block(self.relu(self.conv(images)))).mean((2, 3))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 1)

    def forward(self, images):
        return images + self.conv(images)


@pytest.mark.parametrize("layer", ["conv", "relu", "block", "residual", "residual.conv"])
def test_convolutions_keep_their_channels_first(layer):
    found = probe_layers(FeatureTap(Wide().eval(), [layer]), torch.zeros(1, 3, 64, 64))[0]
    assert (found.arrangement, found.channels, found.height, found.width) == (
        "channels-first", 64, 64, 32,
    )  # fmt: skip


@pytest.mark.parametrize("size", [(224, 448), (448, 224), (224, 224), (96, 96)])
def test_channels_are_last_where_norms_and_linear_layers_say_so(size):
    layers = ["features.1", "features.3", "features.5", "features.7", "norm", "permute"]
    features = probe_layers(FeatureTap(narrow_swin(), layers), torch.zeros(1, 3, *size))
    assert [feature.channels for feature in features] == [12, 24, 48, 96, 96, 96]
    arrangements = {feature.layer: feature.arrangement for feature in features}
    assert arrangements.pop("permute") == "channels-first"
    assert set(arrangements.values()) == {"channels-last"}
    assert features[0].height * size[1] == features[0].width * size[0]


def test_as_many_channels_as_rows_are_read_as_the_layers_say():
    net = torchvision.models.convnext._convnext(
        [torchvision.models.convnext.CNBlockConfig(24, None, 2)], 0.0, None, False
    ).eval()
    found = probe_layers(FeatureTap(net, ["features.1"]), torch.zeros(1, 3, 96, 96))[0]
    assert found.arrangement == "channels-first"


def test_windows_of_an_attention_are_no_map():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 5)

        def forward(self, images):
            windows = nn.functional.unfold(images, 8, stride=8).reshape(1, 3, 64, -1)
            return self.inner(windows[0].permute(2, 1, 0)).mean((0, 1))[None]

    with pytest.raises(InputError, match=r"gives out \(16, 64, 5\), not a feature map"):
        probe_layers(FeatureTap(Windows().eval(), ["inner"]), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("prefix", "names", "expected"),
    [
        (5, ("cls_token", "reg_token"), True),
        (4, ("register_tokens", "reg_token"), False),
        (5, ("mine", "others"), None),
        (0, (), None),
    ],
)
def test_a_class_token_is_told_from_registers(prefix, names, expected):
    assert has_class_token(Transformer(prefix, names=names)) is expected


def test_a_head_does_not_multiply_by_a_register():
    module = Transformer(4, names=("reg_token", "register_tokens")).eval()
    backbone = Backbone("it", module, ImageSpec(32, 64, 32), None, WeightsSource("test"))
    build_network(backbone, HeadRequest("random", tokens="patch"), ["block"])
    with pytest.raises(InputError, match="the backbone has none: the tokens before its patches"):
        build_network(backbone, HeadRequest("random", tokens="patch-times-class"), ["block"])
