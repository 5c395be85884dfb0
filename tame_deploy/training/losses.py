"""What training minimises: cross entropy of the masked picture, area and variation of the maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tame_deploy.artifact.types import Task
from tame_deploy.errors import InputError

__all__ = ["LOSS_NAMES", "LossConfig", "LossTerms", "area", "map_losses", "variation"]


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss (TAME, section III-B; values of the published code).

    `maps` says which maps area and variation look at: every picture's map for every label of the
    batch ("batch", as published), or each picture's map of its own label ("own"). `mask` says how a
    map becomes the mask of its picture: through a sigmoid, as published, or stretched to [0, 1]
    ("minmax"), as it is scored and shown. Of a mask, `shares` percent of the pixels are kept, the
    highest ones, as AD and IC keep them: which share, follows from picture and epoch, in turn.

    Raises:
        InputError: for numbers that make no loss.
    """

    cross_entropy: float = 1.5
    area: float = 2.0
    variation: float = 0.01
    area_offset: float = 0.0005
    area_exponent: float = 0.3
    border: float = 0.3
    maps: Literal["batch", "own"] = "batch"
    mask: Literal["sigmoid", "minmax"] = "sigmoid"
    shares: tuple[float, ...] = (100.0,)
    area_warmup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("cross_entropy", "area", "variation", "area_offset", "border"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if not 0 < self.area_exponent <= 10:
            raise InputError(f"area_exponent is {self.area_exponent}; expected 0 to 10")
        if self.maps not in ("batch", "own"):
            raise InputError(f"maps is {self.maps!r}; expected batch or own")
        if self.mask not in ("sigmoid", "minmax"):
            raise InputError(f"mask is {self.mask!r}; expected sigmoid or minmax")
        if not self.shares or not all(0 < share <= 100 for share in self.shares):
            raise InputError(
                f"shares is {list(self.shares)}; expected percents above 0, at most 100"
            )
        if not 0 <= self.area_warmup <= 1:
            raise InputError(f"area_warmup is {self.area_warmup}; expected 0 to 1")


#: What the terms of `LossTerms` are called where they are shown, in their order.
LOSS_NAMES = ("loss", "cross_entropy", "area", "variation")


class LossTerms(NamedTuple):
    """The weighted terms, scalars; `total` is their sum."""

    total: Tensor
    cross_entropy: Tensor
    area: Tensor
    variation: Tensor


def area(maps: Tensor, exponent: float = 0.3, offset: float = 0.0005) -> Tensor:
    """Return the mean of (map + offset)^exponent, a scalar, for maps (B, K, h, w) in [0, 1].

    The offset keeps the gradient finite where a map is 0.
    """
    return ((maps + offset) ** exponent).mean()


def variation(maps: Tensor, border: float = 0.3) -> Tensor:
    """Return squared differences of neighbours and squared borders, summed over maps, by 2 B.

    The sum over K classes is not divided by K: with every label of a batch its weight grows with
    the batch, as in the published code.

    Args:
        maps: float (B, K, h, w).
        border: weight of the squares in the outermost rows and columns.
    """
    steps = maps.diff(dim=2).square().sum() + maps.diff(dim=3).square().sum()
    edges = maps[..., [0, -1], :].square().sum() + maps[..., [0, -1]].square().sum()
    return (steps + border * edges) / (2 * maps.shape[0])


def _cross_entropy(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Return how unlikely the labels (B) are by logits (B, C), the mean of -log(probability)."""
    if task != "multilabel":
        return functional.cross_entropy(logits, labels)
    own = logits.gather(1, labels[:, None])[:, 0]
    return functional.softplus(-own).mean()  # binary cross entropy of the explained label


def map_losses(
    config: LossConfig,
    maps: Tensor,
    masked_logits: Tensor,
    labels: Tensor,
    area_scale: float = 1.0,
    task: Task = "multiclass",
) -> LossTerms:
    """Return the loss of a batch.

    Args:
        config: the weights.
        maps: float (B, K, h, w) in [0, 1]: of every label (K = B), or of the own one (K = 1).
        masked_logits: float (B, classes), the classifier's answer to the masked pictures.
        labels: int64 (B), the classifier's answer to the whole pictures.
        area_scale: share of the area's weight in force, 0 to 1, while it warms up.
        task: what the logits mean.
    """
    maps = maps.float()  # half precision sums up badly
    entropy = _cross_entropy(masked_logits.float(), labels, task) * config.cross_entropy
    size = area(maps, config.area_exponent, config.area_offset) * (config.area * area_scale)
    rough = variation(maps, config.border) * config.variation
    return LossTerms(torch.stack([entropy, size, rough]).sum(), entropy, size, rough)
