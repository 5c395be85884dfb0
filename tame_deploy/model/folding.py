"""The same head, folded: exact up to rounding, and cheap enough to come with every prediction.

Everything after a branch's activation is linear, so the map of class y is the sum over layers of
resize(W_i[y] · A_i) + b[y]: one channel is resized instead of thousands. Batch norm and the skip
connection fold into the branch's 1x1 convolution: K = diag(g)·A + I, k = g·(a - mean) + beta.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tame_deploy.artifact.types import HeadConfig
from tame_deploy.model.head import AttentionHead, map_size, resize_map

__all__ = ["AskedClasses", "ClassMaps", "FoldedBranches"]


class AskedClasses(NamedTuple):
    """Whose maps are asked for, K a picture.

    Attributes:
        classes: int64 (B, K).
        versus: int64 (B, K), where `is_contrast`: the classes whose maps are subtracted.
        is_contrast: bool (B, K); None where no map is a difference.
    """

    classes: Tensor
    versus: Tensor | None = None
    is_contrast: Tensor | None = None

    def choose(self, rows: Tensor) -> Tensor:
        """Return, of one row a class (classes, n), those asked for or their differences (B, K, n).

        All behind this choice is linear, so the difference of rows makes the difference of maps.
        """
        own = functional.embedding(self.classes, rows)
        if self.versus is None or self.is_contrast is None:
            return own
        return own - functional.embedding(self.versus, rows) * self.is_contrast[..., None]

    def pick(self, maps: Tensor) -> Tensor:
        """Return, of every class's map (B, classes, N), those asked for or their differences."""
        own = _gathered(maps, self.classes)
        if self.versus is None or self.is_contrast is None:
            return own
        return own - _gathered(maps, self.versus) * self.is_contrast[..., None]


def _gathered(maps: Tensor, class_ids: Tensor) -> Tensor:
    """Return the maps (B, K, N) of chosen classes (B, K)."""
    return maps.gather(1, class_ids[..., None].expand(-1, -1, maps.shape[2]))


class FoldedBranches(nn.Module):
    """The branches of a head with batch norm and skip folded into one convolution each."""

    def __init__(self, head: AttentionHead) -> None:
        super().__init__()
        self.activation = head.config.activation
        self.beside = len(head.config.fuser_widths(0)) == 2
        layers = range(len(head.config.channels)) if head.config.branch == "attention" else ()
        self.convs = nn.ModuleList(_folded_convolution(head, layer) for layer in layers)

    def forward(self, features: list[Tensor]) -> list[tuple[Tensor, ...]]:
        """Return what the fuser reads of each layer, at its native resolution.

        Each is float (B, width_i, h_i, w_i), behind the features where branches are narrow.
        """
        if not self.convs:
            return [(feature,) for feature in features]
        activate = torch.relu if self.activation == "relu" else torch.sigmoid
        branches = [
            activate(conv(feature)) for conv, feature in zip(self.convs, features, strict=True)
        ]
        if self.beside:
            return list(zip(features, branches, strict=True))
        return [(branch,) for branch in branches]


def _folded_convolution(head: AttentionHead, layer: int) -> nn.Conv2d:
    conv = head.convs[layer]
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    # Folding in float64 keeps the only rounding where it belongs: in the stored float32 weights.
    weight = conv.weight.detach().double()  # (width, C_i, 1, 1)
    bias = conv.bias.detach().double()
    if head.config.batch_norm:
        norm = head.bns[layer]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
        weight = weight * gain[:, None, None, None]
        bias = (bias - norm.running_mean.double()) * gain + norm.bias.detach().double()
    if head.config.skip and len(head.config.fuser_widths(layer)) == 1:
        weight = weight + torch.eye(weight.shape[0], dtype=torch.float64)[:, :, None, None]
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, 1)
    folded.weight.data = weight.float()
    folded.bias = nn.Parameter(bias.float())
    return folded.requires_grad_(False)


class ClassMaps(nn.Module):
    """The tail of the head: class rows applied at native resolution, resized and summed.

    This is the part whose values decide the map, and which stays in float32 at every precision.
    """

    bias: Tensor

    def __init__(self, head: AttentionHead) -> None:
        super().__init__()
        config: HeadConfig = head.config
        widths = [config.fuser_widths(layer) for layer in range(len(config.channels))]
        assert head.fuser.bias is not None
        fuser = head.fuser.weight.detach().flatten(1)  # (classes, sum of widths)
        of_layers = torch.split(fuser, [sum(of_layer) for of_layer in widths], dim=1)
        for layer, of_layer in enumerate(of_layers):
            for piece, rows in enumerate(torch.split(of_layer, list(widths[layer]), dim=1)):
                self.register_buffer(f"rows_{layer}_{piece}", rows.contiguous())
        self.register_buffer("bias", head.fuser.bias.detach()[:, None].clone())

    def forward(self, branches: list[tuple[Tensor, ...]], asked: AskedClasses | None) -> Tensor:
        """Return map logits, float (B, K, h, w), of the classes asked for.

        Args:
            branches: what `FoldedBranches` returns: float (B, width_i, h_i, w_i), one or two a
                layer.
            asked: K classes a picture, or differences of two; None for every class in order.
        """
        size = map_size(branches[0][0].shape[2], branches[0][0].shape[3])
        total = self._bias(asked)
        for layer, pieces in enumerate(branches):
            products = self._product(f"{layer}_0", pieces[0], asked)
            for number, piece in enumerate(pieces[1:], 1):
                products = products + self._product(f"{layer}_{number}", piece, asked)
            total = total + resize_map(products, size)
        return total

    def _bias(self, asked: AskedClasses | None) -> Tensor:
        if asked is None:
            return self.bias[None, :, :, None]  # (1, classes, 1, 1)
        return asked.choose(self.bias)[..., None]  # (B, K, 1, 1)

    def _product(self, name: str, branch: Tensor, asked: AskedClasses | None) -> Tensor:
        rows: Tensor = getattr(self, f"rows_{name}")  # (classes, width_i)
        if asked is None:
            return functional.conv2d(branch, rows[:, :, None, None])
        chosen = asked.choose(rows)  # (B, K, width_i)
        product = torch.matmul(chosen, branch.flatten(2))  # (B, K, h_i * w_i)
        return product.reshape(*product.shape[:2], branch.shape[2], branch.shape[3])
