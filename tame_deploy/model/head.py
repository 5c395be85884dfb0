"""The TAME attention head: one class whose four switches give every published variant."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tame_deploy.artifact.types import HeadConfig

__all__ = ["MAX_MAP_SIDE", "AttentionHead", "map_size", "resize_map"]

#: Maps are never higher than this (TAME, section III).
MAX_MAP_SIDE = 56


def map_size(height: int, width: int) -> tuple[int, int]:
    """Return (h, w) of the maps for a first feature map of height x width, aspect kept."""
    if height <= MAX_MAP_SIDE:
        return height, width
    return MAX_MAP_SIDE, max(1, round(width * MAX_MAP_SIDE / height))


def resize_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly, half-pixel centres; a no-op where the size is right."""
    if tuple(maps.shape[2:]) == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


class AttentionHead(nn.Module):
    """Feature maps of several layers in, one map logit a class and pixel out.

    Each layer has a branch (1x1 convolution, batch norm, skip connection, activation, resize);
    the branches are concatenated and a 1x1 convolution fuses them (TAME, section III, figure 2).
    Beside a narrow branch, the features themselves are fused, which is its skip connection.
    State keys are those of the published checkpoints: `convs.i`, `bns.i`, `fuser`. With branches
    that are the identity there is the fuser alone, which is CAM (`model/cam.py`).
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.branch_width(layer) for layer in range(len(config.channels))]
        pairs = list(zip(config.channels, widths, strict=True))
        if config.branch == "attention":
            self.convs = nn.ModuleList(nn.Conv2d(given, width, 1) for given, width in pairs)
        if config.batch_norm:
            self.bns = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        fused = sum(sum(config.fuser_widths(layer)) for layer in range(len(widths)))
        self.fuser = nn.Conv2d(fused, config.classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return map logits of every class.

        Args:
            features: float (B, C_i, h_i, w_i), one a layer.

        Returns:
            float (B, classes, h, w), h being the first layer's height, at most 56.
        """
        size = map_size(features[0].shape[2], features[0].shape[3])
        branches = [
            resize_map(part, size)
            for layer, feature in enumerate(features)
            for part in self.branch(layer, feature)
        ]
        fused: Tensor = self.fuser(torch.cat(branches, dim=1))  # (B, classes, h, w)
        return fused

    def class_maps(self, features: Sequence[Tensor], class_ids: Tensor) -> Tensor:
        """Return map logits of chosen classes, without ever computing the others'.

        Everything after a branch's activation is linear, so a class's row of the fuser is applied
        at each branch's own resolution, and one channel is resized instead of all. Equal to
        `forward` up to rounding, in training mode too, and differentiable.

        Args:
            features: float (B, C_i, h_i, w_i), one a layer.
            class_ids: int64 (K), the same classes for every picture, or (B, K), each its own.

        Returns:
            float (B, K, h, w).
        """
        size = map_size(features[0].shape[2], features[0].shape[3])
        widths = [self.config.fuser_widths(layer) for layer in range(len(features))]
        rows = functional.embedding(class_ids, self.fuser.weight.flatten(1))  # (..., K, sum)
        assert self.fuser.bias is not None
        total = functional.embedding(class_ids, self.fuser.bias[:, None])[..., None]  # (..., K,1,1)
        of_layers = torch.split(rows, [sum(of_layer) for of_layer in widths], dim=-1)
        for layer, (part, feature) in enumerate(zip(of_layers, features, strict=True)):
            pieces = zip(
                torch.split(part, list(widths[layer]), dim=-1),
                self.branch(layer, feature),
                strict=True,
            )
            # (B, K, h_i * w_i)
            products = torch.stack([torch.matmul(p, b.flatten(2)) for p, b in pieces]).sum(0)
            shaped = products.reshape(*products.shape[:2], *feature.shape[2:])
            total = total + resize_map(shaped, size)
        return total

    def branch(self, layer: int, feature: Tensor) -> tuple[Tensor, ...]:
        """Return what the fuser reads of one layer, before it is resized.

        That is float (B, width_i, h_i, w_i), behind the features (B, C_i, h_i, w_i) themselves
        where the branch is narrow and has a skip connection.
        """
        if self.config.branch == "identity":
            return (feature,)
        out: Tensor = self.convs[layer](feature)
        if self.config.batch_norm:
            out = self.bns[layer](out)
        narrow = len(self.config.fuser_widths(layer)) == 2
        if self.config.skip and not narrow:
            out = out + feature
        out = torch.relu(out) if self.config.activation == "relu" else torch.sigmoid(out)
        return (feature, out) if narrow else (out,)
