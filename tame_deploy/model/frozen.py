"""A frozen backbone as cheap as can be to differentiate with respect to its input."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["frozen_copy"]


class FrozenBatchNorm(nn.Module):
    """Batch norm in eval mode as the affine map it is.

    torch's own keeps its input for a backward pass that only needs the gains: half of what the
    activations of a ResNet occupy.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = torch.rsqrt(norm.running_var + norm.eps)
        if norm.affine:
            gain = gain * norm.weight.detach()
        shift = -norm.running_mean * gain
        if norm.affine:
            shift = shift + norm.bias.detach()
        self.register_buffer("gain", gain[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the normalised features (B, C, h, w)."""
        # In mixed precision the product is float32, as inside torch's own.
        return (features * self.gain).add_(self.shift).to(features.dtype)


def frozen_copy(module: nn.Module) -> nn.Module:
    """Return the module in eval mode with its own structure, but the same weights.

    Exact but for the rounding of batch norms. The module itself is left as it is.
    """
    shared = [*module.parameters(), *module.buffers()]
    copied = copy.deepcopy(module, {id(tensor): tensor for tensor in shared}).eval()
    for parent in copied.modules():
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d and child.track_running_stats:
                setattr(parent, name, FrozenBatchNorm(child))
    return copied
