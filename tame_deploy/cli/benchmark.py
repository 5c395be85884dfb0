"""`benchmark`: how fast an artifact is here, and what its explanations cost."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tame_deploy.cli.options import ArtifactArgument, ThreadsOption
from tame_deploy.cli.screen import console, notes, print_table, score_table, warn_speed_only

if TYPE_CHECKING:
    from tame_deploy.benchmark.result import Benchmark


def benchmark(
    artifact: ArtifactArgument,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Pictures at a time, repeatable; 1 and 8.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="What to measure, repeatable; all that can run it."),
    ] = None,
    threads: ThreadsOption = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is opened and timed.")] = 5,
    seconds: Annotated[float, typer.Option(min=0, help="For each and batch size.")] = 5.0,
    relatives: Annotated[
        bool,
        typer.Option("--relatives/--no-relatives", help="Also what was made of it, beside it."),
    ] = True,
    footprint: Annotated[
        bool,
        typer.Option("--footprint/--no-footprint", help="Memory and first answer as well."),
    ] = True,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for JSON, Markdown and a plot.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Write into a folder that holds files.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")] = False,
) -> None:
    """Time an artifact and its relatives on everything here, beside their classifiers alone."""
    from tame_deploy.artifact.directory import open_artifact
    from tame_deploy.benchmark.run import BenchmarkOptions, run_benchmark
    from tame_deploy.runtime.jobs.files import prepare_output

    opened = open_artifact(artifact)
    warn_speed_only(opened.manifest)
    options = BenchmarkOptions(
        batches=tuple(dict.fromkeys(batch or (1, 8))),
        threads=threads,
        backends=tuple(backend or ()),
        rounds=rounds,
        seconds=seconds,
        relatives=relatives,
        footprint=footprint,
    )
    folder = prepare_output(output, overwrite=overwrite) if output else None
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task("", total=None)
        found = run_benchmark(
            opened,
            options,
            lambda now, steps: bar.update(task, advance=1, total=steps, description=escape(now)),
        )
    if json:
        print(found.to_json(), end="")
    else:
        _show(found)
    if folder is not None:
        _write(found, folder)


def _show(found: Benchmark) -> None:
    from tame_deploy.benchmark.result import HEADINGS

    table = score_table(
        "one call after the other, in turns", HEADINGS, [row.cells() for row in found.rows]
    )
    print_table(table)
    for line in found.arithmetic:
        console.print(escape(line))
    for row in found.rows:
        for timing in filter(None, (row.timing, row.plain)):
            if timing.failure:
                what = "'s classifier alone" if timing.candidate.plain else ""
                name = f"{timing.candidate.artifact.path.name}{what} on {timing.candidate.name}"
                notes.print(f"[yellow]failed:[/] {escape(name)}: {escape(timing.failure)}")
    if not any(row.plain for row in found.rows):
        notes.print("[yellow]note:[/] what explanations cost needs pip install onnx")
    noisy = found.noisy
    if noisy:
        notes.print(
            f"[yellow]noisy:[/] {len(noisy)} of {len(found.rows)} rows differ from round to round "
            "by more than 15 %; nothing close can be told apart. End what else runs, and repeat"
        )


def _write(found: Benchmark, folder: Path) -> None:
    (folder / "benchmark.json").write_text(found.to_json(), encoding="utf-8")
    (folder / "benchmark.md").write_text(found.to_markdown(), encoding="utf-8")
    plot = None
    if importlib.util.find_spec("matplotlib") is not None:
        from tame_deploy.benchmark.plot import draw_benchmark

        plot = draw_benchmark(found, folder / "benchmark.png")
    shown = f"; look at {escape(str(plot))}" if plot else ""
    console.print(f"[green]wrote[/] {escape(str(folder))}{shown}")
