"""What `train`, `find-lr` and `ablate` share: their options, and the recipe that these change."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from tame_deploy.cli import INTERRUPTED
from tame_deploy.cli.options import given_options
from tame_deploy.cli.screen import notes, printable
from tame_deploy.errors import InputError, require_extra

if TYPE_CHECKING:
    from tame_deploy.training.recipe import Recipe

#: Which key of the recipe an option is for.
_RECIPE_KEYS = {
    "backbone": "model.backbone",
    "weights": "model.weights",
    "layers": "model.layers",
    "auxiliary": "model.auxiliary",
    "auxiliary_weights": "model.auxiliary_weights",
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

RecipeOption = Annotated[
    str | None,
    typer.Option(
        help="default, published (as the papers train), vgg16, resnet50, p-tame, demo, or a TOML "
        "file."
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


def require_training(*modules: str) -> None:
    common = ("torch", "torchvision", "safetensors", "lightning", "tomli_w")
    require_extra("train", *common, *modules)


def is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def report_line(line: str) -> None:
    notes.print(printable(line), markup=False)


@contextmanager
def explained_interrupt() -> Iterator[None]:
    """Say what Ctrl-C left, and end with the exit status of an interrupted program."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if is_first_process():
            reason = str(interrupt) or "interrupted before anything was written"
            notes.print(f"[yellow]stopped:[/] {escape(printable(reason))}")
        raise typer.Exit(INTERRUPTED) from None


def recipe_changes(
    context: typer.Context, settings: list[str] | None, **options: Any
) -> dict[str, Any]:
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


def stored_recipe(output: str | None, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe of the run that is to go on, changed as the options say."""
    from tame_deploy.artifact.decoding import read_toml

    stored = Path(output or "") / "recipe.toml"
    if not (output and stored.is_file()):
        raise InputError(f"there is no run to resume in {output or 'no --output'}")
    return _changed(read_toml(stored), changes)


def chosen_recipe(name: str | None, changes: Mapping[str, Any]) -> Recipe:
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
