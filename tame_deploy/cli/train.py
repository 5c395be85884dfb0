"""`train`: from data to a head."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from tame_deploy.cli.backbone_options import folder_name
from tame_deploy.cli.options import (
    AuxiliaryOption,
    AuxiliaryWeightsOption,
    ClassesOption,
    DataRootOption,
    OutputsOption,
    PrefixTokensOption,
    TaskOption,
    TransformInputOption,
    TrustOption,
    given_options,
    split_layers,
)
from tame_deploy.cli.recipe_options import (
    BatchOption,
    InitOption,
    PrecisionOption,
    RecipeOption,
    SetOption,
    TrainBackboneOption,
    TrainDataOption,
    TrainLayersOption,
    TrainPreprocessingOption,
    TrainWeightsOption,
    TrainWidthOption,
    chosen_recipe,
    explained_interrupt,
    is_first_process,
    recipe_changes,
    report_line,
    require_training,
    stored_recipe,
)
from tame_deploy.cli.screen import console, download_bar, notes, printable
from tame_deploy.errors import InputError

if TYPE_CHECKING:
    from tame_deploy.training.recipe import ModelConfig, Recipe
    from tame_deploy.training.train_head import TrainedHead


#: Keys of a recipe's model that are options of `export` as they are.
_PASSED_ON = (
    "classes", "task", "outputs", "input", "window", "resize", "crop", "interpolation", "rescale",
    "channel_order", "pad_level", "preprocessing", "labels", "prefix_tokens",
)  # fmt: skip


def train(
    context: typer.Context,
    recipe: RecipeOption = None,
    backbone: TrainBackboneOption = None,
    weights: TrainWeightsOption = None,
    layers: TrainLayersOption = None,
    auxiliary: AuxiliaryOption = None,
    auxiliary_weights: AuxiliaryWeightsOption = None,
    width: TrainWidthOption = None,
    init: InitOption = None,
    prefix_tokens: PrefixTokensOption = None,
    preprocessing: TrainPreprocessingOption = None,
    classes: ClassesOption = None,
    task: TaskOption = None,
    outputs: OutputsOption = None,
    transform_input: TransformInputOption = None,
    trust_remote_code: TrustOption = False,
    data: TrainDataOption = None,
    validation: Annotated[
        str | None, typer.Option(help="Pictures to validate on; a part of --data.")
    ] = None,
    data_root: DataRootOption = None,
    epochs: Annotated[int | None, typer.Option(help="Times through the data.")] = None,
    batch_size: BatchOption = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    precision: PrecisionOption = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    settings: SetOption = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder of the run; runs/BACKBONE.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Start anew in a folder with a run.")] = False,
) -> None:
    """Train an attention head on a frozen backbone; under torchrun, on many devices at once."""
    if resume and overwrite:
        raise InputError("found both --resume and --overwrite; expected one of them")
    require_training("tensorboard")
    changes = recipe_changes(
        context,
        settings,
        backbone=backbone,
        weights=weights,
        layers=split_layers(layers),
        auxiliary=auxiliary,
        auxiliary_weights=auxiliary_weights,
        width=width,
        init=init,
        prefix_tokens=prefix_tokens,
        preprocessing=preprocessing,
        classes=classes,
        task=task,
        outputs=outputs,
        transform_input=None if transform_input is None else transform_input == "yes",
        trust_remote_code=trust_remote_code,
        data=data,
        validation=validation,
        data_root=data_root,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        precision=precision,
        seed=seed,
    )
    with explained_interrupt():
        if resume and recipe is None and backbone is None:
            chosen = stored_recipe(output, changes)
        else:
            chosen = chosen_recipe(recipe, changes)
        _check_start(chosen, given_options(context))
        folder = output or str(Path("runs") / folder_name(chosen.model.backbone))
        _train(chosen, folder, resume=resume, overwrite=overwrite)


def _check_start(recipe: Recipe, given: frozenset[str]) -> None:
    """Refuse options that say how a head begins, where it goes on from another."""
    for name in ("width", "init"):
        if name in given and recipe.model.head != "random":
            raise InputError(
                f"--{name} says how a new head begins, and model.head is {recipe.model.head!r}: "
                f"leave --{name} out, or take model.head = random"
            )


def _train(recipe: Recipe, folder: str, *, resume: bool, overwrite: bool) -> None:
    from tame_deploy.training.train_head import train_head

    with download_bar(f"{recipe.model.backbone} weights") as progress:
        trained = train_head(
            recipe,
            folder,
            resume=resume,
            overwrite=overwrite,
            show_progress=is_first_process() and sys.stdout.isatty(),
            report=report_line,
            progress=progress,
        )
    if is_first_process():
        _show_trained(trained, recipe)


def _show_trained(trained: TrainedHead, recipe: Recipe) -> None:
    for reason in trained.unreadable:
        notes.print(f"not read, another in its place: {printable(reason)}", markup=False)
    shared = recipe.optimizer.class_sharing > 0
    learnt = "learnt only what all classes share" if shared else "were not trained"
    if 0 < trained.seen_classes < trained.classes:
        notes.print(
            f"[yellow]note:[/] the classifier named {trained.seen_classes} of {trained.classes} "
            f"classes in these pictures; maps of the others {learnt}"
        )
    done = "trained" if trained.seen_classes else "finished already,"
    console.print(
        f"[green]{done}[/] {trained.steps} steps, best validation loss {trained.best_loss:.4f}: "
        f"{escape(str(trained.best_head))}"
    )
    console.print(f"look at   {escape(str(trained.folder / 'maps'))}")
    console.print(
        f"try       {escape(export_command(recipe.model, trained.best_head))}", soft_wrap=True
    )


def export_command(model: ModelConfig, head: Path) -> str:
    """Return the command that exports what was trained."""
    words = ["tame-deploy", "export", "--backbone", model.backbone]
    words += [] if model.weights == "default" else ["--weights", model.weights]
    if model.image_size is not None:
        words += ["--image-size", "{}x{}".format(*model.image_size)]
    for name in ("mean", "std"):
        numbers = getattr(model, name)
        words += [] if numbers is None else [f"--{name}", ",".join(map(str, numbers))]
    for name in _PASSED_ON:
        value = getattr(model, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    if model.transform_input is not None:
        words += ["--transform-input", "yes" if model.transform_input else "no"]
    # The head's file says which auxiliary network it reads, but not where own code or weights are.
    if model.auxiliary is not None and ":" in model.auxiliary:
        words += ["--auxiliary", model.auxiliary]
    if model.auxiliary_weights not in (None, "default"):
        words += ["--auxiliary-weights", str(model.auxiliary_weights)]
    words += ["--trust-remote-code"] if model.trust_remote_code else []
    return shlex.join([*words, "--head", str(head)])
