"""What is kept and shown while training runs: metrics, checkpoints, heads, pictures of maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from tame_deploy.model.head import resize_map
from tame_deploy.picture.overlay import blend, contact_sheet
from tame_deploy.training.keeping import MetricsFile, RunFolder
from tame_deploy.training.module import HeadTraining

__all__ = ["Recorder"]

#: Steps after which maps are drawn, beside every validation: a head goes wrong early if it does.
EARLY_STEPS = (1, 10, 30, 100, 300, 1000, 3000)
#: How many validation pictures the maps are drawn for.
DRAWN = 10


class Recorder(Callback):
    """Writes the run's folder; only the first process does."""

    def __init__(self, folder: RunFolder, first_step: int, report: Callable[[str], None]) -> None:
        self.folder = folder
        self.first_step = first_step
        self.report = report
        self.last_step = first_step

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open metrics.csv, and draw the maps that training starts from."""
        if trainer.is_global_zero:
            self.metrics = MetricsFile(self.folder.metrics, self.first_step)
            if self.first_step == 0:
                self._draw(trainer, cast(HeadTraining, pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Note a step, and keep or draw what is due."""
        module = cast(HeadTraining, pl_module)
        step = module.step
        if step == self.last_step:  # gradients are being accumulated
            return
        self.last_step = step
        self._note(trainer, module, "training")
        if not trainer.is_global_zero:
            return
        # After an epoch's last step validation comes first, so that a resumed run has it behind it.
        if step % module.recipe.run.checkpoint_every == 0 and step % module.steps_per_epoch:
            self.folder.keep(module.state(), module.network[0])
        if step in EARLY_STEPS:
            self._draw(trainer, module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the validation, and keep the head if it is the best so far."""
        module = cast(HeadTraining, pl_module)
        row = module.row
        self._note(trainer, module, "validation")
        better = row["loss"] < module.best
        module.best = min(module.best, row["loss"])
        if not trainer.is_global_zero:
            return
        if better:
            self.folder.keep_head(module.network[0], self.folder.best_head)
        self.folder.keep(module.state(), module.network[0])
        self._draw(trainer, module)
        self.report(
            f"epoch {module.epoch + 1}/{module.recipe.run.epochs}: validation loss "
            f"{row['loss']:.4f}, average drop {row['average_drop']:.1f} %, increase in confidence "
            f"{row['increase_in_confidence']:.1f} %{', the best so far' if better else ''}"
        )

    def _note(self, trainer: Trainer, module: HeadTraining, split: str) -> None:
        if not trainer.is_global_zero:
            return
        facts = {
            "step": module.step,
            "epoch": (module.step - 1) // module.steps_per_epoch + 1,
            "split": split,
            "seconds": module.seconds(),
        }
        if split == "training":
            facts["lr"] = module.rate
        self.metrics.add(module.row | facts)
        if trainer.logger is not None:
            named = {f"{split}/{name}": value for name, value in module.row.items()}
            trainer.logger.log_metrics(named, module.step)

    def _draw(self, trainer: Trainer, module: HeadTraining) -> None:
        """Write maps over the first validation pictures, as they are at this step."""
        pictures = module.validation_pictures
        shown = [pictures[0, index][0] for index in range(min(DRAWN, len(pictures)))]
        was_training = module.head.training
        module.head.eval()
        with torch.no_grad():
            pixels = torch.stack(shown).to(module.device)
            features, labels = module.masked.look(pixels.float() / 255)
            maps = torch.sigmoid(module.head.class_maps(features, labels[:, None]).float())
            maps = resize_map(maps, module.masked.size)[:, 0].cpu()
        module.head.train(was_training)
        names = module.network[0].backbone.labels
        cells = []
        for picture, heat, label in zip(shown, maps.numpy(), labels.tolist(), strict=True):
            image = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
            caption = f"{names[label] if names else label}, mean {heat.mean():.2f}"
            cells.append((blend(image, heat), caption))
        sheet = contact_sheet(cells)
        folder = self.folder.path / "maps"
        folder.mkdir(exist_ok=True)
        sheet.save(folder / f"step-{module.step:06d}.jpg", quality=90)
        if trainer.logger is not None:
            trainer.logger.experiment.add_image(  # type: ignore[attr-defined]
                "maps", np.asarray(sheet), module.step, dataformats="HWC"
            )
