"""Training a head: recipe in, heads and their history out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from lightning.fabric import Fabric

from tame_deploy.errors import TrainingError
from tame_deploy.model.backbones import Backbone, BackboneRequest, Preprocessing, load_backbone
from tame_deploy.model.download import Progress
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network
from tame_deploy.model.soundness import check_sound
from tame_deploy.model.task import task_note
from tame_deploy.training.checkpoints import RunFolder
from tame_deploy.training.data import PictureTensors, open_training_data, plain_errors
from tame_deploy.training.device import flushed_denormals, open_fabric
from tame_deploy.training.head_training import HeadTraining, count_steps
from tame_deploy.training.loop import run_training
from tame_deploy.training.recipe import Recipe
from tame_deploy.training.recorder import Recorder
from tame_deploy.training.starting import start_head

__all__ = ["TrainedHead", "build_recipe_network", "report_backbone", "train_head"]


@dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """What a run left behind.

    `seen_classes` is how many classes the classifier named in what this call trained on: maps of
    others were never trained, but for what classes share. `unreadable` lists pictures that others
    stood in for.
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
    """Return the backbone and a head, which `start_head` then starts from where it should.

    Raises:
        InputError: if they cannot be built or do not belong together.
        DownloadError: if published weights cannot be had.
    """
    model = recipe.model
    said = {item.name: getattr(model, item.name) for item in fields(Preprocessing)}
    request = BackboneRequest(
        model.backbone,
        weights=model.weights,
        classes=model.classes,
        preprocessing=model.preprocessing,
        transform_input=model.transform_input,
        trust_remote_code=model.trust_remote_code,
        labels=model.labels,
        prefix_tokens=model.prefix_tokens,
        task=model.task,
        outputs=model.outputs,
        seed=recipe.run.seed,
        **said,
    )
    head = HeadRequest(
        model.head,
        variant=model.variant,
        tokens=model.tokens,
        width=model.width if model.head == "random" else None,
        auxiliary=model.auxiliary,
        auxiliary_weights=model.auxiliary_weights,
        seed=recipe.run.seed,
    )
    network = build_network(load_backbone(request, progress), head, model.layers, progress)
    _ = network.attention_head  # or there is nothing to train
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
        InputError: for data, folders and recipes that cannot be used, and for a backbone that is
            random or whose maps do not move with the picture.
        TrainingError: if the loss is no number or the disk is full.
        KeyboardInterrupt: if Ctrl-C was pressed; says what there is to go on from.
    """
    folder = RunFolder(output)
    with _explained_failures(folder), flushed_denormals():
        fabric = open_fabric(recipe.run)
        network = build_recipe_network(recipe, progress)
        check_sound(network.tap, network.features, network.backbone.image)
        data = open_training_data(recipe, network)
        if fabric.is_global_zero:
            _report_data(network, data[0], report)
        start = folder.resume(recipe, fabric.world_size, data[0].digest) if resume else None
        count_steps(recipe, len(data[0]), fabric.world_size)  # before what takes long
        if not resume:
            folder.check_free(overwrite=overwrite)
        if start is None:
            _start_alike(fabric, recipe, network, data[0], report)
        training = HeadTraining(fabric, network, recipe, data, start)
        if fabric.is_global_zero and resume:
            folder.clear_torn()
        elif fabric.is_global_zero:
            folder.start(recipe, overwrite=overwrite)
        if training.step < training.total_steps:
            with _recorder(folder, training, report, show_progress) as recorder:
                run_training(training, recorder)
        training.share_findings()
    training.finish()
    return _summary(folder, training)


def _start_alike(
    fabric: Fabric,
    recipe: Recipe,
    network: ExplainedNetwork,
    pictures: PictureTensors,
    report: Callable[[str], None],
) -> None:
    """Start the head in the first process, and hand its weights to the others."""
    if fabric.is_global_zero:
        start_head(recipe.model, network, pictures, fabric.device, report)
    if fabric.world_size > 1:
        network.head.load_state_dict(fabric.broadcast(network.head.state_dict()))


def _recorder(
    folder: RunFolder, training: HeadTraining, report: Callable[[str], None], show_progress: bool
) -> AbstractContextManager[Recorder | None]:
    """Return what writes down the run, in the one process that does."""
    if not training.fabric.is_global_zero:
        return nullcontext()
    return Recorder(folder, training, report, show_progress=show_progress)


def _summary(folder: RunFolder, training: HeadTraining) -> TrainedHead:
    return TrainedHead(
        folder=folder.path,
        best_head=folder.best_head,
        last_head=folder.last_head,
        steps=training.total_steps,
        best_loss=training.best,
        classes=training.network.head.config.classes,
        seen_classes=len(training.seen),
        unreadable=(*training.unreadable.values(), *training.unreadable_validation.values()),
    )


def _report_data(
    network: ExplainedNetwork, training: PictureTensors, report: Callable[[str], None]
) -> None:
    if network.backbone.source.random:
        report("speed only: the backbone has random weights; what a head learns means nothing")
    if network.auxiliary is not None and network.auxiliary.source.random:
        report("speed only: the auxiliary network has random weights")
    report_backbone(network.backbone, report)
    for line in getattr(training.pictures, "missing", ()):
        report(f"left out: {line}")


def report_backbone(backbone: Backbone, report: Callable[[str], None]) -> None:
    """Say what was assumed of a backbone, and what its outputs are taken for."""
    for line in backbone.remarks:
        report(line)
    note = task_note(backbone)
    if note is not None:
        report(note)


@contextmanager
def _explained_failures(folder: RunFolder) -> Iterator[None]:
    """Turn what ends a run into one line that says how to go on."""
    try:
        with plain_errors():
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {folder.how_to_resume()}") from None
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"out of memory; lower --batch-size. {folder.how_to_resume()}"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise TrainingError(f"cannot write: {reason}. {folder.how_to_resume()}") from error
