"""The head as Lightning trains it."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from tame_deploy.data.sources import check_share
from tame_deploy.errors import TrainingError
from tame_deploy.model.head import resize_map
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.training.data import Batch, EpochBatches, PictureTensors, make_loader
from tame_deploy.training.keeping import RunState
from tame_deploy.training.losses import LossTerms
from tame_deploy.training.processes import synchronise_batch_norm
from tame_deploy.training.recipe import OptimizerConfig, Recipe
from tame_deploy.training.step import MaskedStep

__all__ = ["NAMES", "HeadTraining", "make_optimizer"]

#: Names of the loss terms in metrics.csv, in the order of `LossTerms`.
NAMES = ("loss", "cross_entropy", "area", "variation")
VALIDATED = (*NAMES, "average_drop", "increase_in_confidence")


class HeadTraining(LightningModule):
    """Trains the head of a network; holds the frozen backbone without owning it.

    Each of Lightning's epochs is one of the recipe's, but the first of a resumed run, which is what
    was left of it. So `step` and `epoch` here, not the trainer's, say where the run is.
    """

    def __init__(
        self,
        network: ExplainedNetwork,
        recipe: Recipe,
        training: PictureTensors,
        validation: PictureTensors,
        *,
        world: int = 1,
        start: RunState | None = None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.network = [network]  # in a list: the frozen backbone is no part of this module
        self.head = network.head.requires_grad_(True).train()  # Lightning keeps what it finds
        self.masked = MaskedStep(network, recipe.loss)
        self.training_pictures, self.validation_pictures = training, validation
        self.start = start
        self.first_step = start.step if start else 0
        per_step = recipe.run.batch_size * recipe.run.accumulate * world
        self.steps_per_epoch = len(training) // per_step
        if self.steps_per_epoch < 1:
            raise TrainingError(
                f"found {len(training)} pictures to train on; a step takes {per_step} "
                "(batch size x accumulation x processes)"
            )
        self.total_steps = self.steps_per_epoch * recipe.run.epochs
        self.unreadable: dict[int, str] = dict(start.unreadable) if start else {}
        self.unreadable_validation: dict[int, str] = {}
        self.seen: Counter[int] = Counter()
        self.best = start.best if start else float("inf")
        self.row: dict[str, float] = {}
        self.terms: list[Tensor] = []  # of the batches of this step
        self.rate = 0.0
        self._sums = torch.zeros(0)
        self._started = time.monotonic()

    @property
    def step(self) -> int:
        """How many optimizer steps the run has taken."""
        return self.first_step + self.trainer.global_step

    @property
    def epoch(self) -> int:
        """Which epoch of the recipe this is, from 0."""
        return self.first_step // self.steps_per_epoch + self.trainer.current_epoch

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Move the frozen part to the device and restore a resumed head."""
        if self.trainer.world_size > 1:
            synchronise_batch_norm(self.head)
        if self.start is not None:
            self.head.load_state_dict(self.start.head)
        self.masked.to(self.trainer.strategy.root_device)

    def on_fit_start(self) -> None:
        """Restore the rest of a resumed run."""
        if self.start is None:
            return
        self.trainer.optimizers[0].load_state_dict(self.start.optimizer)
        self.trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.start.scheduler)
        self.trainer.precision_plugin.load_state_dict(self.start.scaler)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its one-cycle schedule, a value a step."""
        optimizer, rates = make_optimizer(self.head, self.recipe.optimizer)
        config = self.recipe.optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=rates,
            total_steps=self.total_steps + 1,  # Lightning asks once more after the last step
            pct_start=config.warmup + 1e-9,  # it divides by warm-up steps less one
            base_momentum=config.base_momentum,
            max_momentum=config.max_momentum,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def train_dataloader(self) -> Any:
        """Return what is left of this epoch's batches for this process."""
        run = self.recipe.run
        epoch, done = divmod(self.step, self.steps_per_epoch)
        batches = EpochBatches(
            len(self.training_pictures),
            run.batch_size,
            epoch=epoch,
            seed=run.seed,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            skip=done * run.accumulate,
        )
        whole = self.steps_per_epoch * run.accumulate
        batches.batches = batches.batches[:whole]  # what makes no full step is left out
        pin = self.device.type == "cuda"
        return make_loader(self.training_pictures, batches, run.workers, pin=pin)

    def val_dataloader(self) -> Any:
        """Return this process's part of the validation pictures, always the same."""
        world, rank = self.trainer.world_size, self.trainer.global_rank
        part = range(rank, len(self.validation_pictures), world)
        size = self.recipe.run.batch_size
        batches = [
            [(0, index) for index in part[first : first + size]]
            for first in range(0, len(part), size)
        ]
        return make_loader(self.validation_pictures, batches, self.recipe.run.workers)

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            TrainingError: if it is no number.
            InputError: if too many pictures were unreadable.
        """
        self._note_problems(batch, self.training_pictures, self.unreadable)
        self.rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        terms, labels = self.masked.losses(batch.pixels, self._area_scale())
        self._check_finite(terms, batch)
        self.seen.update(labels.tolist())
        self._add_up(torch.stack(terms).detach())
        self.log("loss", terms.total.detach(), prog_bar=True, logger=False)
        return terms.total

    def _add_up(self, terms: Tensor) -> None:
        """Average the loss over the batches of a step, and over processes."""
        self.terms.append(terms)
        if len(self.terms) == self.recipe.run.accumulate:
            means = self._over_processes(torch.stack(self.terms).mean(0)).mean(0)
            self.row = dict(zip(NAMES, means.tolist(), strict=True))
            self.terms = []

    def _area_scale(self) -> float:
        steps = self.recipe.loss.area_warmup * self.total_steps
        return min(1.0, self.step / steps) if steps else 1.0

    def _note_problems(
        self, batch: Batch, pictures: PictureTensors, unreadable: dict[int, str]
    ) -> None:
        unreadable.update(batch.problems)
        share = len(pictures) // self.trainer.world_size  # each process sees its own
        check_share(list(unreadable.values()), share, self.recipe.data.max_unreadable)

    def _check_finite(self, terms: LossTerms, batch: Batch) -> None:
        if bool(torch.isfinite(terms.total)):
            return
        with torch.no_grad():
            self.head.eval()
            # One at a time, the loss names the picture; if none fails alone, the step did.
            suspects = [
                self.training_pictures.pictures.name(int(index))
                for pixels, index in zip(batch.pixels, batch.indices, strict=True)
                if not bool(torch.isfinite(self.masked.losses(pixels[None], alone=True)[0].total))
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

    def on_validation_epoch_start(self) -> None:
        """Begin to add up."""
        self._sums = torch.zeros(len(VALIDATED) + 1, device=self.device)

    @torch.no_grad()
    def validation_step(self, batch: Batch, _index: int) -> None:
        """Add up loss, average drop and increase in confidence (at 100 %) of a batch.

        The loss looks at own maps alone, so that it does not depend on what shares a batch.
        """
        self._note_problems(batch, self.validation_pictures, self.unreadable_validation)
        terms, _ = self.masked.losses(batch.pixels, alone=True)
        whole, masked = self._confidences(batch.pixels.float() / 255)
        drop = 100 * ((whole - masked).clamp(min=0) / whole).mean()
        increase = 100 * (masked > whole).float().mean()
        count = torch.ones_like(drop)
        self._sums += len(batch.pixels) * torch.stack([*terms, drop, increase, count])

    def _confidences(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probability of the predicted class, whole and masked, float (B) each."""
        logits = self.masked.classify(images).float().softmax(1)
        whole, labels = logits.max(1)
        features, _ = self.masked.look(images)
        maps = self.head.class_maps(features, labels[:, None]).float()
        low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        heat = resize_map((maps - low) / (high - low + 1e-7), self.masked.size)
        masked = self.masked.classify(images * heat).float().softmax(1)
        return whole, masked.gather(1, labels[:, None])[:, 0]

    def on_validation_epoch_end(self) -> None:
        """Average over pictures and processes, and check that the backbone is as it was.

        Raises:
            TrainingError: if the loss is no number.
        """
        self.masked.assert_untouched()
        *sums, count = self._over_processes(self._sums).sum(0).tolist()
        self.row = {name: value / count for name, value in zip(VALIDATED, sums, strict=True)}
        if not math.isfinite(self.row["loss"]):
            raise TrainingError(
                f"the validation loss is {self.row['loss']} after step {self.step}; the head of "
                "the last checkpoint is kept (a lower --lr may help; see tame-deploy find-lr)"
            )

    def _over_processes(self, values: Tensor) -> Tensor:
        """Return the values (N) of all processes, (processes, N)."""
        gathered = self.all_gather(values)
        assert isinstance(gathered, Tensor)
        return gathered.reshape(-1, len(values))

    def on_train_end(self) -> None:
        """Tell the first process what the others saw and could not read."""
        if self.trainer.world_size > 1:
            found: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(found, (self.seen, self.unreadable))
            for seen, unreadable in found:
                self.seen = self.seen | seen
                self.unreadable = self.unreadable | unreadable

    def state(self) -> RunState:
        """Return where the run is."""
        return RunState(
            self.step,
            self.best,
            self.trainer.world_size,
            self.head.state_dict(),
            self.trainer.optimizers[0].state_dict(),
            self.trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            self.trainer.precision_plugin.state_dict(),
            self.training_pictures.digest,
            self.unreadable,
        )

    def seconds(self) -> float:
        """Return how long this process has been at it."""
        return time.monotonic() - self._started


def make_optimizer(
    head: torch.nn.Module, config: OptimizerConfig
) -> tuple[torch.optim.Optimizer, list[float]]:
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
        return torch.optim.SGD(groups, momentum=config.max_momentum, nesterov=True), rates
    return torch.optim.AdamW(groups), rates
