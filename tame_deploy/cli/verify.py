"""`verify`: an artifact's graph, or an engine on its device, held to PyTorch and float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from tame_deploy.cli.options import (
    ArtifactArgument,
    DataRootOption,
    EngineOption,
    ProviderOption,
    ThreadsOption,
)
from tame_deploy.cli.quantize import picture_source, show_notes
from tame_deploy.cli.screen import (
    console,
    fidelity_table,
    notes,
    parity_table,
    show_parity,
    step_spinner,
    warn_speed_only,
)
from tame_deploy.errors import ArtifactError, InputError, ParityError, require_extra

if TYPE_CHECKING:
    from tame_deploy.artifact import Artifact
    from tame_deploy.engine.verify import Verdict
    from tame_deploy.metrics.answers import Questions
    from tame_deploy.runtime.backend import BackendOptions
    from tame_deploy.runtime.tensorrt.engines import StoredEngine
    from tame_deploy.sidecar import FlavourName


def verify(
    artifact: ArtifactArgument,
    target: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None,
        typer.Option(help="Check the engine for this, on its GPU, at all its batch sizes."),
    ] = None,
    engine: EngineOption = None,
    images: Annotated[
        str | None, typer.Option("--images", help="Pictures that judge, as for quantize.")
    ] = None,
    judges: Annotated[
        int | None, typer.Option("--judge", min=1, help="How many of them, at most; 256.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of their choice; 0.")] = None,
    against: Annotated[
        str | None, typer.Option(help="The float32 artifact; beside a quantized one.")
    ] = None,
    floor: Annotated[
        str | None, typer.Option(help="Least fidelity: top1=0.94,iou15=0.90,pearson5=0.98.")
    ] = None,
    data_root: DataRootOption = None,
    device: Annotated[int | None, typer.Option(min=0, help="Number of the GPU; 0.")] = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
) -> None:
    """Check an artifact's files, and hold its graph or engine to what PyTorch gave."""
    from tame_deploy.artifact import open_artifact
    from tame_deploy.runtime.backend import BackendOptions

    opened = open_artifact(artifact)
    warn_speed_only(opened.manifest)
    with_pictures = {
        "--judge": judges,
        "--seed": seed,
        "--against": against,
        "--floor": floor,
        "--data-root": data_root,
    }
    if target is not None:
        if threads is not None or provider is not None:
            raise InputError(f"--threads and --provider have no meaning with --target {target}")
        _refuse("--images", images, with_pictures)
        options = BackendOptions(device=device or 0, engine=engine)
        chosen = _Judges(images, data_root, judges or 256, seed or 0, against, floor)
        _verify_engine(opened, target, options, chosen)
        return
    _refuse("--target", target, {"--images": images, "--engine": engine, **with_pictures})
    providers = tuple(provider) if provider else None
    _verify_graph(opened, BackendOptions(threads, providers, device or 0))


@dataclass(frozen=True)
class _Judges:
    """Which pictures judge, beside which artifact, and how strictly, as the options say."""

    images: str | None
    data_root: str | None
    count: int
    seed: int
    against: str | None
    floor: str | None


def _refuse(needed: str, value: str | None, given: Mapping[str, object]) -> None:
    """Refuse options that would be ignored because the one that they belong to is missing."""
    idle = [name for name, one in given.items() if one is not None]
    if value is None and idle:
        verb = "has" if len(idle) == 1 else "have"
        raise InputError(f"{', '.join(idle)} {verb} no meaning without {needed}")


def _verify_graph(artifact: Artifact, options: BackendOptions) -> None:
    from tame_deploy.runtime.parity import ParityReference, check_parity
    from tame_deploy.runtime.selection import open_backend

    reference = ParityReference.load(artifact)
    with step_spinner() as report, open_backend(artifact, "onnxruntime", options) as backend:
        report("Comparing with PyTorch")
        parity = check_parity(backend, reference, artifact)
    show_parity(parity)
    exact = artifact.manifest.precision == "fp32"
    held = "as in PyTorch" if exact else "as near to PyTorch as when it was made"
    console.print(
        f"[green]ok[/] {escape(str(artifact.path))}: every file as listed, every output {held}"
    )


def _verify_engine(
    artifact: Artifact,
    flavour: FlavourName,
    options: BackendOptions,
    chosen: _Judges,
) -> None:
    from tame_deploy.engine.verify import (
        batches_to_verify,
        float32_parent,
        verify_backend,
    )
    from tame_deploy.metrics.fidelity import parse_floor
    from tame_deploy.runtime.tensorrt.backend import TensorRTBackend

    least = parse_floor(chosen.floor) if chosen.floor else None
    with TensorRTBackend.of_artifact(artifact, flavour, options) as backend:
        stored, name = backend.stored, str(backend.device)
        judges = None
        if chosen.images is not None:
            parent = float32_parent(artifact, chosen.against)
            judges = (*_questions(artifact, chosen.images, chosen), parent)
        try:
            with step_spinner() as report:
                verdict = verify_backend(
                    artifact,
                    backend,
                    batches_to_verify(stored.sidecar),
                    tf32=stored.sidecar.shown_precision == "tf32",
                    judges=judges,
                    floor=least,
                    report=report,
                )
        except ParityError:
            _keep(stored, None, None)  # what was measured before is true no more
            raise
    _keep(stored, verdict, name)
    for batch, parity in verdict.parity.items():
        console.print(parity_table(parity, f"batch {batch}"))
    for batch, fidelity in verdict.fidelity.items():
        console.print(fidelity_table(fidelity, f"batch {batch}"))
    verdict.check()
    if chosen.images is None:
        notes.print("[yellow]note:[/] fidelity to float32 is measured with --images DIR")
    console.print(f"[green]ok[/] {escape(str(stored.folder))} on {escape(name)}")


def _keep(stored: StoredEngine, verdict: Verdict | None, device: str | None) -> None:
    """Write into the sidecar; where that cannot be, what was measured is on the screen."""
    from tame_deploy.engine.verify import keep_verdict

    try:
        keep_verdict(stored, verdict, device)
    except ArtifactError as error:
        notes.print(f"[yellow]not kept:[/] {escape(str(error))}")


def _questions(
    artifact: Artifact, images: str, judges: _Judges
) -> tuple[Questions, Sequence[int | None]]:
    """Return pictures that judge, none of which set the ranges of a quantized graph."""
    require_extra("quantize", "onnx", "scipy")
    from tame_deploy.calibration.calibrate import read_calibration
    from tame_deploy.calibration.choice import NOTHING, choose_pictures, prepared
    from tame_deploy.metrics.answers import Questions

    source = picture_source(artifact, images, judges.data_root)
    record = read_calibration(artifact)
    beside = record.subject.pictures if record is not None else NOTHING
    chosen, unreadable = choose_pictures(source, judges.count, judges.seed, least=1, beside=beside)
    show_notes([f"not read: {reason}" for reason in unreadable])
    labels = [source.pictures.label(index) for index in chosen.indices]
    return Questions(artifact.manifest, prepared(source, chosen), chosen.names), labels
