"""What a run leaves on disk and shows while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import numpy as np
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter

from tame_deploy.closing import Closing
from tame_deploy.model.head import resize_map
from tame_deploy.picture.overlay import blend, contact_sheet
from tame_deploy.picture.preprocess import shown
from tame_deploy.training.checkpoints import MetricsFile, RunFolder
from tame_deploy.training.head_training import HeadTraining

__all__ = ["Recorder"]

#: Steps after which maps are drawn, beside every validation: a head goes wrong early if it does.
EARLY_STEPS = (1, 10, 30, 100, 300, 1000, 3000)
#: How many validation pictures the maps are drawn for.
DRAWN = 10


class Recorder(Closing):
    """Writes a run's checkpoints, heads, metrics and pictures of maps, and draws its bar.

    Args:
        folder: where they go.
        training: the run.
        report: told a line about every validation.
        show_progress: draw the bar.
    """

    def __init__(
        self,
        folder: RunFolder,
        training: HeadTraining,
        report: Callable[[str], None],
        *,
        show_progress: bool,
    ) -> None:
        self._folder, self._training, self._report = folder, training, report
        self._started = time.monotonic()
        self._metrics = MetricsFile(folder.metrics, training.step)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        self._bar = Progress(*columns, transient=True, disable=not show_progress)
        self._task = self._bar.add_task("", loss="")
        with ExitStack() as stack:
            self._tensorboard = SummaryWriter(
                str(folder.path / "tensorboard"), purge_step=training.step or None
            )
            stack.callback(self._tensorboard.close)
            stack.enter_context(self._bar)
            self._opened = stack.pop_all()

    def close(self) -> None:
        """Take the bar away, and write what TensorBoard's writer still holds."""
        self._opened.close()

    def begin_epoch(self) -> None:
        """Set the bar to where the epoch is."""
        epoch, done = divmod(self._training.step, self._training.steps_per_epoch)
        title = f"Epoch {epoch + 1}/{self._training.recipe.run.epochs}"
        total = self._training.steps_per_epoch
        self._bar.reset(self._task, description=title, total=total, completed=done, loss="")

    def record_step(self, row: Mapping[str, float]) -> None:
        """Note the loss of a step."""
        self._note(row, "training")
        self._bar.update(self._task, advance=1, loss=f"loss {row['loss']:.4f}")
        if self._training.step in EARLY_STEPS:
            self.draw_maps()

    def save_checkpoint(self) -> None:
        """Write what `--resume` goes on from, and the head as it is now.

        Raises:
            TrainingError: if the head is spoiled or the disk takes no more.
        """
        state = self._training.state()
        with self._training.judged_head():
            self._folder.save_checkpoint(state, self._training.network)

    def record_validation(self, row: Mapping[str, float], *, is_best: bool) -> None:
        """Note a validation, write a checkpoint, and the head as the best one if it is.

        Raises:
            TrainingError: if the head is spoiled or the disk takes no more.
        """
        self._note(row, "validation")
        if is_best:
            with self._training.judged_head():
                self._folder.save_head(self._training.network, self._folder.best_head)
        self.save_checkpoint()
        self.draw_maps()
        self._report(
            f"epoch {self._epoch()}/{self._training.recipe.run.epochs}: validation loss "
            f"{row['loss']:.4f}, average drop {row['average_drop']:.1f} %, increase in confidence "
            f"{row['increase_in_confidence']:.1f} %{', the best so far' if is_best else ''}"
        )

    def _epoch(self) -> int:
        """Return the epoch of the last step, from 1."""
        return (self._training.step - 1) // self._training.steps_per_epoch + 1

    def _note(self, row: Mapping[str, float], split: str) -> None:
        step = self._training.step
        seconds = time.monotonic() - self._started
        self._metrics.add(
            {**row, "step": step, "epoch": self._epoch(), "split": split, "seconds": seconds}
        )
        for name, value in row.items():
            if name != "lr":
                self._tensorboard.add_scalar(f"{split}/{name}", value, step)

    def draw_maps(self) -> None:
        """Write maps over the first validation pictures, as they are at this step."""
        training = self._training
        pictures, masked = training.validation_pictures, training.masked
        drawn = [pictures[0, index][0] for index in range(min(DRAWN, len(pictures)))]
        with training.judged_head(), torch.no_grad():
            pixels = torch.stack(drawn).to(training.fabric.device)
            features, labels = masked.look(masked.shares(pixels.float()))
            maps = masked.masks(features, labels[:, None])
            maps = resize_map(maps, masked.size)[:, 0].cpu()
        names = training.network.backbone.labels
        cells = []
        for picture, heat, label in zip(drawn, maps.numpy(), labels.tolist(), strict=True):
            image = shown(picture.permute(1, 2, 0).numpy())
            caption = f"{names[label] if names else label}, mean {heat.mean():.2f}"
            cells.append((blend(image, heat), caption))
        sheet = contact_sheet(cells)
        folder = self._folder.path / "maps"
        folder.mkdir(exist_ok=True)
        sheet.save(folder / f"step-{training.step:06d}.jpg", quality=90)
        self._tensorboard.add_image("maps", np.asarray(sheet), training.step, dataformats="HWC")
