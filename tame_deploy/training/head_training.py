"""A training run in memory, and one step of it on any number of processes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor

from tame_deploy.data.sources import check_share
from tame_deploy.errors import TrainingError
from tame_deploy.model.head import AttentionHead
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.training.checkpoints import TrainingState
from tame_deploy.training.data import (
    Batch,
    EpochBatches,
    PictureTensors,
    make_loader,
)
from tame_deploy.training.losses import LOSS_NAMES, LossTerms
from tame_deploy.training.optimizer import (
    average_of,
    make_optimizer,
    make_schedule,
    share_among_classes,
)
from tame_deploy.training.processes import average_gradients, synchronise_batch_norm
from tame_deploy.training.recipe import Recipe
from tame_deploy.training.step import MaskedStep

__all__ = ["HeadTraining", "count_steps"]


def count_steps(recipe: Recipe, pictures: int, processes: int) -> int:
    """Return how many steps an epoch has.

    Raises:
        TrainingError: if there are too few pictures for one.
    """
    per_step = recipe.run.batch_size * recipe.run.accumulate * processes
    if pictures < per_step:
        raise TrainingError(
            f"found {pictures} pictures to train on; a step takes {per_step} (batch size x "
            "accumulation x processes)"
        )
    return pictures // per_step


class HeadTraining:
    """A training run in memory: network, data, optimizer, and how far it is.

    Attributes:
        step: how many optimizer steps have been taken.
        best: the lowest validation loss so far.
        seen: how often the classifier named each class in what was trained on.
        unreadable: training pictures that others stood in for, and why.
        unreadable_validation: the same of validation pictures.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: ExplainedNetwork,
        recipe: Recipe,
        data: tuple[PictureTensors, PictureTensors],
        start: TrainingState | None = None,
    ) -> None:
        self.fabric, self.network, self.recipe = fabric, network, recipe
        self.training_pictures, self.validation_pictures = data
        self.steps_per_epoch = count_steps(recipe, len(data[0]), fabric.world_size)
        self.total_steps = self.steps_per_epoch * recipe.run.epochs
        self.head = network.attention_head.requires_grad_(True).train()
        if fabric.world_size > 1:
            synchronise_batch_norm(self.head)
        self.head.to(fabric.device)
        self.masked = MaskedStep(network, recipe.loss).to(fabric.device)
        self._average = average_of(self.head, recipe.optimizer)
        share_among_classes(self.head, recipe.optimizer.class_sharing)
        optimizer, rates = make_optimizer(self.head, recipe.optimizer)
        self._schedule = make_schedule(optimizer, rates, recipe.optimizer, self.total_steps)
        self._optimizer: Any = fabric.setup_optimizers(optimizer)
        self.step, self.best = 0, float("inf")
        self.unreadable: dict[int, str] = {}
        self.unreadable_validation: dict[int, str] = {}
        self.seen: Counter[int] = Counter()
        if start is not None:
            self._restore(start)

    def _restore(self, start: TrainingState) -> None:
        self.step, self.best, self.unreadable = start.step, start.best, dict(start.unreadable)
        self.head.load_state_dict(start.head)
        if self._average is not None:
            self._average.load_state_dict(start.average)
        self._optimizer.load_state_dict(start.optimizer)
        self._schedule.load_state_dict(start.scheduler)
        self.fabric.strategy.precision.load_state_dict(start.scaler)

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.steps_per_epoch

    def state(self) -> TrainingState:
        """Return what a checkpoint keeps of the run."""
        return TrainingState(
            step=self.step,
            best=self.best,
            world=self.fabric.world_size,
            head=self.head.state_dict(),
            optimizer=self._optimizer.state_dict(),
            scheduler=self._schedule.state_dict(),
            scaler=self.fabric.strategy.precision.state_dict(),
            average={} if self._average is None else self._average.state_dict(),
            data=self.training_pictures.digest,
            unreadable=self.unreadable,
        )

    @contextmanager
    def judged_head(self) -> Iterator[None]:
        """Put the head that is validated, drawn and kept in the network's place, in eval mode.

        That is the average of the weights, where there is one.
        """
        averaged = self.head if self._average is None else self._average.module
        assert isinstance(averaged, AttentionHead)
        self.network.head = averaged.eval()
        try:
            yield
        finally:
            self.network.head = self.head.train()

    def finish(self) -> None:
        """Leave the head that was kept in the network, frozen."""
        with self.judged_head():
            head = self.network.head
        self.network.head = head.eval().requires_grad_(False)

    def rest_of_epoch(self) -> Iterator[list[Batch]]:
        """Yield this process's batches of each step that is left of the epoch."""
        run = self.recipe.run
        epoch, done = divmod(self.step, self.steps_per_epoch)
        batches = EpochBatches(
            len(self.training_pictures),
            run.batch_size,
            epoch=epoch,
            seed=run.seed,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            skip=done * run.accumulate,
        )
        pin = self.fabric.device.type == "cuda"
        loader = iter(make_loader(self.training_pictures, batches, run.workers, pin=pin))
        for _ in range(self.steps_per_epoch - done):
            yield list(itertools.islice(loader, run.accumulate))

    def take_step(self, batches: list[Batch]) -> dict[str, float]:
        """Train on the batches of one step; return its rate and its loss, term by term.

        The loss is the mean over the batches and over all processes.

        Raises:
            TrainingError: if it is no number.
            InputError: if too many pictures cannot be read.
        """
        self._optimizer.zero_grad()
        terms = torch.stack([self._backward(batch) for batch in batches]).mean(0)
        if self.fabric.world_size > 1:
            average_gradients(self.head)
        rate = self._optimizer.param_groups[0]["lr"]
        self._optimizer.step()
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self.head)
        self.step += 1
        means = self.over_processes(terms).mean(0).tolist()
        return dict(zip(LOSS_NAMES, means, strict=True)) | {"lr": rate}

    def _backward(self, batch: Batch) -> Tensor:
        """Add a batch's share to the gradients; return its loss terms (4), detached."""
        pictures = self.training_pictures
        self.note_unreadable(batch, pictures, self.unreadable)
        warmup = self.recipe.loss.area_warmup * self.total_steps
        area_scale = min(1.0, self.step / warmup) if warmup else 1.0
        with self.fabric.autocast():
            terms, labels = self.masked.losses(
                batch.pixels.to(self.fabric.device),
                area_scale,
                draws=self._draws(batch),
                # By picture and epoch, so that no batch size or number of processes matters.
                turns=[int(index) + self.epoch for index in batch.indices],
            )
            self._check_finite(terms, batch)
        self.seen.update(labels.tolist())
        self.fabric.backward(terms.total / self.recipe.run.accumulate)
        return torch.stack(terms).detach()

    def _draws(self, batch: Batch) -> Tensor | None:
        """Return what chooses among the labels of a picture, from seed, epoch and picture alone."""
        if self.network.task != "multilabel":
            return None
        seed, epoch = self.recipe.run.seed, self.epoch
        classes = self.network.head.config.classes
        rows = [
            np.random.default_rng([seed, epoch, int(index), classes]).random(classes, np.float32)
            for index in batch.indices
        ]
        return torch.from_numpy(np.stack(rows)).to(self.fabric.device)

    def _check_finite(self, terms: LossTerms, batch: Batch) -> None:
        if bool(torch.isfinite(terms.total)):
            return
        with torch.no_grad():
            self.head.eval()
            # One at a time, the loss names the picture; if none fails alone, the step did.
            suspects = [
                self.training_pictures.pictures.name(int(index))
                for pixels, index in zip(batch.pixels, batch.indices, strict=True)
                if not bool(torch.isfinite(self._loss_of_one(pixels)))
            ]
            self.head.train()
        if len(suspects) in (0, len(batch.indices)):
            where = "with every picture of the batch: the head itself is spoiled"
        else:
            where = f"because of {', '.join(suspects[:3])}"
        raise TrainingError(
            f"the loss is {float(terms.total.detach())} at step {self.step + 1}, {where} "
            "(a lower --lr may help; see tame-deploy find-lr)"
        )

    def _loss_of_one(self, pixels: Tensor) -> Tensor:
        return self.masked.losses(pixels[None].to(self.fabric.device), alone=True)[0].total

    def note_unreadable(
        self, batch: Batch, pictures: PictureTensors, unreadable: dict[int, str]
    ) -> None:
        """Note what could not be read.

        Raises:
            InputError: if it is more than the recipe allows.
        """
        unreadable.update(batch.problems)
        share = len(pictures) // self.fabric.world_size  # each process sees its own
        check_share(list(unreadable.values()), share, self.recipe.data.max_unreadable)

    def over_processes(self, values: Tensor) -> Tensor:
        """Return the values (N) of all processes, (processes, N)."""
        gathered = self.fabric.all_gather(values)
        assert isinstance(gathered, Tensor)
        return gathered.reshape(-1, len(values))

    def any_process(self, flag: bool) -> bool:
        """Whether a flag is set in any process; all of them ask at once."""
        if self.fabric.world_size == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.fabric.device)
        return bool(self.over_processes(flags).any())

    def share_findings(self) -> None:
        """Tell each process what the others saw and could not read."""
        if self.fabric.world_size == 1:
            return
        found: list[Any] = [None] * self.fabric.world_size
        dist.all_gather_object(found, (self.seen, self.unreadable))
        for seen, unreadable in found:
            self.seen = self.seen | seen
            self.unreadable = self.unreadable | unreadable
