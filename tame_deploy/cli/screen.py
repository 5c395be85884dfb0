"""What all commands show alike: progress, warnings, and the table of a parity check."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from tame_deploy.artifact.arithmetic import ArithmeticReport
from tame_deploy.artifact.manifest import FidelityReport, Manifest, ParityReport

if TYPE_CHECKING:
    from tame_deploy.model.backbones import Backbone

__all__ = [
    "console",
    "download_bar",
    "fidelity_table",
    "notes",
    "parity_table",
    "print_table",
    "print_wrapped",
    "printable",
    "score_table",
    "show_assumed_size",
    "show_log",
    "show_parity",
    "show_remarks",
    "show_task",
    "step_spinner",
    "warn_speed_only",
]

#: Results go to standard output, everything said along the way to standard error.
console = Console(highlight=False, soft_wrap=True)
notes = Console(stderr=True, highlight=False, soft_wrap=True)


class _ToNotes(logging.Handler):
    """Shows what the package logs as notes, in one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        words = " ".join(printable(record.getMessage()).split())
        colour, label = ("yellow", "warning") if record.levelno >= logging.WARNING else ("", "note")
        notes.print(
            f"[{colour}]{label}:[/] {escape(words)}" if colour else f"note: {escape(words)}"
        )


def show_log() -> None:
    """Print what the package logs from now on, notes and warnings."""
    log = logging.getLogger("tame_deploy")
    if not log.handlers:
        log.addHandler(_ToNotes())
        log.setLevel(logging.INFO)


def printable(text: str) -> str:
    """Return a text that any terminal takes, file names that are no UTF-8 included."""
    return text.encode("utf-8", "replace").decode()


def show_remarks(backbone: Backbone) -> None:
    """Say what a user must know of how a backbone was read."""
    for line in backbone.remarks:
        notes.print(f"[yellow]note:[/] {escape(printable(line))}")


def show_assumed_size(backbone: Backbone) -> None:
    """Say so if a size was assumed, to commands for which nothing else of pictures matters."""
    if backbone.assumes_size:
        size = f"{backbone.image.height}x{backbone.image.width}"
        notes.print(
            f"[yellow]note:[/] assumed pictures of {size}, as nobody declared a size; "
            "pass --image-size for others"
        )


def show_task(backbone: Backbone) -> None:
    """Say what a network's outputs are taken for, where that is not the usual."""
    from tame_deploy.model.task import task_note

    note = task_note(backbone)
    if note is not None:
        notes.print(f"[yellow]task:[/] {note}")


def warn_speed_only(manifest: Manifest) -> None:
    """Say that an artifact's weights are random, if they are."""
    if manifest.speed_only:
        parts = [part for part, source in manifest.weights.items() if source.random]
        have = "has" if len(parts) == 1 else "have"
        notes.print(
            f"[yellow]speed only:[/] the {' and '.join(parts)} of {escape(manifest.name)} {have} "
            "random weights; "
            "its classes or maps mean nothing"
        )


@contextmanager
def step_spinner() -> Iterator[Callable[[str], None]]:
    """Yield a function that names the step being done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    live = notes.is_terminal
    with Progress(*columns, console=notes, transient=True, disable=not live) as progress:
        task = progress.add_task("Starting", total=None)
        yield lambda step: progress.update(task, description=step)


@contextmanager
def download_bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a function that moves a bar, which appears with the first bytes."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    progress = Progress(*columns, console=notes, disable=not notes.is_terminal)
    tasks: list[Any] = []
    with ExitStack() as shown:

        def update(done: int, total: int | None) -> None:
            if not tasks:  # not before: other libraries draw bars of their own
                shown.enter_context(progress)
                tasks.append(progress.add_task(f"Downloading {what}"))
            progress.update(tasks[0], completed=done, total=total)

        yield update


def parity_table(parity: ParityReport, when: str = "now") -> Table:
    """Return a parity report for the screen; `when` says when it was measured."""
    table = Table(
        title=f"against the PyTorch network, {when}", title_justify="left", show_header=False
    )
    sizes = "" if when.startswith("batch") else f", at batch 1 and {parity.pictures}"
    table.add_row("pictures", f"{parity.pictures}{sizes}")
    table.add_row("top-1 agreement", f"{parity.top1_agreement:.0%}")
    table.add_row("largest logit error", f"{parity.logit_error:.1e} of the range")
    table.add_row("largest map error", f"{parity.map_error:.1e} of the range")
    table.add_row("least map correlation", f"{parity.map_correlation:.6f}")
    return table


def show_parity(parity: ParityReport) -> None:
    """Print a parity report, and what is odd about the maps."""
    console.print(parity_table(parity))
    for warning in parity.warnings:
        notes.print(f"[yellow]warning:[/] {warning}")


def fidelity_table(fidelity: FidelityReport, when: str = "") -> Table:
    """Return a fidelity report for the screen; `when` says under which circumstances."""
    table = Table(
        title=f"against float32, on {fidelity.pictures} held-out pictures{when and f', {when}'}",
        title_justify="left",
        show_header=False,
    )
    worst = escape(printable(PurePath(fidelity.pearson_worst_picture).name))
    floor = fidelity.floor
    rows = [
        ("top-1 agreement", f"{fidelity.top1_agreement:.2%}", floor.get("top1")),
        ("top-5 agreement", f"{fidelity.top5_agreement:.2%}", None),
        ("logit cosine", f"{fidelity.logit_cosine:.5f}", None),
        ("map Pearson, mean", f"{fidelity.pearson_mean:.5f}", None),
        ("map Pearson, 5th percentile", f"{fidelity.pearson_5th:.5f}", floor.get("pearson5")),
        ("map Pearson, worst", f"{fidelity.pearson_worst:.5f} ({worst})", None),
        ("map Spearman, mean and 5th", _pair(fidelity.spearman_mean, fidelity.spearman_5th), None),
        ("IoU of the top 15 %", f"{fidelity.iou_15:.4f}", floor.get("iou15")),
        ("IoU of the top 50 %", f"{fidelity.iou_50:.4f}", None),
        ("shift of the peak", f"{fidelity.peak_shift:.1f} pixels", None),
        ("AD, change at 100, 50, 15 %", _changes(fidelity.average_drop), None),
        ("IC, change at 100, 50, 15 %", _changes(fidelity.increase), None),
        ("flat maps", f"{fidelity.flat_maps} (float32: {fidelity.flat_maps_fp32})", None),
    ]
    if fidelity.top1 is not None and fidelity.top1_fp32 is not None:
        accuracy = f"{fidelity.top1:.2%} (float32: {fidelity.top1_fp32:.2%})"
        rows.insert(0, ("top-1 accuracy", accuracy, None))
    for name, value, least in rows:
        table.add_row(name, value, "" if least is None else f"floor {least:g}")
    return table


def describe_arithmetic(found: ArithmeticReport) -> str:
    """Return on which processors a graph is as true as its fidelity says, in words."""
    layers = f"{found.layers} layers on integers"
    if not found.may_saturate:
        return f"{layers}, the same on every processor: no sum of two products overflows"
    changes = ", ".join(
        f"{words} {getattr(found.exact, name):.3f} -> {getattr(found.saturating, name):.3f}"
        for name, words in (("top1", "top-1"), ("iou15", "IoU 15 %"), ("pearson5", "Pearson 5th"))
    )
    return (
        f"{layers}; without VNNI {len(found.may_saturate)} may saturate, on {found.pictures} "
        f"pictures: {changes}"
    )


def _pair(first: float, second: float) -> str:
    return f"{first:.5f}, {second:.5f}"


def _changes(values: Mapping[str, float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in values.values())


def print_table(table: Table) -> None:
    """Print a table that must not lose digits, even if a narrow terminal wraps its lines."""
    Console(highlight=False, width=max(200, console.width)).print(table)


def print_wrapped(table: Table) -> None:
    """Print a table of words as wide as the terminal is."""
    Console(highlight=False).print(table)


def score_table(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """Return scores for the screen: names to the left, numbers to the right."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for line in lines:
        table.add_row(*line)
    return table
