"""`explain`: pictures in, explained pictures out."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tame_deploy.cli.options import (
    ArtifactArgument,
    BackendOption,
    ComputeOption,
    EngineOption,
    GpuOption,
    ProviderOption,
    ThreadsOption,
)
from tame_deploy.cli.screen import console, notes, printable, warn_speed_only
from tame_deploy.errors import InputError

if TYPE_CHECKING:
    from tame_deploy.runtime.explain.explainer import Explainer
    from tame_deploy.runtime.jobs.files import ExplainedFiles, FileOptions
    from tame_deploy.runtime.jobs.sources import Source

#: What a shell says of a program that Ctrl-C ended.
_INTERRUPTED = 130


def explain(
    artifact: ArtifactArgument,
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures, folders, globs, videos; - for paths on standard input."),
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="Where the results go.")] = "out",
    class_id: Annotated[
        list[int] | None, typer.Option(help="Explain this class, repeatable.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Explain the class of this name, repeatable.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Explain this many of the likeliest classes.")
    ] = None,
    webcam: Annotated[
        int | None, typer.Option(min=0, help="Explain a camera until Ctrl-C, by its number.")
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, help="Of videos and cameras, one frame in so many.")
    ] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many pictures.")] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw overlays and panels.")
    ] = True,
    records: Annotated[
        Literal["jsonl", "parquet"], typer.Option(help="What results are written as.")
    ] = "jsonl",
    maps: Annotated[
        Literal["npz", "png"] | None,
        typer.Option(help="Keep maps: shards of a thousand, or grey pictures."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is in the output folder.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read pictures; one a core, up to 4.")
    ] = None,
    backend: BackendOption = "auto",
    engine: EngineOption = None,
    device: GpuOption = 0,
    precision: ComputeOption = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
    overwrite: Annotated[bool, typer.Option(help="Write into a folder that holds files.")] = False,
    show: Annotated[
        bool, typer.Option("--open", help="Open the contact sheet at the end.")
    ] = False,
) -> None:
    """Classify pictures and show where the classifier looked: overlays, panels, results.jsonl."""
    from tame_deploy.runtime.backends.protocol import BackendOptions
    from tame_deploy.runtime.explain.load import load
    from tame_deploy.runtime.jobs.files import FileOptions
    from tame_deploy.runtime.jobs.sources import open_source

    named_sources = images or []
    source = open_source(
        [name for name in named_sources if name != "-"],
        output,
        paths=sys.stdin if "-" in named_sources else None,
        webcam=webcam,
        every=every,
    )
    source = source if limit is None else source.limited(limit)
    written = FileOptions(pictures, records, maps, resume, batch_size, workers)
    options = BackendOptions(
        threads=threads,
        providers=tuple(provider) if provider else None,
        device=device,
        engine=engine,
        precision=precision,
    )
    wanted = Wanted(class_id, label, top_k, output, overwrite, show)
    with load(artifact, backend=backend, options=options) as explainer:
        explain_source(explainer, source, wanted, written)


@dataclass(frozen=True)
class Wanted:
    """Which classes, and where the results go, as the options say."""

    class_id: list[int] | None
    label: list[str] | None
    top_k: int | None
    output: str
    overwrite: bool
    show: bool


def explain_source(
    explainer: Explainer, source: Source, wanted: Wanted, written: FileOptions
) -> None:
    """Explain what a source gives with a bar, and say what came of it."""
    from tame_deploy.runtime.jobs.files import explain_files, prepare_output

    warn_speed_only(explainer.artifact.manifest)
    named = [explainer.class_id(name) for name in wanted.label or []]
    chosen = list(dict.fromkeys([*(wanted.class_id or []), *named]))
    if chosen and wanted.top_k is not None:
        raise InputError("found both --top-k and classes to explain; expected one of them")
    explainer.check_classes(chosen or None, wanted.top_k)
    target = prepare_output(wanted.output, overwrite=wanted.overwrite or written.resume)
    with _bar() as bar:
        task = bar.add_task("", total=source.total)
        summary = explain_files(
            explainer,
            source,
            target,
            class_ids=chosen or None,
            top_k=wanted.top_k,
            options=written,
            advance=lambda count: bar.advance(task, count),
        )
    _show(summary, source.total, explainer.backend.name, wanted.show)


def _bar() -> Progress:
    return Progress(
        TextColumn("Explaining"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=notes,
    )


class _RateColumn(ProgressColumn):
    """Pictures a second, over the last ones."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def _show(summary: ExplainedFiles, total: int | None, backend: str, show: bool) -> None:
    before = f", {summary.done_before} were done before" if summary.done_before else ""
    of = "" if total is None else f" of {total}"
    console.print(
        f"[green]explained[/] {summary.explained}{of} pictures with {backend}{before}: "
        f"{escape(str(summary.output))}"
    )
    if summary.sheet is not None:
        console.print(f"look at   {escape(str(summary.sheet))}")
        if show and _has_screen():
            typer.launch(str(summary.sheet))
    if summary.unreadable:
        notes.print(f"[yellow]not read[/] ({len(summary.unreadable)}):")
        for reason in summary.unreadable:
            notes.print(f"  {printable(reason)}", markup=False)
    if summary.stopped:
        notes.print("[yellow]stopped:[/] go on with --resume")
        raise typer.Exit(_INTERRUPTED)
    if summary.unreadable:
        raise typer.Exit(1)


def _has_screen() -> bool:
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
