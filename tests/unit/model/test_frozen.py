"""A frozen copy gives the same answers and gradients, and keeps less for the way back."""

import pytest
import torch
import torchvision
from torch import nn

from tame_deploy.model.frozen import frozen_copy


def network(affine=True):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=affine), nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.ReLU(),
    )  # fmt: skip
    for norm in (module[1], module[4]):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.2, 2)
        if affine:
            nn.init.uniform_(norm.weight, -1, 1)
            nn.init.uniform_(norm.bias, -1, 1)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("affine", [True, False])
def test_answers_and_gradients_are_the_same(affine):
    module = network(affine)
    images = torch.randn(2, 3, 9, 9)
    results = []
    for form in (module, frozen_copy(module)):
        given = images.clone().requires_grad_()
        out = form(given)
        out.square().sum().backward()
        results.append((out, given.grad))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)


def test_the_module_is_left_alone_and_weights_are_shared():
    module = network()
    copied = frozen_copy(module)
    assert isinstance(module[1], nn.BatchNorm2d)
    assert not isinstance(copied[1], nn.BatchNorm2d)
    assert copied[0].weight is module[0].weight


def test_less_is_kept_for_the_way_back():
    module = torchvision.models.resnet18(weights=None).eval().requires_grad_(False)

    def kept(form):
        sizes = {}

        def note(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = form(torch.randn(1, 3, 64, 64, requires_grad=True))
        del out
        weights = sum(p.untyped_storage().nbytes() for p in module.parameters())
        return sum(sizes.values()) - weights

    assert kept(frozen_copy(module)) < 0.7 * kept(module)


def test_half_precision_stays_half():
    copied = frozen_copy(network())
    assert copied[1](torch.randn(1, 6, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
