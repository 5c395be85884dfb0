"""What a validation measures: the loss, and how the classifier takes the masked pictures."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from tame_deploy.errors import TrainingError
from tame_deploy.model.head import resize_map
from tame_deploy.model.task import probabilities
from tame_deploy.training.data import make_loader
from tame_deploy.training.head_training import HeadTraining
from tame_deploy.training.losses import LOSS_NAMES
from tame_deploy.training.step import stretched

__all__ = ["validate"]

NAMES = (*LOSS_NAMES, "average_drop", "increase_in_confidence")


@torch.no_grad()
def validate(training: HeadTraining, interrupt: threading.Event) -> dict[str, float]:
    """Return the means over the validation pictures of all processes: loss, AD and IC at 100 %.

    The loss looks at own maps alone, so that it does not depend on what shares a batch.

    Raises:
        TrainingError: if the loss is no number.
        InputError: if too many pictures cannot be read.
        KeyboardInterrupt: if the event is set; several processes go on to the end, together.
    """
    fabric, pictures, run = training.fabric, training.validation_pictures, training.recipe.run
    part = range(fabric.global_rank, len(pictures), fabric.world_size)
    batches = [
        [(0, index) for index in part[first : first + run.batch_size]]
        for first in range(0, len(part), run.batch_size)
    ]
    sums = torch.zeros(len(NAMES) + 1, device=fabric.device)
    with training.judged_head():
        for batch in make_loader(pictures, batches, run.workers):
            if interrupt.is_set() and fabric.world_size == 1:
                raise KeyboardInterrupt
            training.note_unreadable(batch, pictures, training.unreadable_validation)
            with fabric.autocast():
                turns = batch.indices.tolist()
            values = _measure(training, batch.pixels.to(fabric.device), turns)
            sums += len(batch.pixels) * torch.stack([*values, torch.ones_like(values[0])])
    training.masked.assert_untouched()
    *sums_of_all, count = training.over_processes(sums).sum(0).tolist()
    means = {name: value / count for name, value in zip(NAMES, sums_of_all, strict=True)}
    if not math.isfinite(means["loss"]):
        raise TrainingError(
            f"the validation loss is {means['loss']} after step {training.step}; the head of the "
            "last checkpoint is kept (a lower --lr may help; see tame-deploy find-lr)"
        )
    return means


def _measure(training: HeadTraining, pixels: Tensor, turns: list[int]) -> list[Tensor]:
    """Return the means of a batch, scalars in the order of `NAMES`.

    AD and IC are those of `tame_deploy.metrics`, computed again here: on the device that trains,
    from the head as it is, without a backend around it.
    """
    masked = training.masked
    terms, _ = masked.losses(pixels, alone=True, turns=turns)
    images = masked.shares(pixels.float())
    task = training.network.task
    logits = masked.classify(images)
    labels = logits.argmax(1)
    whole = probabilities(logits, task).gather(1, labels[:, None])[:, 0]
    features, _ = masked.look(images)
    maps = training.network.head.class_maps(features, labels[:, None]).float()
    heat = resize_map(stretched(maps), masked.size)
    answers = probabilities(masked.classify(images * heat), task)
    left = answers.gather(1, labels[:, None])[:, 0]
    drop = 100 * ((whole - left).clamp(min=0) / whole).mean()
    increase = 100 * (left > whole).float().mean()
    return [*terms, drop, increase]
