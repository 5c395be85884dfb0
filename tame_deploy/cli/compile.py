"""`compile`: an engine for TensorRT or TensorRT-RTX, quantized first where that is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tame_deploy.cli import INTERRUPTED
from tame_deploy.cli.options import (
    ArtifactArgument,
    DataRootOption,
    GpuOption,
    TargetOption,
    given_options,
)
from tame_deploy.cli.quantize import picture_source, show_notes, show_quantized
from tame_deploy.cli.screen import console, notes, step_spinner, warn_speed_only
from tame_deploy.errors import ArtifactError, InputError, require_extra

if TYPE_CHECKING:
    from tame_deploy.artifact.directory import Artifact
    from tame_deploy.engine.compile import Compiled

_LONGEST = 48


def compile_(
    context: typer.Context,
    artifact: ArtifactArgument,
    target: TargetOption,
    precision: Annotated[
        Literal["fp32", "fp16", "int8", "int8+fp16"] | None,
        typer.Option(help="The artifact's own; a lower one is quantized to first (--images)."),
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="Pictures that quantize, as for quantize.")
    ] = None,
    calibration_size: Annotated[
        int, typer.Option(min=1, help="How many pictures calibrate.")
    ] = 128,
    data_root: DataRootOption = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="Where what is quantized goes; ARTIFACT-PRECISION-tensorrt."
        ),
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(help="Profile: min, opt and max pictures, 1,8,64; repeatable."),
    ] = None,
    explained: Annotated[
        str | None, typer.Option(help="Min, opt and max classes a picture; 1,1,RANKS.")
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(min=1, help="MiB that a layer may use for itself; all.")
    ] = None,
    optimization_level: Annotated[
        int, typer.Option(min=0, max=5, help="How long the builder searches.")
    ] = 3,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(help="GPUs to build for, as 8.9, repeatable (TensorRT-RTX; portable)."),
    ] = None,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let float32 layers round to TF32: faster.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Later versions load it (TensorRT).")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="For all GPUs from 8.0 (TensorRT).")
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Weights can be replaced later (TensorRT).")
    ] = False,
    strip: Annotated[
        bool,
        typer.Option("--strip", help="Stored without weights; model.onnx has them (TensorRT)."),
    ] = False,
    timing_cache: Annotated[
        bool | None,
        typer.Option(
            "--timing-cache/--no-timing-cache",
            help="Start from the timings of earlier builds; where that works.",
        ),
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Take and keep finished engines.")
    ] = True,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build anew, and replace what is there.")
    ] = False,
    device: GpuOption = 0,
) -> None:
    """Compile an artifact's graph into an engine, kept in the artifact."""
    require_extra(target, "filelock")
    from tame_deploy.artifact.directory import open_artifact
    from tame_deploy.artifact.sidecar import EngineOptions
    from tame_deploy.engine.build import BuildCancelledError
    from tame_deploy.engine.compile import (
        CompileRequest,
        check_request,
        compile_artifact,
        profiles_for,
    )

    opened = open_artifact(artifact)
    batches = [parse_extent("batch", text) for text in batch or ["1,8,64"]]
    classes = parse_extent("explained", explained) if explained else None
    options = EngineOptions(
        profiles=profiles_for(opened, batches, classes),
        workspace_mib=workspace,
        optimization_level=optimization_level,
        compute_capabilities=tuple(compute_capability or ()),
        tf32=tf32,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        refit=refit,
        strip=strip,
    )
    request = CompileRequest(
        flavour=target,
        options=options,
        device=device,
        rebuild=rebuild,
        use_cache=cache,
        use_timings=timing_cache,
    )
    check_request(request)  # before anything is quantized for it
    pictures = _Pictures(
        images=images,
        calibration_size=calibration_size,
        data_root=data_root,
        output=output,
        anew=rebuild,
    )
    if images is None and given_options(context) & {"calibration_size", "data_root"}:
        raise InputError("--calibration-size and --data-root have no meaning without --images")
    warn_speed_only(opened.manifest)
    opened = _in_precision(opened, precision, pictures)
    try:
        with _build_bar() as tell:
            made = compile_artifact(opened, request, tell=tell)
    except BuildCancelledError as stopped:
        notes.print(f"[yellow]stopped:[/] {stopped}")
        raise typer.Exit(INTERRUPTED) from None
    _show(opened, made)


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """What quantizes, as the options say: pictures, how many, whence, whither, and whether anew."""

    images: str | None
    calibration_size: int
    data_root: str | None
    output: str | None
    anew: bool


def parse_extent(name: str, text: str) -> tuple[int, int, int]:
    """Return (1, 8, 64) of "1,8,64"; one number is min, opt and max at once."""
    parts = [part.strip() for part in text.split(",")]
    numeric = all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts)
    if len(parts) not in (1, 3) or not numeric:
        raise InputError(f"--{name} is {text!r}; expected min,opt,max as in 1,8,64")
    numbers = [int(part) for part in parts]
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]


def _in_precision(
    artifact: Artifact,
    precision: Literal["fp32", "fp16", "int8", "int8+fp16"] | None,
    pictures: _Pictures,
) -> Artifact:
    """Return the artifact, or the one of lower precision that is made of it beside it."""
    manifest = artifact.manifest
    if precision in (None, manifest.precision):
        if pictures.images is not None or pictures.output is not None:
            raise InputError(
                "--images and --output have no meaning: nothing is quantized, "
                f"{artifact.path} is {manifest.precision} as it is"
            )
        return artifact
    if manifest.precision != "fp32" or precision == "fp32":
        raise InputError(
            f"{artifact.path} is {manifest.precision}; to get {precision}, compile the float32 "
            f"artifact that it was made of ({', '.join(manifest.parents) or 'none'})"
        )
    given = artifact.path if artifact.path.name else artifact.path.absolute()
    beside = given.with_name(f"{given.name}-{precision.replace('+', '-')}-tensorrt")
    output = Path(pictures.output) if pictures.output else beside
    kept = _made_before(artifact, output, precision)
    if kept is not None and pictures.images is None:
        notes.print(f"[yellow]note:[/] {escape(str(output))} was quantized before, and is taken")
        return kept
    if kept is not None and not pictures.anew:
        raise InputError(
            f"{output} was quantized before; leave --images out to compile it, or add --rebuild to "
            "quantize it anew"
        )
    if pictures.images is None:
        raise InputError(
            f"{precision} is quantized first, and held to float32 on pictures: add --images DIR, "
            "or compile what tame-deploy quantize --target tensorrt made"
        )
    return _quantized(artifact, output, precision, pictures)


def _made_before(artifact: Artifact, output: Path, precision: str) -> Artifact | None:
    from tame_deploy.artifact.directory import open_artifact

    if not output.exists():
        return None
    found = open_artifact(output)
    made_of = [entry.rpartition(" ")[2] for entry in found.manifest.parents[-1:]]
    same = (made_of, found.manifest.precision) == ([artifact.manifest.identity()], precision)
    if not same:
        raise ArtifactError(
            f"{output} is there, and not {precision} of {artifact.path}; move it away, or choose "
            "another place with -o"
        )
    return found


def _quantized(
    artifact: Artifact,
    output: Path,
    precision: Literal["fp16", "int8", "int8+fp16"],
    pictures: _Pictures,
) -> Artifact:
    require_extra("quantize", "onnx", "scipy", "matplotlib")
    require_extra("cpu", "onnxruntime")
    from tame_deploy.calibration.options import QuantizeOptions
    from tame_deploy.calibration.quantize import quantize_artifact

    options = QuantizeOptions(
        precision=precision, target="tensorrt", calibration_size=pictures.calibration_size
    )
    source = picture_source(artifact, str(pictures.images), pictures.data_root)
    with step_spinner() as report:
        made = quantize_artifact(
            artifact, source, output, options, overwrite=pictures.anew, report=report
        )
    show_notes(made.notes)
    show_quantized(made)
    return made.artifact


@contextmanager
def _build_bar() -> Iterator[Callable[[float, str], None]]:
    """Yield a function that moves a bar and says what is being built."""
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task("Compiling", total=1.0)
        yield lambda share, words: bar.update(
            task, completed=share, description=_shortened(words)
        )  # fmt: skip


def _shortened(words: str) -> str:
    """Names of layers can be longer than a screen is wide; their ends say most."""
    return words if len(words) <= _LONGEST else f"…{words[1 - _LONGEST :]}"


def _show(artifact: Artifact, made: Compiled) -> None:
    sidecar, folder = made.engine.sidecar, escape(str(made.engine.folder))
    path, engine = (escape(shlex.quote(str(one))) for one in (artifact.path, made.engine.folder))
    where = {
        "built": f"compiled in {sidecar.build_s:.1f} s",
        "cache": "found in the cache (--rebuild builds it anew)",
        "artifact": "there already (--rebuild builds it anew)",
    }[made.origin]
    console.print(f"[green]{sidecar.flavour} {sidecar.version}[/] {folder}: {where}")
    console.print(
        f"           {sidecar.shown_precision}, {sidecar.plan_bytes / 1e6:.1f} MB, for "
        f"{sidecar.runs_where}"
    )
    for profile in sidecar.options.profiles:
        console.print(f"           {profile}")
    console.print(f"look at    tame-deploy inspect {engine}", soft_wrap=True)
    console.print(
        f"on its GPU tame-deploy verify {path} --target {sidecar.flavour}", soft_wrap=True
    )
