"""`doctor`: what is installed, what the device is, what will run, and why nothing faster does."""

from __future__ import annotations

import json as json_
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from tame_deploy import __version__
from tame_deploy.cli.cpp import EXPERIMENTAL
from tame_deploy.cli.inspect import describe_engine
from tame_deploy.cli.options import GpuOption
from tame_deploy.cli.screen import console, print_wrapped, score_table
from tame_deploy.errors import TameError

if TYPE_CHECKING:
    from tame_deploy.artifact.directory import Artifact
    from tame_deploy.runtime.selection.auto import Prospect


def doctor(
    artifact: Annotated[
        str | None, typer.Argument(metavar="[ARTIFACT]", help="Artifact to be run.")
    ] = None,
    device: GpuOption = 0,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say which backends can be used here, which one will be, and what the others lack."""
    from tame_deploy.artifact.directory import open_artifact
    from tame_deploy.runtime.backends.processor import made_for
    from tame_deploy.runtime.backends.protocol import BackendOptions
    from tame_deploy.runtime.backends.tensorrt.engines import engine_folders
    from tame_deploy.runtime.selection.auto import prospects

    opened = open_artifact(artifact) if artifact else None
    found = list(prospects(opened, BackendOptions(device=device)))
    chosen = _chosen(found, opened)
    facts = _facts(device)
    if json:
        backends = [_described(one, opened) for one in found]
        chosen_title = chosen.spec.title if chosen else None
        print(json_.dumps({**facts, "backends": backends, "chosen": chosen_title}, indent=2))
        return
    for name, value in facts.items():
        console.print(f"{name:10} {escape(str(value))}")
    print_wrapped(_table(found, chosen, opened))
    if opened is not None:
        for folder in engine_folders(opened):
            console.print(f"engines/{folder.name}: {escape(describe_engine(opened, folder))}")
        if opened.manifest.precision != "fp32":
            console.print(f"made for   {made_for(opened.manifest)}")
    what = escape(str(opened.path)) if opened else "artifacts"
    if chosen is None:
        console.print(f"nothing here can run {what}: pip install 'tame-deploy\\[cpu]'")
        raise typer.Exit(1)
    console.print(f"[green]will run[/]   {what} with {chosen.spec.title}")
    measured = [one.spec.name for one in found if one.spec.on_cpu and one.refusal is None]
    if chosen.spec.on_cpu and len(measured) > 1:
        console.print(
            f"           {' or '.join(measured)}, as measured when an artifact is first run"
        )
    if opened is None:
        console.print("try        tame-deploy doctor ARTIFACT, which looks at its engines as well")


def _chosen(found: list[Prospect], artifact: Artifact | None) -> Prospect | None:
    """Return the backend that `auto` would take, as far as that is known without measuring."""
    from tame_deploy.runtime.selection.auto import cpu_versions
    from tame_deploy.runtime.selection.backend_benchmark import remembered_choice

    first = next((one for one in found if one.refusal is None), None)
    if first is None or not first.spec.on_cpu or artifact is None:
        return first
    known = remembered_choice(artifact, cpu_versions(found), None)
    return next((one for one in found if one.spec.name == known and one.spec.on_cpu), first)


def _trust(one: Prospect, artifact: Artifact | None) -> str | None:
    """Return whether a backend is known to compute a graph of lower precision as it was made."""
    from tame_deploy.runtime.backends.protocol import BackendOptions
    from tame_deploy.runtime.verify.trust import describe_here

    if artifact is None or one.refusal is not None:
        return None
    return describe_here(artifact, one.spec, BackendOptions())


def _described(one: Prospect, artifact: Artifact | None) -> dict[str, str | None]:
    return {
        "backend": one.spec.name,
        "provider": one.spec.provider,
        "version": one.spec.version,
        "refusal": one.refusal,
        "title": one.spec.title,
        "arithmetic": _trust(one, artifact),
    }


def _table(found: list[Prospect], chosen: Prospect | None, artifact: Artifact | None) -> Any:
    lines = []
    for one in found:
        state = "will be used" if one is chosen else one.refusal or "could be used"
        trust = _trust(one, artifact)
        state = f"{state}; {trust}" if trust else state
        lines.append([escape(one.spec.title), one.spec.version or "no", escape(state)])
    table = score_table("backends, fastest first", ["backend", "installed", "here"], lines)
    for column in table.columns:
        column.justify, column.overflow = "left", "fold"
    return table


def _facts(device: int) -> dict[str, str]:
    from tame_deploy.files import cache_directory, is_writable
    from tame_deploy.runtime.backends.cores import usable_processors
    from tame_deploy.runtime.backends.processor import processor_and_sets
    from tame_deploy.runtime.backends.tensorrt import cuda

    try:
        gpu = cuda.probe(device)
        shown = f"{gpu}, driver for CUDA {'.'.join(map(str, gpu.driver_cuda))}"
    except TameError as error:
        shown = f"none: {error}"
    cache, words = cache_directory(), ", cannot be written: set TAME_DEPLOY_CACHE"
    return {
        "version": f"tame-deploy {__version__}",
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "processor": processor_and_sets(),
        "may use": f"{usable_processors()} of {os.cpu_count()} processors",
        "GPU": shown,
        "libtame": EXPERIMENTAL,
        "cache": f"{cache} ({_size(cache) / 1e6:.0f} MB{'' if is_writable(cache) else words})",
    }


def _size(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
