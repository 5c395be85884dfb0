"""Class activation maps (Zhou et al., CVPR 2016): a head that needs no training.

Where global average pooling and one linear layer end a network, logit_y = W[y] · mean(F) + b[y],
so W[y] · F + b[y] at each place is a map whose mean is the logit. That is the attention head
without branches, its fuser being the classifier. A classifier that is a 1x1 convolution before the
pooling (SqueezeNet) is the same, but for an activation function between the two.

What the network is made of is not looked at: the tail is found by its numbers, so it is found in
any library's models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tame_deploy.artifact.types import HeadConfig
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.features import as_map, run_backbone
from tame_deploy.model.geometry import FeatureMap, first_tensor
from tame_deploy.model.head import AttentionHead
from tame_deploy.model.layer_proposal import list_feature_maps
from tame_deploy.model.outputs import read_logits

__all__ = ["ClassActivation", "find_class_activation"]

#: Two pictures, so that no coincidence of one makes a tail.
_PICTURES = 2
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


@dataclass(frozen=True)
class ClassActivation:
    """The layer that the classifier pools, and the head that the classifier is."""

    layer: str
    head: AttentionHead


@dataclass(frozen=True)
class _Call:
    """What a module was given and gave when it last ran."""

    module: nn.Module
    given: Tensor
    gave: Any


def find_class_activation(backbone: Backbone) -> ClassActivation | None:
    """Return the head that the classifier of a backbone is; None where it is none.

    Of one logit it has two classes: what speaks for the logit, and the same with the other sign.

    Raises:
        InputError: if the network fails on two pictures of its size.
    """
    shape = (_PICTURES, *backbone.example.shape[1:])
    pictures = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    calls, logits = _watched(backbone.module, pictures)
    classifier = _classifier(calls, logits)
    pooled = None if classifier is None else _features_behind(backbone, calls, classifier)
    if classifier is None or pooled is None:
        return None
    module = classifier.module
    assert isinstance(module, (nn.Linear, nn.Conv2d))
    rows = module.weight.detach().float().flatten(1)  # (classes, C)
    bias = torch.zeros(len(rows)) if module.bias is None else module.bias.detach().float().clone()
    if backbone.task == "binary":
        rows, bias = torch.cat([-rows, rows]), torch.cat([-bias, bias])
    classes, channels = rows.shape
    config = HeadConfig((channels,), classes, batch_norm=False, skip=False, branch="identity")
    head = AttentionHead(config)
    head.fuser.weight = nn.Parameter(rows[:, :, None, None].clone())
    head.fuser.bias = nn.Parameter(bias)
    return ClassActivation(pooled.layer, head.eval().requires_grad_(False))


@torch.no_grad()
def _watched(module: nn.Module, pictures: Tensor) -> tuple[dict[str, _Call], Tensor]:
    """Return what each module was given and gave, by its name, and the logits."""
    calls: dict[str, _Call] = {}

    def watch(name: str) -> Any:
        def hook(watched: nn.Module, given: tuple[Any, ...], gave: Any) -> None:
            if given and isinstance(given[0], Tensor):
                # In-place activation functions overwrite what they were given.
                calls[name] = _Call(watched, given[0].clone(), gave)

        return hook

    handles = [
        part.register_forward_hook(watch(name)) for name, part in module.named_modules() if name
    ]
    try:
        logits = read_logits(run_backbone(module, pictures))
    finally:
        for handle in handles:
            handle.remove()
    return calls, logits


def _classifier(calls: dict[str, _Call], logits: Tensor) -> _Call | None:
    """Return the call of the linear layer, or 1x1 convolution, whose answers are the logits.

    A softmax or sigmoids may follow it.
    """
    for call in reversed(calls.values()):
        if isinstance(call.module, nn.Linear) and call.gave.ndim == 2:
            ends = (call.gave, call.gave.softmax(1), call.gave.sigmoid())
            if any(_same(end, logits) for end in ends):
                return call
        if isinstance(call.module, nn.Conv2d) and call.module.kernel_size == (1, 1):
            pooled = (call.gave.mean((2, 3)), torch.relu(call.gave).mean((2, 3)))
            if any(_same(mean, logits) for mean in pooled):
                return call
    return None


def _features_behind(
    backbone: Backbone, calls: dict[str, _Call], classifier: _Call
) -> FeatureMap | None:
    """Return the last feature map whose mean, or which itself, the classifier is given."""
    given = classifier.given
    spatial = given.ndim == 4 and given.shape[2] * given.shape[3] > 1
    for feature in reversed(list_feature_maps(backbone)):
        gave = first_tensor(calls[feature.layer].gave) if feature.layer in calls else None
        if gave is None:
            continue
        values = as_map(gave, feature, "patch")
        if _same(values if spatial else values.mean((2, 3)), given):
            return feature
    return None


def _same(found: Any, expected: Tensor) -> bool:
    if not isinstance(found, Tensor) or found.numel() != expected.numel():
        return False
    if found.dtype != expected.dtype:  # such as classes in place of logits
        return False
    return torch.allclose(found.reshape(expected.shape), expected, rtol=_RELATIVE, atol=_ABSOLUTE)
