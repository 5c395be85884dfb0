"""Training a head: recipe in, heads and their history out."""

from __future__ import annotations

import logging
import os
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from tame_deploy.errors import InputError, TameError, TrainingError
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.download import Progress
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network
from tame_deploy.training.data import open_training_data
from tame_deploy.training.denormals import flushed_denormals
from tame_deploy.training.keeping import RunFolder
from tame_deploy.training.module import HeadTraining
from tame_deploy.training.recipe import Recipe, RunConfig
from tame_deploy.training.recorder import Recorder

__all__ = [
    "TrainedHead",
    "build_recipe_network",
    "choose_accelerator",
    "explained_device",
    "quiet_lightning",
    "train_head",
]


@dataclass(frozen=True)
class TrainedHead:
    """What a run left behind.

    `seen_classes` is how many classes the classifier named in what this call trained on: maps of
    others were never trained. `unreadable` lists pictures that others stood in for.
    """

    folder: Path
    best_head: Path
    last_head: Path
    steps: int
    best_loss: float
    classes: int
    seen_classes: int
    unreadable: tuple[str, ...]


def build_recipe_network(recipe: Recipe, progress: Progress | None = None) -> ExplainedNetwork:
    """Return the backbone and the head to start from.

    Raises:
        InputError: if they cannot be built or do not belong together.
        DownloadError: if published weights cannot be had.
    """
    model = recipe.model
    request = BackboneRequest(
        model.backbone,
        model.weights,
        model.classes,
        model.image_size,
        model.crop,
        model.mean,
        model.std,
        model.labels,
        recipe.run.seed,
    )
    head = HeadRequest(model.head, model.variant, model.tokens, recipe.run.seed)
    network = build_network(load_backbone(request, progress), head, model.layers, progress)
    if model.head == "random" and model.initial_bias:
        assert network.head.fuser.bias is not None
        network.head.fuser.bias.data.add_(model.initial_bias)
    return network


def train_head(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = False,
    report: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> TrainedHead:
    """Train a head on a frozen backbone and keep the best and the last one.

    Under torchrun, every process calls this and the work is shared.

    Args:
        recipe: every choice.
        output: the run's folder.
        resume: go on with the run in the folder, from its last checkpoint to the same end that it
            would have had.
        overwrite: start anew in a folder that holds a run.
        show_progress: draw a bar.
        report: told a line about every validation.
        progress: told how downloads go.

    Raises:
        InputError: for data, folders and recipes that cannot be used.
        TrainingError: if the loss is no number or the disk is full.
    """
    accelerator = choose_accelerator(recipe.run)
    network = build_recipe_network(recipe, progress)
    training, validation = open_training_data(recipe, network)
    folder = RunFolder(output)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    main_process = int(os.environ.get("RANK", "0")) == 0
    if network.backbone.source.random and main_process:
        report("speed only: the backbone has random weights; what a head learns means nothing")
    for line in getattr(training.pictures, "missing", ()) if main_process else ():
        report(f"left out: {line}")
    start = folder.resume(recipe, world, training.digest) if resume else None
    module = HeadTraining(network, recipe, training, validation, world=world, start=start)
    if main_process and not resume:
        folder.start(recipe, overwrite=overwrite)
    if module.first_step < module.total_steps:
        recorder = Recorder(folder, module.first_step, report)
        with flushed_denormals(), quiet_lightning(), explained_failures(folder.path):
            _trainer(recipe, module, recorder, accelerator, show_progress).fit(module)
    network.head.eval().requires_grad_(False)
    return _summarise(folder, module)


def _summarise(folder: RunFolder, module: HeadTraining) -> TrainedHead:
    return TrainedHead(
        folder.path,
        folder.best_head,
        folder.last_head,
        module.total_steps,
        module.best,
        module.network[0].head.config.classes,
        len(module.seen),
        (*module.unreadable.values(), *module.unreadable_validation.values()),
    )


def _trainer(
    recipe: Recipe, module: HeadTraining, recorder: Recorder, accelerator: str, show_progress: bool
) -> Trainer:
    run = recipe.run
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))  # torchrun says both
    folder = recorder.folder.path
    callbacks: list[Any] = [recorder]
    if show_progress:
        callbacks.append(_EpochBar(module))
    logger = TensorBoardLogger(
        folder, name="", version="tensorboard", purge_step=module.first_step or None
    )
    with explained_device():
        return Trainer(
            accelerator=accelerator,
            devices=local,
            num_nodes=world // local,
            strategy="ddp" if world > 1 else "auto",
            precision=run.precision,  # type: ignore[arg-type]
            max_epochs=run.epochs - module.first_step // module.steps_per_epoch,
            accumulate_grad_batches=run.accumulate,
            callbacks=callbacks,
            logger=logger,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=show_progress,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            reload_dataloaders_every_n_epochs=1,
            default_root_dir=folder,
        )


def choose_accelerator(run: RunConfig) -> str:
    """Return "gpu" or "cpu".

    Raises:
        InputError: for a precision that the processor does not have.
    """
    name = run.accelerator
    if name == "auto":
        name = "gpu" if torch.cuda.is_available() else "cpu"
    if name == "cpu" and run.precision == "16-mixed":
        raise InputError("run.precision 16-mixed needs a GPU; on a processor use bf16-mixed")
    return name


@contextmanager
def explained_device() -> Iterator[None]:
    """Turn what Lightning says of a device that is not there into one line."""
    try:
        yield
    except TameError:
        raise
    # It checks devices in many ways, each with an exception of its own.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot train on this machine as asked: {reason:.300}") from error


@contextmanager
def explained_failures(folder: Path) -> Iterator[None]:
    """Turn what ends a run into one line."""
    kept = f"go on from the last checkpoint with --resume -o {shlex.quote(str(folder))}"
    try:
        yield
    except InputError as error:
        # A loader's process wraps the error's text into its own traceback.
        last = str(error).strip().splitlines()[-1]
        raise InputError(last.removeprefix("tame_deploy.errors.InputError: ")) from error
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the first into the second
        raise TrainingError(f"interrupted; {kept}") from error
    except torch.OutOfMemoryError as error:
        raise TrainingError(f"out of memory; lower --batch-size. Then {kept}") from error
    except OSError as error:
        raise TrainingError(f"cannot write: {error.strerror or error}. Then {kept}") from error


class _EpochBar(RichProgressBar):
    """Lightning's bar, counting the recipe's epochs also after a resume."""

    def __init__(self, module: HeadTraining) -> None:
        super().__init__(leave=False)
        self._module = module

    def _get_train_description(self, _current_epoch: int) -> str:
        return f"Epoch {self._module.epoch + 1}/{self._module.recipe.run.epochs}"


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Leave out what Lightning says of hardware, tips and its own internals."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", message=".*(num_workers|lr_scheduler.step).*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
