"""The optimizer of a head, its one-cycle schedule, and the average of its weights."""

from __future__ import annotations

from typing import Any

from torch import nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tame_deploy.model.head import AttentionHead
from tame_deploy.training.recipe import OptimizerConfig

__all__ = ["average_of", "make_optimizer", "make_schedule", "share_among_classes"]


def make_optimizer(head: nn.Module, config: OptimizerConfig) -> tuple[optim.Optimizer, list[float]]:
    """Return the optimizer of a head and the highest rate of each of its groups.

    Biases are not decayed and have a rate of their own (TAME's code: twice the weights').
    """
    biases = [p for name, p in head.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in head.named_parameters() if not name.endswith("bias")]
    rates = [config.max_lr, config.max_lr * config.bias_lr_factor]
    groups = [
        {"params": weights, "lr": rates[0], "weight_decay": config.weight_decay},
        {"params": biases, "lr": rates[1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return optim.SGD(groups, momentum=config.max_momentum, nesterov=True), rates
    return optim.AdamW(groups), rates


def make_schedule(
    optimizer: optim.Optimizer, rates: list[float], config: OptimizerConfig, steps: int
) -> optim.lr_scheduler.OneCycleLR:
    """Return the rates of a whole run, a value a step and one more that comes after the last."""
    return optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=rates,
        total_steps=steps + 1,
        pct_start=config.warmup + 1e-9,  # it divides by warm-up steps less one
        base_momentum=config.base_momentum,
        max_momentum=config.max_momentum,
    )


def average_of(head: AttentionHead, config: OptimizerConfig) -> AveragedModel | None:
    """Return the exponential average of a head's weights and statistics, if it is asked for."""
    if not config.average:
        return None
    decay: Any = get_ema_multi_avg_fn(config.average)  # type: ignore[no-untyped-call]
    return AveragedModel(head, multi_avg_fn=decay, use_buffers=True)


def share_among_classes(head: AttentionHead, share: float) -> None:
    """Let every class's row of the fuser learn from the pictures of all classes, as `share` says.

    With few pictures most classes are never predicted, and their rows would stay as they began.
    What makes a better mask is mostly the same for all: what is background, how steep a map is.
    """
    if share:
        head.fuser.weight.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: (1 - share) * gradient + share * gradient.sum(0, keepdim=True)
        )
