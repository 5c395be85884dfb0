"""`find-lr`: which learning rates suit a head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tame_deploy.cli.options import (
    ClassesOption,
    DataRootOption,
    OutputsOption,
    PrefixTokensOption,
    TaskOption,
    TransformInputOption,
    TrustOption,
    split_layers,
)
from tame_deploy.cli.recipe_options import (
    BatchOption,
    PrecisionOption,
    RecipeOption,
    SetOption,
    TrainBackboneOption,
    TrainDataOption,
    TrainLayersOption,
    TrainPreprocessingOption,
    TrainWeightsOption,
    chosen_recipe,
    explained_interrupt,
    recipe_changes,
    report_line,
    require_training,
)
from tame_deploy.cli.screen import console, download_bar, notes

if TYPE_CHECKING:
    from tame_deploy.training.find_lr import RangeTest
    from tame_deploy.training.recipe import Recipe


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
    require_training("matplotlib")
    changes = recipe_changes(
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
    with explained_interrupt():
        chosen = chosen_recipe(recipe, changes)
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
            report=report_line,
            progress=progress,
        )
