"""`ablate`: heads trained and scored side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tame_deploy.cli.recipe_options import (
    explained_interrupt,
    report_line,
    require_training,
)
from tame_deploy.cli.screen import console
from tame_deploy.errors import InputError


def ablate(
    study: Annotated[str, typer.Argument(help=r"TOML file: recipe, \[runs.NAME], \[evaluation].")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="A folder with one run folder each.")
    ] = "runs/ablation",
) -> None:
    """Train and evaluate variants, layer sets and losses side by side; goes on after a kill."""
    require_training("tensorboard", "matplotlib")
    from tame_deploy.ablation.study import read_study, run_study
    from tame_deploy.ablation.tables import study_markdown, study_rows
    from tame_deploy.cli.screen import print_table, score_table

    with explained_interrupt():
        rows = run_study(
            read_study(study), output, show_progress=sys.stdout.isatty(), report=report_line
        )
    headings, lines = study_rows(rows)
    print_table(score_table(f"ablation of {study}", headings, lines))
    table = Path(output) / "ablation.md"
    try:
        table.write_text(study_markdown(rows), encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {table}: {error.strerror or error}") from error
    console.print(f"[green]wrote[/] {escape(str(table))}")
