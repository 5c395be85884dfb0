"""`verify`: an artifact's graph, or an engine on its device, held to PyTorch and float32."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer
from rich.markup import escape

from tame_deploy.cli.options import (
    ArtifactArgument,
    ComputeOption,
    DataRootOption,
    EngineOption,
    GpuOption,
    GraphBackendName,
    ProviderOption,
    ThreadsOption,
    given_options,
)
from tame_deploy.cli.quantize import picture_source, show_notes
from tame_deploy.cli.screen import (
    console,
    fidelity_table,
    notes,
    parity_table,
    step_spinner,
    warn_speed_only,
)
from tame_deploy.errors import ArtifactError, InputError, ParityError, require_extra

if TYPE_CHECKING:
    from tame_deploy.artifact.directory import Artifact
    from tame_deploy.artifact.sidecar import FlavourName
    from tame_deploy.engine.verify import Verdict
    from tame_deploy.metrics.evaluation_set import EvaluationSet
    from tame_deploy.metrics.fidelity import Floor
    from tame_deploy.runtime.backends.protocol import Backend, BackendOptions
    from tame_deploy.runtime.backends.tensorrt.engines import StoredEngine
    from tame_deploy.runtime.verify.parity import Arithmetic

    #: Pictures, their classes, and the float32 artifact.
    _HeldOut: TypeAlias = tuple[EvaluationSet, Artifact]


def verify(
    context: typer.Context,
    artifact: ArtifactArgument,
    target: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None,
        typer.Option(help="Check the engine for this, on its GPU, at all its batch sizes."),
    ] = None,
    engine: EngineOption = None,
    backend: Annotated[
        GraphBackendName, typer.Option(help="Check the graph on this.")
    ] = "onnxruntime",
    precision: ComputeOption = None,
    images: Annotated[
        str | None,
        typer.Option("--images", help="Held-out pictures to compare on, as for quantize."),
    ] = None,
    held_out_size: Annotated[
        int, typer.Option(min=1, help="How many of these pictures are used, at most.")
    ] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of their choice.")] = 0,
    against: Annotated[
        str | None, typer.Option(help="The float32 artifact; beside a quantized one.")
    ] = None,
    floor: Annotated[
        str | None, typer.Option(help="Least fidelity: top1=0.94,iou15=0.90,pearson5=0.98.")
    ] = None,
    data_root: DataRootOption = None,
    device: GpuOption = 0,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
) -> None:
    """Check an artifact's files, and hold its graph or engine to what PyTorch gave."""
    from tame_deploy.artifact.directory import open_artifact
    from tame_deploy.runtime.backends.protocol import BackendOptions

    opened = open_artifact(artifact)
    warn_speed_only(opened.manifest)
    given = given_options(context)
    if images is None:
        _refuse(
            given & {"held_out_size", "seed", "against", "floor", "data_root"}, "without --images"
        )
    chosen = _HeldOutChoice(
        images=images,
        data_root=data_root,
        size=held_out_size,
        seed=seed,
        against=against,
        floor=floor,
    )
    if target is None:
        _refuse(given & {"engine"}, "without --target")
        options = BackendOptions(
            threads=threads,
            providers=tuple(provider) if provider else None,
            device=device,
            precision=precision,
        )
        _verify_graph(opened, backend, options, chosen)
        return
    _refuse(given & {"threads", "provider", "backend", "precision"}, f"with --target {target}")
    _verify_engine(opened, target, BackendOptions(device=device, engine=engine), chosen)


@dataclass(frozen=True, kw_only=True)
class _HeldOutChoice:
    """The held-out pictures, what is compared with, and how strictly, as the options say."""

    images: str | None
    data_root: str | None
    size: int
    seed: int
    against: str | None
    floor: str | None


def _refuse(idle: AbstractSet[str], because: str) -> None:
    """Refuse options that would be ignored."""
    if idle:
        shown = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(idle))
        raise InputError(f"{shown} {'has' if len(idle) == 1 else 'have'} no meaning {because}")


def _verify_graph(
    artifact: Artifact, backend_name: str, options: BackendOptions, chosen: _HeldOutChoice
) -> None:
    from tame_deploy.runtime.selection.selection import open_backend
    from tame_deploy.runtime.verify.reference import ParityReference

    batches = sorted({1, len(ParityReference.load(artifact).images)})
    held_out, least = _held_out(artifact, chosen)
    arithmetic: Arithmetic = "bf16" if options.precision == "bf16" else "own"
    with open_backend(artifact, backend_name, options, anew=True) as backend:
        name = backend.name
        verdict = _verdict(artifact, backend, batches, arithmetic, held_out=held_out, floor=least)
    _show(verdict)
    exact = artifact.manifest.precision == "fp32"
    held = "as in PyTorch" if exact else "as near to PyTorch as when it was made"
    if arithmetic == "bf16":
        held = "above the floor" if chosen.images else "not grossly wrong"
    console.print(
        f"[green]ok[/] {escape(str(artifact.path))} with {escape(name)}: every file as listed, "
        f"every output {held}"
    )


def _verify_engine(
    artifact: Artifact,
    flavour: FlavourName,
    options: BackendOptions,
    chosen: _HeldOutChoice,
) -> None:
    from tame_deploy.engine.verify import batches_to_verify
    from tame_deploy.runtime.backends.tensorrt.backend import TensorRTBackend

    held_out, least = _held_out(artifact, chosen)
    with TensorRTBackend.of_artifact(artifact, flavour, options) as backend:
        stored, name = backend.stored, str(backend.device)
        batches = batches_to_verify(stored.sidecar)
        arithmetic: Arithmetic = "tf32" if stored.sidecar.shown_precision == "tf32" else "own"
        try:
            verdict = _verdict(
                artifact, backend, batches, arithmetic, held_out=held_out, floor=least
            )
        except ParityError:
            _write(stored, None, None)  # what was measured before is true no more
            raise
    _write(stored, verdict, name)
    _show(verdict)
    if chosen.images is None:
        notes.print("[yellow]note:[/] fidelity to float32 is measured with --images DIR")
    console.print(f"[green]ok[/] {escape(str(stored.folder))} on {escape(name)}")


def _held_out(artifact: Artifact, chosen: _HeldOutChoice) -> tuple[_HeldOut | None, Floor | None]:
    """Return held-out pictures and the float32 artifact, if asked for; and the floor."""
    from tame_deploy.engine.verify import float32_parent
    from tame_deploy.metrics.fidelity import parse_floor

    least = parse_floor(chosen.floor) if chosen.floor else None
    if chosen.images is None:
        return None, least
    parent = float32_parent(artifact, chosen.against)
    return (_evaluation_set(artifact, chosen.images, chosen), parent), least


def _verdict(
    artifact: Artifact,
    backend: Backend,
    batches: Sequence[int],
    arithmetic: Arithmetic,
    *,
    held_out: _HeldOut | None,
    floor: Floor | None,
) -> Verdict:
    from tame_deploy.engine.verify import verify_backend

    with step_spinner() as report:
        return verify_backend(
            artifact,
            backend,
            batches,
            arithmetic=arithmetic,
            held_out=held_out,
            floor=floor,
            report=report,
        )


def _show(verdict: Verdict) -> None:
    """Print what was measured, and hold it to the floor."""
    for batch, parity in verdict.parity.items():
        console.print(parity_table(parity, f"batch {batch}"))
    for batch, fidelity in verdict.fidelity.items():
        console.print(fidelity_table(fidelity, f"batch {batch}"))
    verdict.check()


def _write(stored: StoredEngine, verdict: Verdict | None, device: str | None) -> None:
    """Write into the sidecar; where that cannot be, what was measured is on the screen."""
    from tame_deploy.engine.verify import write_verdict

    try:
        write_verdict(stored, verdict, device)
    except ArtifactError as error:
        notes.print(f"[yellow]not kept:[/] {escape(str(error))}")


def _evaluation_set(artifact: Artifact, images: str, wanted: _HeldOutChoice) -> EvaluationSet:
    """Return held-out pictures, none of which set the ranges of a quantized graph."""
    require_extra("quantize", "onnx", "scipy")
    from tame_deploy.calibration.observing.choice import NOTHING, choose_pictures, evaluation_set
    from tame_deploy.calibration.observing.record import read_calibration

    source = picture_source(artifact, images, wanted.data_root)
    record = read_calibration(artifact)
    beside = record.subject.pictures if record is not None else NOTHING
    chosen, unreadable = choose_pictures(source, wanted.size, wanted.seed, least=1, beside=beside)
    show_notes([f"not read: {reason}" for reason in unreadable])
    return evaluation_set(artifact.manifest, source, chosen)
