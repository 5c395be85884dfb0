"""What `evaluate` and `compare` show: a bar, scores, and the verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tame_deploy.cli.screen import console, notes, printable

if TYPE_CHECKING:
    from tame_deploy.evaluation.result import Evaluation

__all__ = ["metric_lines", "progress_bar", "show_unread", "show_verdict"]


def metric_lines(found: Evaluation) -> list[list[str]]:
    """Return a line a metric: title, mean, interval, and how many pictures have it."""
    from tame_deploy.evaluation.result import TITLES, title_of

    estimates = found.estimates()
    lines = []
    for name in (name for name in TITLES if name in estimates):
        score = estimates[name]
        interval = f"{score.low:.2f} to {score.high:.2f}"
        lines.append([title_of(name), f"{score.mean:.2f}", interval, str(score.pictures)])
    return lines


def show_verdict(found: Evaluation) -> None:
    """Print what the numbers say in words; what is judged comes after its judgement."""
    colours = {"good": "green", "warning": "red", "unclear": "yellow"}
    for finding in found.verdict:
        colour = colours.get(finding.judgement)
        judged = "" if colour is None else f"[{colour}]{finding.judgement}:[/] "
        console.print(f"{judged}{escape(finding.sentence)}")


def progress_bar() -> Progress:
    """Return a bar that counts pictures."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=notes)


def show_unread(reasons: Sequence[str]) -> None:
    """List pictures that could not be read."""
    if reasons:
        notes.print(f"[yellow]not read[/] ({len(reasons)}):")
        for reason in reasons:
            notes.print(f"  {printable(reason)}", markup=False)
