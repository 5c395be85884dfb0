"""`train`, `find-lr` and `ablate`: from data to a head."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tame_deploy.cli import INTERRUPTED
from tame_deploy.cli.backbone_options import folder_name
from tame_deploy.cli.options import (
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
from tame_deploy.cli.screen import console, download_bar, notes, printable
from tame_deploy.errors import InputError, require_extra

if TYPE_CHECKING:
    from tame_deploy.training.find_lr import RangeTest
    from tame_deploy.training.recipe import ModelConfig, Recipe
    from tame_deploy.training.train_head import TrainedHead

#: Which key of the recipe an option is for.
_RECIPE_KEYS = {
    "backbone": "model.backbone",
    "weights": "model.weights",
    "layers": "model.layers",
    "width": "model.width",
    "init": "model.init",
    "prefix_tokens": "model.prefix_tokens",
    "preprocessing": "model.preprocessing",
    "task": "model.task",
    "outputs": "model.outputs",
    "classes": "model.classes",
    "transform_input": "model.transform_input",
    "trust_remote_code": "model.trust_remote_code",
    "data": "data.train",
    "validation": "data.validation",
    "data_root": "data.root",
    "epochs": "run.epochs",
    "batch_size": "run.batch_size",
    "lr": "optimizer.max_lr",
    "precision": "run.precision",
    "seed": "run.seed",
}

#: Keys of a recipe's model that are options of `export` as they are.
_PASSED_ON = (
    "classes", "task", "outputs", "input", "window", "resize", "crop", "interpolation", "rescale",
    "channel_order", "pad_level", "preprocessing", "labels", "prefix_tokens",
)  # fmt: skip

RecipeOption = Annotated[
    str | None,
    typer.Option(
        help="default, published (as the papers train), vgg16, resnet50, demo, or a TOML file."
    ),
]
TrainBackboneOption = Annotated[
    str | None, typer.Option("--backbone", "-b", help="As of export; the recipe's.")
]
TrainWeightsOption = Annotated[str | None, typer.Option(help="As of export; the recipe's.")]
TrainLayersOption = Annotated[
    str | None, typer.Option(help="Feature layers a,b,c; the recipe's, or the papers'.")
]
TrainWidthOption = Annotated[
    str | None,
    typer.Option(help="Channels of narrow branches, or a share such as 1/8; the recipe's."),
]
InitOption = Annotated[
    Literal["auto", "cam", "random"] | None,
    typer.Option(help="Where a head starts: as CAM (auto: if there is one), or random."),
]
TrainPreprocessingOption = Annotated[
    str | None,
    typer.Option("--preprocessing", help="TOML file that says how pictures are prepared."),
]
TrainDataOption = Annotated[
    str | None,
    typer.Option(help="Folder, list file, torchvision:NAME[:SPLIT] or demo:COUNT to train on."),
]
BatchOption = Annotated[int | None, typer.Option(help="Pictures a process and batch.")]
PrecisionOption = Annotated[str | None, typer.Option(help="32-true, 16-mixed or bf16-mixed.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other key of the recipe, section.key=value; repeatable."),
]


def train(
    context: typer.Context,
    recipe: RecipeOption = None,
    backbone: TrainBackboneOption = None,
    weights: TrainWeightsOption = None,
    layers: TrainLayersOption = None,
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
    _require_extra("tensorboard")
    changes = _changes(
        context,
        settings,
        backbone=backbone,
        weights=weights,
        layers=split_layers(layers),
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
    with _explained_interrupt():
        if resume and recipe is None and backbone is None:
            chosen = _stored_recipe(output, changes)
        else:
            chosen = _recipe(recipe, changes)
        folder = output or str(Path("runs") / folder_name(chosen.model.backbone))
        _train(chosen, folder, resume=resume, overwrite=overwrite)


def _train(recipe: Recipe, folder: str, *, resume: bool, overwrite: bool) -> None:
    from tame_deploy.training.train_head import train_head

    with download_bar(f"{recipe.model.backbone} weights") as progress:
        trained = train_head(
            recipe,
            folder,
            resume=resume,
            overwrite=overwrite,
            show_progress=_is_first_process() and sys.stdout.isatty(),
            report=_report,
            progress=progress,
        )
    if _is_first_process():
        _show_trained(trained, recipe.model)


def _show_trained(trained: TrainedHead, model: ModelConfig) -> None:
    for reason in trained.unreadable:
        notes.print(f"not read, another in its place: {printable(reason)}", markup=False)
    if 0 < trained.seen_classes < trained.classes:
        notes.print(
            f"[yellow]note:[/] the classifier named {trained.seen_classes} of {trained.classes} "
            "classes in these pictures; maps of the others were not trained"
        )
    done = "trained" if trained.seen_classes else "finished already,"
    console.print(
        f"[green]{done}[/] {trained.steps} steps, best validation loss {trained.best_loss:.4f}: "
        f"{escape(str(trained.best_head))}"
    )
    console.print(f"look at   {escape(str(trained.folder / 'maps'))}")
    console.print(f"try       {escape(export_command(model, trained.best_head))}", soft_wrap=True)


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
    words += ["--trust-remote-code"] if model.trust_remote_code else []
    return shlex.join([*words, "--head", str(head)])


def find_lr(
    context: typer.Context,
    recipe: RecipeOption = None,
    backbone: TrainBackboneOption = None,
    weights: TrainWeightsOption = None,
    layers: TrainLayersOption = None,
    prefix_tokens: PrefixTokensOption = None,
    preprocessing: TrainPreprocessingOption = None,
    classes: ClassesOption = None,
    task: TaskOption = None,
    outputs: OutputsOption = None,
    transform_input: TransformInputOption = None,
    trust_remote_code: TrustOption = False,
    data: TrainDataOption = None,
    data_root: DataRootOption = None,
    batch_size: BatchOption = None,
    precision: PrecisionOption = None,
    settings: SetOption = None,
    lowest: Annotated[float, typer.Option(help="First learning rate.")] = 1e-8,
    highest: Annotated[float, typer.Option(help="Last learning rate.")] = 10.0,
    steps: Annotated[int | None, typer.Option(help="Steps of the test; an epoch.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="The plot.")] = "find-lr.png",
) -> None:
    """Find the learning rate: raise it until the loss bursts, and plot what happened."""
    _require_extra("matplotlib")
    changes = _changes(
        context,
        settings,
        backbone=backbone,
        weights=weights,
        layers=split_layers(layers),
        prefix_tokens=prefix_tokens,
        preprocessing=preprocessing,
        classes=classes,
        task=task,
        outputs=outputs,
        transform_input=None if transform_input is None else transform_input == "yes",
        trust_remote_code=trust_remote_code,
        data=data,
        data_root=data_root,
        batch_size=batch_size,
        precision=precision,
    )
    with _explained_interrupt():
        chosen = _recipe(recipe, changes)
        found = _find_lr(chosen, (lowest, highest), steps)
        path = found.draw(Path(output))
    if chosen.model.weights == "random":
        notes.print(
            "[yellow]speed only:[/] the backbone has random weights; the rate means nothing"
        )
    console.print(
        f"[green]suggested[/] --lr {found.suggestion:.1e} (the loss falls fastest there; it is "
        f"lowest at {found.lowest:.1e})"
    )
    console.print(f"look at   {escape(str(path))}")


def _find_lr(recipe: Recipe, rates: tuple[float, float], steps: int | None) -> RangeTest:
    from tame_deploy.training.find_lr import find_lr as run_test

    columns = (
        TextColumn("Raising the rate"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with (
        download_bar(f"{recipe.model.backbone} weights") as progress,
        Progress(*columns, console=notes, disable=not notes.is_terminal) as bar,
    ):
        task = bar.add_task("", total=None)
        return run_test(
            recipe,
            lowest=rates[0],
            highest=rates[1],
            steps=steps,
            advance=lambda done, of: bar.update(task, completed=done, total=of),
            report=_report,
            progress=progress,
        )


def ablate(
    study: Annotated[str, typer.Argument(help=r"TOML file: recipe, \[runs.NAME], \[evaluation].")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="A folder with one run folder each.")
    ] = "runs/ablation",
) -> None:
    """Train and evaluate variants, layer sets and losses side by side; goes on after a kill."""
    _require_extra("tensorboard", "matplotlib")
    from tame_deploy.ablation.study import read_study, run_study
    from tame_deploy.ablation.tables import study_markdown, study_rows
    from tame_deploy.cli.screen import print_table, score_table

    with _explained_interrupt():
        rows = run_study(
            read_study(study), output, show_progress=sys.stdout.isatty(), report=_report
        )
    headings, lines = study_rows(rows)
    print_table(score_table(f"ablation of {study}", headings, lines))
    table = Path(output) / "ablation.md"
    try:
        table.write_text(study_markdown(rows), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {table}: {error.strerror or error}") from error
    console.print(f"[green]wrote[/] {escape(str(table))}")


def _require_extra(*modules: str) -> None:
    common = ("torch", "torchvision", "safetensors", "lightning", "tomli_w")
    require_extra("train", *common, *modules)


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _report(line: str) -> None:
    notes.print(printable(line), markup=False)


@contextmanager
def _explained_interrupt() -> Iterator[None]:
    """Say what Ctrl-C left, and end with the exit status of an interrupted program."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if _is_first_process():
            reason = str(interrupt) or "interrupted before anything was written"
            notes.print(f"[yellow]stopped:[/] {escape(printable(reason))}")
        raise typer.Exit(INTERRUPTED) from None


def _changes(context: typer.Context, settings: list[str] | None, **options: Any) -> dict[str, Any]:
    """Return what the options that were given say of the recipe, by key."""
    from tame_deploy.training.recipe import parse_value

    given = given_options(context)
    changes = {_RECIPE_KEYS[name]: value for name, value in options.items() if name in given}
    for setting in settings or ():
        key, sign, value = setting.partition("=")
        if not sign or key.strip().count(".") != 1:
            raise InputError(f"found --set {setting!r}; expected section.key=value")
        changes[key.strip()] = parse_value(value.strip())
    return changes


def _stored_recipe(output: str | None, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe of the run that is to go on, changed as the options say."""
    from tame_deploy.artifact.decoding import read_toml

    stored = Path(output or "") / "recipe.toml"
    if not (output and stored.is_file()):
        raise InputError(f"there is no run to resume in {output or 'no --output'}")
    return _changed(read_toml(stored), changes)


def _recipe(name: str | None, changes: Mapping[str, Any]) -> Recipe:
    """Return a shipped recipe or that of a file, changed as the options say."""
    from tame_deploy.training.recipe import recipe_table

    backbone = changes.get("model.backbone")
    if name is None and backbone is None:
        raise InputError("found neither --recipe nor --backbone; expected one of them")
    table = recipe_table(name or "default")
    recipes_own = table.get("model", {}).get("backbone")
    if backbone is not None and recipes_own not in (None, backbone):
        table = {**table, "model": {}}  # its layers and head are the other backbone's
    return _changed(table, changes)


def _changed(table: Mapping[str, Any], changes: Mapping[str, Any]) -> Recipe:
    from tame_deploy.training.recipe import decode_recipe

    merged = {section: dict(v) if isinstance(v, dict) else v for section, v in table.items()}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if isinstance(merged.setdefault(section, {}), dict):  # else the recipe is refused below
            merged[section][name] = value
    return decode_recipe(merged)
