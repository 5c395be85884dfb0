"""A head starts where CAM ends: exactly where it can, and fitted to it elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tame_deploy.errors import InputError
from tame_deploy.model.head_start import cam_network, start_from_cam
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network
from tests.unit.model.test_cam import backbone_of, pictures

LAYERS = ("1", "3")


def pooled(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *[nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), activation],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)],
    )


def started(module: nn.Module, layers: tuple[str, ...] = LAYERS, **head: object) -> tuple:
    network = build_network(backbone_of(module), HeadRequest("random", **head), layers)
    cam = cam_network(network)
    return network, cam, start_from_cam(network, cam, pictures(16))


def maps_of(network: ExplainedNetwork, size: tuple[int, int]) -> torch.Tensor:
    with torch.no_grad():
        maps = network(pictures(3))[1]
    return nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("width", [None, "1/2", 1])
def test_the_untrained_head_is_cam(width):
    network, cam, start = started(pooled(nn.ReLU()), width=width)
    assert start.exact
    size = (15, 15)  # the head's maps are of its first layer's size
    assert torch.allclose(maps_of(network, size), maps_of(cam, size), atol=1e-5)


def test_a_narrow_head_is_cam_where_features_are_negative():
    network, cam, start = started(pooled(nn.Identity()), ("1", "2"), width="1/2")
    assert start.exact
    assert torch.allclose(maps_of(network, (15, 15)), maps_of(cam, (15, 15)), atol=1e-5)


def test_a_full_head_is_fitted_where_its_activation_would_cut_features_off():
    _, _, start = started(pooled(nn.Identity()), ("1", "2"))
    assert not start.exact
    assert "fitted to those of --head cam" in str(start)
    assert start.correlation > 0.3


def test_a_head_on_another_layer_than_the_pooled_one_is_fitted():
    _, _, start = started(pooled(nn.Hardtanh(0, 2)), ("1", "2"), width="1/2")
    assert not start.exact
    assert start.correlation > 0.8


def test_training_can_leave_the_start():
    for width in (None, "1/2"):
        network, _, _ = started(pooled(nn.ReLU()), width=width)
        head = network.head.requires_grad_(True).train()
        features = [torch.rand(4, 6, 15, 15), torch.rand(4, 8, 7, 7)]
        head.class_maps(features, torch.tensor([1, 2])).square().mean().backward()
        moved = [name for name, p in head.named_parameters() if bool(p.grad.abs().max() > 0)]
        # The rest follows once these have moved.
        assert "fuser.weight" in moved
        assert width is not None or "bns.1.weight" in moved


def test_a_head_without_a_skip_connection_cannot_start_from_cam():
    with pytest.raises(InputError, match="no skip connection, so it cannot start from CAM"):
        started(pooled(nn.ReLU()), variant="no-skip-no-batchnorm")
