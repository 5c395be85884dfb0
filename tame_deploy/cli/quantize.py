"""`calibrate` and `quantize`: lower precision that keeps the explanation."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tame_deploy.artifact.types import MAX_UNREADABLE
from tame_deploy.cli.options import ArtifactArgument, DataRootOption
from tame_deploy.cli.screen import (
    console,
    fidelity_table,
    notes,
    print_table,
    printable,
    score_table,
    step_spinner,
    warn_speed_only,
)
from tame_deploy.errors import InputError, require_extra

if TYPE_CHECKING:
    from tame_deploy.artifact.directory import Artifact
    from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
    from tame_deploy.calibration.quantize import Quantized

ImagesOption = Annotated[
    str,
    typer.Option(
        "--images", help="Folder, list file, torchvision:NAME[:SPLIT] or demo:COUNT, as --data."
    ),
]
CountOption = Annotated[int, typer.Option(min=1, help="Pictures that calibrate.")]
BUDGET_S = 300.0
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of their choice.")]


def calibrate(
    artifact: ArtifactArgument,
    images: ImagesOption,
    count: CountOption = 128,
    seed: SeedOption = 0,
    data_root: DataRootOption = None,
) -> None:
    """Watch what an artifact's activations span on some pictures, and keep it for any target."""
    require_extra("quantize", "onnx", "scipy")
    require_extra("cpu", "onnxruntime")
    from tame_deploy.artifact.directory import open_artifact
    from tame_deploy.calibration.observing.calibrate import calibrate_artifact, check_float32

    opened = open_artifact(artifact)
    check_float32(opened)
    warn_speed_only(opened.manifest)
    source = picture_source(opened, images, data_root)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as bar:
        choosing = bar.add_task("Choosing pictures", total=count)
        watching = bar.add_task("Watching activations", total=count)
        found = calibrate_artifact(
            opened,
            source,
            count=count,
            seed=seed,
            choosing=lambda more: bar.advance(choosing, more),
            advance=lambda more: bar.advance(watching, more),
        )
    show_notes([f"not read: {reason}" for reason in found.unreadable])
    record = found.calibration
    path = escape(str(found.artifact.path))
    console.print(
        f"[green]calibrated[/] {path} on {count} pictures of {escape(printable(images))}: "
        f"{len(record.tensors)} activations, key {record.key[:16]}…"
    )
    made = str(found.artifact.path)
    command = ["tame-deploy", "quantize", made, "--images", images, "-o", f"{made}-int8"]
    console.print(f"try        {escape(shlex.join(command))}", soft_wrap=True)


def quantize(
    artifact: ArtifactArgument,
    images: ImagesOption,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Artifact directory; ARTIFACT-PRECISION.")
    ] = None,
    precision: Annotated[
        Literal["int8", "fp16", "int8+fp16"], typer.Option(help="What layers become.")
    ] = "int8",
    target: Annotated[
        Literal["cpu", "tensorrt"], typer.Option(help="Whose kernels will run it.")
    ] = "cpu",
    floor: Annotated[
        str | None, typer.Option(help="Least fidelity: top1=0.94,iou15=0.90,pearson5=0.98.")
    ] = None,
    repair: Annotated[
        str, typer.Option(help="all, none, or some of equalize,ranges,bias,layers.")
    ] = "all",
    ranges: Annotated[
        Literal["minmax", "moving-average", "percentile", "entropy", "mse", "mse-symmetric"],
        typer.Option(help="Range method to start with; the repair `ranges` tries the others."),
    ] = "minmax",
    count: CountOption = 128,
    judge: Annotated[
        int, typer.Option(min=1, help="Other pictures that judge, at most; at least 32 if so many.")
    ] = 1000,
    seed: SeedOption = 0,
    budget: Annotated[float, typer.Option(min=0, help="Seconds for trials of repairs.")] = BUDGET_S,
    allow_low_fidelity: Annotated[
        bool, typer.Option("--allow-low-fidelity", help="Keep what is below the floor, and say so.")
    ] = False,
    data_root: DataRootOption = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an artifact that is there.")] = False,
) -> None:
    """Make an INT8 or FP16 artifact whose explanations are held to float32's."""
    require_extra("quantize", "onnx", "scipy", "matplotlib")
    require_extra("cpu", "onnxruntime")
    from tame_deploy.artifact.directory import open_artifact
    from tame_deploy.calibration.observing.calibrate import check_float32
    from tame_deploy.calibration.options import QuantizeOptions
    from tame_deploy.calibration.quantize import quantize_artifact
    from tame_deploy.calibration.search.repair import parse_repairs
    from tame_deploy.metrics.fidelity import parse_floor

    if precision == "fp16" and (repair, ranges, budget) != ("all", "minmax", BUDGET_S):
        raise InputError("--repair, --ranges and --budget are for int8; fp16 needs no trials")
    options = QuantizeOptions(
        precision,
        target,
        parse_floor(floor),
        count,
        judge,
        min(32, judge),
        seed,
        parse_repairs(repair),
        ranges,
        budget,
        allow_low_fidelity,
    )
    opened = open_artifact(artifact)
    check_float32(opened)
    warn_speed_only(opened.manifest)
    source = picture_source(opened, images, data_root)
    given = Path(artifact).absolute()
    target_path = output or str(given.with_name(f"{given.name}-{precision.replace('+', '-')}"))
    with step_spinner() as report:
        made = quantize_artifact(
            opened, source, target_path, options, overwrite=overwrite, report=report
        )
    show_notes(made.notes)
    show_quantized(made)


def picture_source(artifact: Artifact, images: str, data_root: str | None) -> PicturesToChooseFrom:
    """Return the pictures of --images, as the artifact's network sees them."""
    from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
    from tame_deploy.data.sources import PictureSource, open_pictures

    pictures = open_pictures(
        PictureSource(images, data_root, max_unreadable=MAX_UNREADABLE),
        artifact.manifest.classes,
        artifact.read_labels(),
    )
    return PicturesToChooseFrom(pictures, images, artifact.manifest.image)


def show_notes(lines: list[str]) -> None:
    """Print what a user should know besides the result."""
    for line in lines:
        notes.print(f"[yellow]note:[/] {escape(printable(line))}")


def show_quantized(made: Quantized) -> None:
    """Print how a quantization came about and what it is like."""
    outcome, manifest = made.outcome, made.artifact.manifest
    headings = ["repair", "joint error", "top-1", "IoU 15 %", "Pearson 5th", "", "seconds"]
    lines = [
        [
            step.name,
            f"{step.score.error:.5f}",
            f"{step.score.top1:.3f}",
            f"{step.score.iou15:.3f}",
            f"{step.score.pearson5:.4f}",
            "used" if step.used else "no gain",
            f"{step.seconds:.0f}",
        ]
        for step in outcome.steps
    ]
    for number, point in enumerate(outcome.curve[1 : outcome.chosen + 1], 1):
        score = point.score
        lines.append(
            [
                f"layers {number}: {point.kept_share:.0%} kept",
                f"{score.error:.5f}",
                f"{score.top1:.3f}",
                f"{score.iou15:.3f}",
                f"{score.pearson5:.4f}",
                "used",
                "",
            ]
        )
    print_table(score_table("on the pictures that chose the plan", headings, lines))
    assert manifest.fidelity is not None
    console.print(fidelity_table(manifest.fidelity))
    for batch, found in outcome.times.items():
        console.print(
            f"speed      batch {batch}: {found['ms']:.1f} ms, float32 {found['fp32_ms']:.1f} ms, "
            f"{found['speedup']:.2f}x"
        )
    if not outcome.times:
        console.print("speed      not measured: this machine has no TensorRT engine of it")
    if manifest.fidelity.allowed_below:
        notes.print("[yellow]below the floor:[/] kept because --allow-low-fidelity was given")
    path = escape(str(made.artifact.path))
    size = made.artifact.model.stat().st_size / 1e6
    console.print(f"[green]made[/]       {path} ({size:.1f} MB, {manifest.precision})")
    console.print(f"look at    {path}/before-after.png")
    if "curve.png" in manifest.files:
        console.print(f"           {path}/curve.png")
