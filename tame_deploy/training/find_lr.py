"""The range test: which learning rates suit a head (Smith, WACV 2017; as TAME's code runs it)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric import Fabric

from tame_deploy.data.sources import check_share
from tame_deploy.errors import InputError, TrainingError
from tame_deploy.model.download import Progress
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.training.data import (
    Batch,
    EpochBatches,
    PictureTensors,
    make_loader,
    open_training_data,
    plain_errors,
)
from tame_deploy.training.device import deferred_interrupt, flushed_denormals, open_fabric
from tame_deploy.training.optimizer import make_optimizer, share_among_classes
from tame_deploy.training.recipe import Recipe
from tame_deploy.training.starting import start_head
from tame_deploy.training.step import MaskedStep
from tame_deploy.training.train_head import build_recipe_network, report_backbone

__all__ = ["RangeTest", "find_lr"]

#: The test ends when the smoothed loss is this many times its lowest.
STOP_AT = 4.0


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """Learning rates tried and the smoothed loss at each; `suggestion` is where it falls fastest.

    `lowest` is the rate at the lowest loss, beyond which training is about to diverge.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float
    lowest: float

    def draw(self, path: Path) -> Path:
        """Write the curve as a PNG.

        Raises:
            InputError: if it cannot be written.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot(self.rates, self.losses, color="#334155")
        axes.axvline(self.suggestion, color="#c2410c", label=f"suggested {self.suggestion:.1e}")
        axes.axvline(
            self.lowest, color="#94a3b8", linestyle="--", label=f"lowest loss {self.lowest:.1e}"
        )
        axes.set_xscale("log")
        axes.set_ylim(top=min(max(self.losses), 2 * self.losses[0]))
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss, smoothed")
        axes.legend()
        axes.spines[["top", "right"]].set_visible(False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=120)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        return path


def find_lr(
    recipe: Recipe,
    *,
    lowest: float = 1e-8,
    highest: float = 10.0,
    steps: int | None = None,
    advance: Callable[[int, int], None] = lambda _done, _of: None,
    report: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> RangeTest:
    """Train with a rate that grows exponentially, and see when the loss falls and when it bursts.

    Args:
        recipe: what would be trained; accumulation is left out.
        lowest: the first rate.
        highest: the last one.
        steps: how many; an epoch by default.
        advance: told how many steps are done, and of how many.
        report: told what was assumed of the backbone, a line each.
        progress: told how downloads go.

    Raises:
        InputError: for data or rates that cannot be used.
        TrainingError: if the loss is no number before there is anything to say.
    """
    if not 0 < lowest < highest:
        raise InputError(f"found rates {lowest} to {highest}; expected 0 < lowest < highest")
    fabric = open_fabric(recipe.run)
    network = build_recipe_network(recipe, progress)
    report_backbone(network.backbone, report)
    training, _ = open_training_data(recipe, network)
    count = steps or len(training) // recipe.run.batch_size
    if count < 50:
        raise InputError(
            f"a range test of {count} steps says nothing; expected at least 50 (--steps)"
        )
    start_head(recipe.model, network, training, fabric.device, report)
    rates = [float(rate) for rate in np.geomspace(lowest, highest, count)]
    with plain_errors(), flushed_denormals():
        losses = _raise_rate(fabric, recipe, network, training, rates, advance)
    return _judge(rates, losses, count)


def _raise_rate(
    fabric: Fabric,
    recipe: Recipe,
    network: ExplainedNetwork,
    training: PictureTensors,
    rates: Sequence[float],
    advance: Callable[[int, int], None],
) -> list[float]:
    """Take a step at each rate until the loss bursts, and return the losses."""
    head = network.attention_head.requires_grad_(True).train().to(fabric.device)
    masked = MaskedStep(network, recipe.loss).to(fabric.device)
    share_among_classes(head, recipe.optimizer.class_sharing)
    raw, peaks = make_optimizer(head, recipe.optimizer)
    optimizer: Any = fabric.setup_optimizers(raw)
    losses: list[float] = []
    unreadable: dict[int, str] = {}
    best = float("inf")
    with deferred_interrupt() as interrupt:
        for rate, batch in zip(rates, _endless(training, recipe), strict=False):
            if interrupt.is_set():
                raise KeyboardInterrupt
            unreadable.update(batch.problems)
            check_share(list(unreadable.values()), len(training), recipe.data.max_unreadable)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = rate * peak / peaks[0]  # biases keep their factor
            with fabric.autocast():
                turns = batch.indices.tolist()
                loss = masked.losses(batch.pixels.to(fabric.device), turns=turns)[0].total
            value = float(loss.detach())
            if not math.isfinite(value):
                break
            losses.append(value)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            advance(len(losses), len(rates))
            latest = _smoothed(losses[-2000:], len(rates))[-1]
            best = min(best, latest)
            if latest > STOP_AT * best:
                break
    return losses


def _endless(training: PictureTensors, recipe: Recipe) -> Iterator[Batch]:
    run = recipe.run
    for epoch in itertools.count():
        batches = EpochBatches(len(training), run.batch_size, epoch=epoch, seed=run.seed)
        yield from make_loader(training, batches, run.workers)


def _smoothed(losses: list[float], count: int) -> list[float]:
    """Return the running mean that forgets as TAME's code does (0.999), faster in short tests."""
    keep = min(0.999, 1 - 10 / count)
    mean, smooth = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = keep * mean + (1 - keep) * loss
        smooth.append(mean / (1 - keep**number))
    return smooth


def _judge(rates: list[float], losses: list[float], count: int) -> RangeTest:
    if len(losses) < 10:
        raise TrainingError(
            f"the loss burst after {len(losses)} steps at rates up to "
            f"{rates[len(losses)]:.1e}; begin with a lower rate (--lowest)"
        )
    smooth = np.array(_smoothed(losses, count))
    best = int(smooth.argmin())
    # Before the lowest point, where the loss falls fastest on a logarithmic scale.
    slopes = np.gradient(smooth, np.log(rates[: len(smooth)]))[: max(best, 2)]
    skipped = min(len(slopes) - 1, count // 20)  # the running mean settles first
    steepest = skipped + int(slopes[skipped:].argmin())
    return RangeTest(
        rates=tuple(rates[: len(smooth)]),
        losses=tuple(float(value) for value in smooth),
        suggestion=rates[steepest],
        lowest=rates[best],
    )
