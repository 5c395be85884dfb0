"""`calibrate` and `quantize`: lower precision that keeps the explanation."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tame_deploy.artifact.types import MAX_UNREADABLE
from tame_deploy.cli.options import ArtifactArgument, DataRootOption, given_options
from tame_deploy.cli.screen import (
    console,
    describe_arithmetic,
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
    from tame_deploy.calibration.search.search_plan import SearchResult

ImagesOption = Annotated[
    str,
    typer.Option(
        "--images", help="Folder, list file, torchvision:NAME[:SPLIT] or demo:COUNT, as --data."
    ),
]
CalibrationSizeOption = Annotated[int, typer.Option(min=1, help="Pictures that calibrate.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of their choice.")]


def calibrate(
    artifact: ArtifactArgument,
    images: ImagesOption,
    calibration_size: CalibrationSizeOption = 128,
    seed: SeedOption = 0,
    data_root: DataRootOption = None,
) -> None:
    """Record what an artifact's activations span on some pictures, for any target."""
    require_extra("quantize", "onnx", "scipy")
    require_extra("cpu", "onnxruntime")
    from tame_deploy.calibration.calibrate import calibrate_artifact

    opened = _open_float32(artifact)
    source = picture_source(opened, images, data_root)
    with _calibration_bars(calibration_size) as (choosing, observing):
        found = calibrate_artifact(
            opened,
            source,
            calibration_size=calibration_size,
            seed=seed,
            choosing=choosing,
            advance=observing,
        )
    show_notes([f"not read: {reason}" for reason in found.unreadable])
    record = found.calibration
    console.print(
        f"[green]calibrated[/] {escape(str(found.artifact.path))} on {calibration_size} pictures "
        f"of {escape(printable(images))}: {len(record.tensors)} activations, key {record.key[:16]}…"
    )
    made = str(found.artifact.path)
    command = ["tame-deploy", "quantize", made, "--images", images, "-o", f"{made}-int8"]
    console.print(f"try        {escape(shlex.join(command))}", soft_wrap=True)


def quantize(
    context: typer.Context,
    artifact: ArtifactArgument,
    images: ImagesOption,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Artifact directory; ARTIFACT-PRECISION.")
    ] = None,
    precision: Annotated[
        Literal["int8", "fp16", "int8+fp16"], typer.Option(help="What layers become.")
    ] = "int8",
    target: Annotated[
        Literal["cpu", "cpu-vnni", "tensorrt"],
        typer.Option(
            help="Whose kernels will run it: any processor's, those with VNNI or ARM's alone "
            "(finer weights), or TensorRT's."
        ),
    ] = "cpu",
    floor: Annotated[
        str | None, typer.Option(help="Least fidelity: top1=0.94,iou15=0.90,pearson5=0.98.")
    ] = None,
    recovery: Annotated[
        str,
        typer.Option(
            help="Accuracy recovery: all, none, or some of rounding,equalize,ranges,bias,layers."
        ),
    ] = "all",
    ranges: Annotated[
        Literal["minmax", "moving-average", "percentile", "entropy", "mse", "mse-symmetric"],
        typer.Option(help="Range method to start with; --recovery ranges tries the others."),
    ] = "minmax",
    calibration_size: CalibrationSizeOption = 128,
    held_out_size: Annotated[
        int, typer.Option(min=1, help="Other pictures that judge, at most; at least 32 if so many.")
    ] = 1000,
    seed: SeedOption = 0,
    budget: Annotated[
        float, typer.Option(min=0, help="Seconds for trials of accuracy recovery.")
    ] = 300.0,
    allow_low_fidelity: Annotated[
        bool, typer.Option("--allow-low-fidelity", help="Keep what is below the floor, and say so.")
    ] = False,
    data_root: DataRootOption = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an artifact that is there.")] = False,
) -> None:
    """Make an INT8 or FP16 artifact whose explanations are held to float32's."""
    require_extra("quantize", "onnx", "scipy", "matplotlib")
    require_extra("cpu", "onnxruntime")
    from tame_deploy.calibration.options import QuantizeOptions
    from tame_deploy.calibration.quantize import quantize_artifact
    from tame_deploy.calibration.search.recovery import parse_recovery
    from tame_deploy.metrics.fidelity import parse_floor

    if precision == "fp16" and given_options(context) & {"recovery", "ranges", "budget"}:
        raise InputError("--recovery, --ranges and --budget are for int8; fp16 needs no trials")
    options = QuantizeOptions(
        precision=precision,
        target=target,
        floor=parse_floor(floor),
        calibration_size=calibration_size,
        held_out_size=held_out_size,
        min_held_out_size=min(32, held_out_size),
        seed=seed,
        recovery=parse_recovery(recovery),
        ranges=ranges,
        budget_s=budget,
        allow_low_fidelity=allow_low_fidelity,
    )
    opened = _open_float32(artifact)
    source = picture_source(opened, images, data_root)
    given = Path(artifact).absolute()
    target_path = output or str(given.with_name(f"{given.name}-{precision.replace('+', '-')}"))
    with step_spinner() as report:
        made = quantize_artifact(
            opened, source, target_path, options, overwrite=overwrite, report=report
        )
    show_notes(made.notes)
    show_quantized(made)


def _open_float32(path: str) -> Artifact:
    """Open an artifact that may be calibrated and quantized."""
    from tame_deploy.artifact.directory import open_artifact
    from tame_deploy.calibration.graph import check_float32

    opened = open_artifact(path)
    check_float32(opened)
    warn_speed_only(opened.manifest)
    return opened


@contextmanager
def _calibration_bars(total: int) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Yield what advances two bars: pictures that were looked at, and pictures that were run."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, disable=not notes.is_terminal) as bar:
        choosing = bar.add_task("Choosing pictures", total=total)
        observing = bar.add_task("Observing activations", total=total)
        yield partial(bar.advance, choosing), partial(bar.advance, observing)


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
    record, manifest = made.record, made.artifact.manifest
    print_table(_recovery_table(record.search))
    assert manifest.fidelity is not None
    console.print(fidelity_table(manifest.fidelity))
    if record.arithmetic is not None:
        console.print(f"arithmetic {describe_arithmetic(record.arithmetic)}", soft_wrap=True)
    for batch, found in record.times.items():
        console.print(
            f"speed      batch {batch}: {found['ms']:.1f} ms, float32 {found['fp32_ms']:.1f} ms, "
            f"{found['speedup']:.2f}x"
        )
    if not record.times:
        console.print("speed      not measured: this machine has no TensorRT engine of it")
    if manifest.fidelity.allowed_below:
        notes.print("[yellow]below the floor:[/] kept because --allow-low-fidelity was given")
    path = escape(str(made.artifact.path))
    size = made.artifact.model.stat().st_size / 1e6
    console.print(f"[green]made[/]       {path} ({size:.1f} MB, {manifest.precision})")
    console.print(f"look at    {path}/before-after.png")
    if "curve.png" in manifest.files:
        console.print(f"           {path}/curve.png")


def _recovery_table(search: SearchResult) -> Table:
    """Return what each method of accuracy recovery did, up to the plan that was chosen."""
    rows = [
        (step.name, step.score, "used" if step.used else "no gain", f"{step.seconds:.0f}")
        for step in search.steps
    ]
    rows += [
        (f"layers {number}: {point.excluded_share:.0%} excluded", point.score, "used", "")
        for number, point in enumerate(search.curve[1 : search.chosen + 1], 1)
    ]
    headings = ["recovery", "joint error", "top-1", "IoU 15 %", "Pearson 5th", "", "seconds"]
    lines = [
        [
            name,
            f"{score.error:.5f}",
            f"{score.top1:.3f}",
            f"{score.iou15:.3f}",
            f"{score.pearson5:.4f}",
            *rest,
        ]
        for name, score, *rest in rows
    ]
    return score_table("on the pictures that chose the plan", headings, lines)
