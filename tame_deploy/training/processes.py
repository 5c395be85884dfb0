"""What several processes must agree on, so that together they do what one alone would."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tame_deploy.model.head import AttentionHead

__all__ = ["average_gradients", "gather_labels", "synchronise_batch_norm"]


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over processes; the gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the pictures of all processes; torch's own does this on GPUs only."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the normalised features (B, C, h, w)."""
        if not self.training:
            return super().forward(features)
        values = features.float()
        count = features.numel() // features.shape[1] * dist.get_world_size()
        mean = _total(values.sum((0, 2, 3))) / count  # (C,)
        centred = values - mean[:, None, None]
        variance = _total(centred.square().sum((0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * count / max(1, count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        out = centred * scale[:, None, None] + self.bias[:, None, None]
        return out.to(features.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


def _total(value: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(value)
    return total


def synchronise_batch_norm(head: AttentionHead) -> None:
    """Make the head's batch norms span all processes; parameters and state keys stay."""
    if not head.config.batch_norm:
        return
    for index, norm in enumerate(head.bns):
        assert isinstance(norm, nn.BatchNorm2d)
        spanning = SynchronisedBatchNorm(norm.num_features, norm.eps, norm.momentum)
        spanning.weight, spanning.bias = norm.weight, norm.bias
        spanning.running_mean, spanning.running_var = norm.running_mean, norm.running_var
        spanning.num_batches_tracked = norm.num_batches_tracked
        head.bns[index] = spanning.train(norm.training)


def gather_labels(labels: Tensor) -> tuple[Tensor, int]:
    """Return the labels (B,) of all processes in order of rank, and where one's own begin."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return labels, 0
    parts = [torch.empty_like(labels) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, labels)
    return torch.cat(parts), dist.get_rank() * len(labels)


def average_gradients(module: nn.Module) -> None:
    """Replace a module's gradients by their means over processes.

    A head's gradients come last in the backward pass, behind the whole backbone's, so that there
    would be nothing to do meanwhile.
    """
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad /= dist.get_world_size()
            dist.all_reduce(parameter.grad)
