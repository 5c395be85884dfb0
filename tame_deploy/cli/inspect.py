"""`inspect`: an artifact's manifest as a card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tame_deploy.artifact.arithmetic import read_arithmetic
from tame_deploy.artifact.directory import Artifact, open_artifact
from tame_deploy.artifact.manifest import CalibrationSummary, Manifest, WeightsSource
from tame_deploy.artifact.types import Task
from tame_deploy.cli.inspect_engine import engine_folder, inspect_engine
from tame_deploy.cli.screen import (
    console,
    describe_arithmetic,
    fidelity_table,
    notes,
    parity_table,
    warn_speed_only,
)
from tame_deploy.errors import TameError

#: Each task, and what its probabilities are.
_TASK_WORDS: dict[Task, str] = {
    "multiclass": "one class of several; probabilities are a softmax",
    "multilabel": "any number of labels; each probability is a sigmoid",
    "binary": "one logit, for and against; its sigmoid and the rest to 1",
}


def inspect(
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="Artifact directory, or an engine in it.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Show what an artifact or an engine in it is, after checking its files."""
    folder = engine_folder(artifact)
    if folder is not None:
        inspect_engine(folder, as_json=json)
        return
    from tame_deploy.runtime.backends.tensorrt.engines import engine_folders

    opened = open_artifact(artifact)
    manifest = opened.manifest
    warn_speed_only(manifest)
    if json:
        print(manifest.to_json(), end="")
        return
    card = Table(title=manifest.name, title_justify="left", show_header=False)
    card.add_column(style="bold")
    card.add_column(overflow="fold")
    for name, value in _rows(manifest):
        card.add_row(name, Text(value))
    for name, value in _arithmetic(opened):
        card.add_row(name, Text(value))
    for name in manifest.files:
        size = (opened.path / name).stat().st_size / 1e6
        card.add_row(name, f"{size:.1f} MB, sha256 {manifest.files[name][:16]}…")
    for folder in engine_folders(opened):
        card.add_row(f"engines/{folder.name}", Text(describe_engine(opened, folder)))
    console.print(card)
    if manifest.parity is not None:
        console.print(parity_table(manifest.parity, "when it was made"))
    if manifest.fidelity is not None:
        console.print(fidelity_table(manifest.fidelity))
        if manifest.fidelity.allowed_below:
            notes.print("[yellow]below the floor:[/] kept with --allow-low-fidelity")


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
    image, graph = manifest.image, manifest.graph
    size = f"{image.height}x{image.width}"
    cut = {
        "center": f"short side to {image.resize}, central {size}",
        "none": f"squeezed into {size}",
        "pad": f"fitted into {size}, padded with {image.pad_level}",
    }[image.crop]
    deep = image.dtype == "uint16"
    window = f", levels {_window(image.window)}" if deep else ""
    classes = {
        "selectable": f"any class, or the {graph.ranks} likeliest by rank",
        "predicted": f"the {graph.ranks} likeliest",
        "all": "every class",
    }[graph.explain]
    return [
        ("backbone", f"{manifest.backbone} ({_source(manifest.weights['backbone'])})"),
        ("head", f"{manifest.head.variant} ({_source(manifest.weights['head'])})"),
        *_auxiliary(manifest),
        ("layers", ", ".join(manifest.feature_layers)),
        ("classes", str(manifest.classes)),
        ("task", f"{manifest.task}: {_TASK_WORDS[manifest.task]}"),
        ("explains", f"{classes}; {graph.maps} maps"),
        ("pictures", f"{cut}, {image.interpolation}{window}"),
        ("normalised", f"by the {image.normalise}, mean {image.mean}, std {image.std}"),
        ("inputs", "\n".join(map(str, manifest.inputs))),
        ("outputs", "\n".join(map(str, manifest.outputs))),
        ("precision", f"{_precision(manifest)}, opset {graph.opset}"),
        *([("calibrated", _calibrated(manifest.calibration))] if manifest.calibration else []),
        *([("made of", "; ".join(manifest.parents))] if manifest.parents else []),
        ("made with", ", ".join(f"{k} {v}" for k, v in manifest.tool_versions.items())),
    ]


def _auxiliary(manifest: Manifest) -> list[tuple[str, str]]:
    if manifest.auxiliary is None:
        return []
    return [("auxiliary", f"{manifest.auxiliary} ({_source(manifest.weights['auxiliary'])})")]


def _window(window: tuple[int, int] | None) -> str:
    return "from the least to the greatest" if window is None else f"{window[0]} to {window[1]}"


def _arithmetic(artifact: Artifact) -> list[tuple[str, str]]:
    """Return what a graph of lower precision was made for, and whether it is verified here."""
    from tame_deploy.runtime.backends.processor import made_for, processor_and_sets
    from tame_deploy.runtime.backends.protocol import BackendOptions
    from tame_deploy.runtime.backends.table import BACKENDS
    from tame_deploy.runtime.verify.trust import describe_here

    if artifact.manifest.precision == "fp32":
        return []
    here = [processor_and_sets()]
    for spec in BACKENDS:
        said = describe_here(artifact, spec, BackendOptions()) if spec.on_cpu else None
        if said is not None:
            here.append(f"{spec.name} {spec.version}: {said}")
    record = read_arithmetic(artifact)
    return [
        ("made for", made_for(artifact.manifest)),
        *([("arithmetic", describe_arithmetic(record))] if record is not None else []),
        ("here", "\n".join(here)),
    ]


def describe_engine(artifact: Artifact, folder: Path) -> str:
    """Return what an engine is in a line, after checking its files."""
    from tame_deploy.runtime.backends.tensorrt.engines import check_graph, check_plan, read_engine

    try:
        engine = read_engine(folder)
        check_graph(artifact, engine)
        check_plan(artifact, engine)
        sidecar = engine.sidecar
    except TameError as error:
        return f"damaged: {error}"
    verified = f"verified on {sidecar.verified_on}" if sidecar.verified_on else "not verified"
    return (
        f"{sidecar.flavour} {sidecar.version}, {sidecar.plan_bytes / 1e6:.1f} MB, for "
        f"{sidecar.runs_where}; {verified}"
    )


def _precision(manifest: Manifest) -> str:
    return f"{manifest.precision} for {manifest.target}" if manifest.target else manifest.precision


def _calibrated(summary: CalibrationSummary) -> str:
    return f"on {summary.pictures} pictures of {summary.source}, seed {summary.seed}"


def _source(source: WeightsSource) -> str:
    return f"{source.source}; {source.licence}" if source.licence else source.source
