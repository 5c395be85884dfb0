"""`explain`: pictures in, explained pictures out."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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


def explain(
    artifact: ArtifactArgument,
    images: Annotated[list[str], typer.Argument(help="Pictures, folders of them, or globs.")],
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
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 8,
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
    from tame_deploy.runtime.backend import BackendOptions
    from tame_deploy.runtime.explain_files import explain_files, find_images, prepare_output
    from tame_deploy.runtime.explainer import load

    paths = find_images(images, output)
    options = BackendOptions(
        threads, tuple(provider) if provider else None, device, engine, precision=precision
    )
    with load(artifact, backend=backend, options=options) as explainer:
        warn_speed_only(explainer.artifact.manifest)
        named = [explainer.class_id(name) for name in label or []]
        chosen = list(dict.fromkeys([*(class_id or []), *named]))
        if chosen and top_k is not None:
            raise InputError("found both --top-k and classes to explain; expected one of them")
        explainer.check_classes(chosen or None, top_k)
        target = prepare_output(output, overwrite=overwrite)
        columns = (
            TextColumn("Explaining"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=notes) as progress:
            task = progress.add_task("", total=len(paths))
            summary = explain_files(
                explainer,
                paths,
                target,
                class_ids=chosen or None,
                top_k=top_k,
                batch_size=batch_size,
                advance=lambda count: progress.advance(task, count),
            )
    console.print(
        f"[green]explained[/] {summary.explained} of {len(paths)} pictures with "
        f"{explainer.backend.name}: {escape(str(target))}"
    )
    if summary.sheet is not None:
        console.print(f"look at   {escape(str(summary.sheet))}")
        if show and _has_screen():
            typer.launch(str(summary.sheet))
    if summary.unreadable:
        notes.print(f"[yellow]not read[/] ({len(summary.unreadable)}):")
        for reason in summary.unreadable:
            notes.print(f"  {printable(reason)}", markup=False)
        raise typer.Exit(1)


def _has_screen() -> bool:
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
