"""A backbone answers the same twice and in company, and its maps lie where things are."""

import logging

import pytest
import torch
import torchvision
from torch import nn

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.features import FeatureTap, probe_layers
from tame_deploy.model.soundness import _agreement, check_sound, measure_locality
from tests.conftest import TinyNet
from tests.unit.model.test_features import narrow_swin, vision_transformer


class Tokens(nn.Module):
    """A transformer of one block, whose tokens come in an order of one's own.

    `mixing` is how much of every token goes into all others.
    """

    def __init__(self, order=None, mixing=0.3, prefix=0):
        super().__init__()
        self.order, self.mixing, self.prefix = order, mixing, prefix
        self.proj = nn.Conv2d(3, 32, 8, stride=8)
        self.block = nn.LayerNorm(32)
        self.head = nn.Linear(32, 4)
        self.places = nn.Parameter(torch.randn(1, 512, 32))

    def forward(self, images):
        tokens = self.proj(images).flatten(2).transpose(1, 2)
        tokens = tokens if self.order is None else tokens[:, self.order]
        tokens = tokens + self.places[:, : tokens.shape[1]]
        tokens = tokens * (1 - self.mixing) + tokens.mean(1, keepdim=True) * self.mixing
        front = tokens.mean(1, keepdim=True).expand(-1, self.prefix, -1)
        return self.head(self.block(torch.cat([front, tokens], 1)).mean(1))


def look_at(net, layers=("block",), size=(64, 64), prefix_tokens=None):
    torch.manual_seed(0)
    image = ImageSpec(*size, min(size))
    tap = FeatureTap(net.eval().requires_grad_(False), layers).eval()
    return tap, probe_layers(tap, torch.zeros(1, 3, *size), prefix_tokens), image


GRID = torch.arange(64).reshape(8, 8)
ORDERS = {
    "columns": GRID.T,
    "mirrored": GRID.flip(1),
    "upside down": GRID.flip(0),
    "turned": GRID.rot90(),
    "windows": GRID.reshape(2, 4, 2, 4).permute(0, 2, 1, 3),
    "z-order": GRID.reshape(2, 2, 2, 2, 2, 2).permute(0, 3, 1, 4, 2, 5),
    "strides": GRID.reshape(4, 2, 4, 2).permute(1, 3, 0, 2),
    "shuffled": torch.randperm(64, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mixing", [0.0, 0.5])
def test_maps_in_another_order_than_the_picture_are_refused(order, mixing):
    with pytest.raises(InputError, match=r"layer block does not lie over the picture: .*order"):
        check_sound(*look_at(Tokens(ORDERS[order].flatten(), mixing)))


def test_a_grid_of_other_proportions_is_refused():
    net = Tokens()
    tap, features, image = look_at(net, size=(32, 128))
    assert (features[0].height, features[0].width) == (4, 16)
    check_sound(tap, features, image)
    wrong = [type(features[0])(**{**vars(features[0]), "height": 8, "width": 8})]
    with pytest.raises(InputError, match="does not lie over the picture"):
        check_sound(tap, wrong, image)


def test_tokens_of_another_place_are_refused():
    tap, features, image = look_at(Tokens(ORDERS["mirrored"].flatten(), prefix=2), prefix_tokens=2)
    assert features[0].prefix_tokens == 2
    with pytest.raises(InputError, match="does not lie over the picture"):
        check_sound(tap, features, image)


class Mixing(nn.Module):
    """Places see the whole picture alike, and none itself more, by random weights."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 32, 8, stride=8)
        self.mix = nn.Linear(64, 64)
        self.block = nn.LayerNorm(32)
        self.head = nn.Linear(32, 4)

    def forward(self, images):
        tokens = self.mix(self.proj(images).flatten(2)).transpose(1, 2)
        return self.head(self.block(tokens).mean(1))


def test_places_that_follow_the_whole_picture_are_warned_of_and_not_refused(caplog):
    with caplog.at_level(logging.WARNING, "tame_deploy"):
        check_sound(*look_at(Mixing()))
    assert "each place of layer block follows the whole picture" in caplog.text


@pytest.mark.parametrize(
    ("build", "layers", "size"),
    [
        (torchvision.models.mobilenet_v3_small, ["features.3", "features.8"], (96, 96)),
        (torchvision.models.shufflenet_v2_x0_5, ["stage2", "stage3", "conv5"], (64, 96)),
        (torchvision.models.squeezenet1_1, ["features.4", "features.12"], (64, 64)),
        (narrow_swin, ["features.1", "features.3", "permute"], (128, 64)),
        (vision_transformer, ["encoder.layers.encoder_layer_11"], (64, 64)),
    ],
)
def test_networks_of_random_weights_pass(build, layers, size):
    torch.manual_seed(0)
    found = measure_locality(*look_at(build(), layers, size))
    assert all(one.score > 0.9 for one in found), found


@pytest.mark.parametrize("mixing", [0.0, 0.9])
def test_position_embeddings_and_global_mixing_pass(mixing):
    assert measure_locality(*look_at(Tokens(mixing=mixing)))[0].score > 0.95


@pytest.mark.parametrize("spoil", [torch.zeros_like, lambda w: torch.full_like(w, torch.nan)])
def test_dead_and_broken_layers_are_left_to_the_other_checks(spoil):
    net = TinyNet()
    net.stages[3].weight.data = spoil(net.stages[3].weight)
    check_sound(*look_at(net, ["stages.3"]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (nn.functional.dropout, "two passes of PyTorch over the same picture differ: logits"),
        (lambda x: x + x.mean(), "answers otherwise when another picture is in the batch: logits"),
        (lambda x: x + 0 * (1 // (len(x) == 1)), "fails on 2 64x64 pictures: integer"),
    ],
)
def test_answers_that_depend_on_chance_or_company_are_refused(changed, message):
    class Changed(TinyNet):
        def forward(self, images):
            return changed(super().forward(images))

    with pytest.raises(InputError, match=message):
        check_sound(*look_at(Changed(), ["stages.3"]))


def test_a_loop_over_the_pictures_is_refused():
    class Loop(TinyNet):
        def forward(self, images):
            return torch.cat([TinyNet.forward(self, one[None]) for one in images])

    with pytest.raises(InputError, match=r"layer stages.3 gives out 1 of 2 pictures: .* loop"):
        check_sound(*look_at(Loop(), ["stages.3"]))


def test_what_draws_all_places_to_one_half_of_the_picture_is_no_scramble():
    one, other = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    left = (torch.arange(8) < 4).float().expand(1, 1, 8, 8)
    joined = 0.3 * (1 - left)  # the first half is felt in the second, too
    assert _agreement([one, other, joined, 1 - joined], 3)[0] == pytest.approx(1)
