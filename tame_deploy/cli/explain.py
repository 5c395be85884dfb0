"""`explain`: pictures in, explained pictures out, by an artifact here or by a server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from tame_deploy.cli import INTERRUPTED
from tame_deploy.cli.options import (
    BackendOption,
    ComputeOption,
    EngineOption,
    GpuOption,
    ProviderOption,
    ThreadsOption,
    given_options,
)
from tame_deploy.cli.screen import console, notes, printable, warn_speed_only
from tame_deploy.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from tame_deploy.runtime.backends.remote import ConnectOptions
    from tame_deploy.runtime.explain.explainer import Explainer
    from tame_deploy.runtime.jobs.files import ExplainedFiles
    from tame_deploy.runtime.jobs.sources import Source

#: Files that are named when some were passed over.
_NAMED = 3
_FOR_BACKENDS = frozenset({"backend", "engine", "device", "precision", "threads", "provider"})
_FOR_SERVERS = frozenset({"token_file", "tls_ca", "tls_cert", "tls_key", "timeout_s"})

ArtifactOrUrl = Annotated[
    str,
    typer.Argument(
        metavar="ARTIFACT",
        help="Artifact directory, or http, https, grpc or grpcs://HOST:PORT/MODEL.",
    ),
]
ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Pictures, folders, globs, videos; - for paths on standard input."),
]
OutputOption = Annotated[str, typer.Option("--output", "-o", help="Where the results go.")]
ClassIdOption = Annotated[list[int] | None, typer.Option(help="Explain this class, repeatable.")]
LabelOption = Annotated[
    list[str] | None, typer.Option(help="Explain the class of this name, repeatable.")
]
TopKOption = Annotated[int | None, typer.Option(help="Explain this many of the likeliest classes.")]
VersusOption = Annotated[
    str | None,
    typer.Option(
        metavar="LABEL",
        help="Show why the explained class and not this one (name or number), in two colours.",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(help="List all classes at least so likely; 0.5 for multi-label artifacts."),
]
WebcamOption = Annotated[
    int | None, typer.Option(min=0, help="Explain a camera until Ctrl-C, by its number.")
]
EveryOption = Annotated[
    int, typer.Option(min=1, help="Of videos and cameras, one frame in so many.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="At most so many pictures.")]
PicturesOption = Annotated[
    bool, typer.Option("--pictures/--no-pictures", help="Draw overlays and panels.")
]
RecordsOption = Annotated[
    Literal["jsonl", "parquet"], typer.Option(help="What results are written as.")
]
MapsOption = Annotated[
    Literal["npz", "png"] | None,
    typer.Option(help="Keep maps: shards of a thousand, or grey pictures."),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with what is in the output folder.")
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Pictures at a time.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Threads that read pictures; one a processor, up to 4.")
]
MaxPixelsOption = Annotated[
    int | None, typer.Option(min=1, help="Pictures of more pixels are not read; 89 million.")
]
WindowOption = Annotated[
    str | None,
    typer.Option(help="Levels of 16-bit grey that become black and white, such as 0,4095."),
]
TokenFileOption = Annotated[
    str | None, typer.Option(help="For a server: file whose first token is sent.")
]
TlsCaOption = Annotated[
    str | None,
    typer.Option(help="For a server: PEM file of who signed its certificate."),
]
TlsCertOption = Annotated[str | None, typer.Option(help="For a server: PEM file of one's own.")]
TlsKeyOption = Annotated[str | None, typer.Option(help="For a server: PEM file of its key.")]
TimeoutOption = Annotated[float, typer.Option(help="For a server: seconds for one batch.")]
OverwriteOption = Annotated[bool, typer.Option(help="Write into a folder that holds files.")]
ShowOption = Annotated[
    bool, typer.Option("--open", help="Open the contact sheet at the end.")
]  # fmt: skip


def explain(
    context: typer.Context,
    artifact: ArtifactOrUrl,
    images: ImagesArgument = None,
    output: OutputOption = "out",
    class_id: ClassIdOption = None,
    label: LabelOption = None,
    top_k: TopKOption = None,
    versus: VersusOption = None,
    threshold: ThresholdOption = None,
    webcam: WebcamOption = None,
    every: EveryOption = 1,
    limit: LimitOption = None,
    pictures: PicturesOption = True,
    records: RecordsOption = "jsonl",
    maps: MapsOption = None,
    resume: ResumeOption = False,
    batch_size: BatchSizeOption = 8,
    workers: WorkersOption = None,
    max_pixels: MaxPixelsOption = None,
    window: WindowOption = None,
    backend: BackendOption = "auto",
    engine: EngineOption = None,
    device: GpuOption = 0,
    precision: ComputeOption = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    timeout_s: TimeoutOption = 60.0,
    overwrite: OverwriteOption = False,
    show: ShowOption = False,
) -> None:
    """Classify pictures and show where the classifier looked: overlays, panels, results.jsonl."""
    from tame_deploy.picture.preprocess import MAX_PIXELS, parse_window
    from tame_deploy.runtime.backends.protocol import BackendOptions
    from tame_deploy.runtime.explain.load import connect, load
    from tame_deploy.runtime.jobs.files import FileOptions, explain_files, prepare_output

    _check_given(context, artifact)
    source = _source_of(images or [], output, webcam=webcam, every=every, limit=limit)
    options = FileOptions(
        pictures=pictures, records=records, maps=maps, resume=resume, batch_size=batch_size,
        workers=workers, max_pixels=max_pixels or MAX_PIXELS,
        window=None if window is None else parse_window(window), threshold=threshold,
    )  # fmt: skip
    if _is_url(artifact):
        told = _connect_options(
            token_file, ca=tls_ca, cert=tls_cert, key=tls_key, timeout_s=timeout_s
        )
        opened = connect(artifact, told)
    else:
        chosen = BackendOptions(
            threads=threads, providers=tuple(provider) if provider else None, device=device,
            engine=engine, precision=precision,
        )  # fmt: skip
        opened = load(artifact, backend=backend, options=chosen)
    with opened as explainer:
        warn_speed_only(explainer.artifact.manifest)
        other = None if versus is None else explainer.class_named(versus)
        class_ids = _class_ids(explainer, class_id or [], label or [], top_k=top_k, versus=other)
        target = prepare_output(output, overwrite=overwrite or resume)
        with _bar(source.total) as advance:
            summary = explain_files(
                explainer, source, target, class_ids=class_ids, top_k=top_k, versus=other,
                options=options, advance=advance,
            )  # fmt: skip
    _print_summary(summary, total=source.total, backend=explainer.backend.name)
    if show and summary.sheet is not None and _has_screen():
        typer.launch(str(summary.sheet))
    raise typer.Exit(_status_of(summary))


def _is_url(artifact: str) -> bool:
    return "://" in artifact


def _check_given(context: typer.Context, artifact: str) -> None:
    """Check that no option was given that does nothing for this artifact."""
    given = given_options(context)
    for name in sorted(given & (_FOR_BACKENDS if _is_url(artifact) else _FOR_SERVERS)):
        option = f"--{name.replace('_', '-')}"
        if _is_url(artifact):
            raise InputError(f"{option} has no meaning for {artifact}; its server chose")
        raise InputError(f"{option} is for a server's URL; {artifact} is an artifact here")


def _source_of(
    images: list[str], output: str, *, webcam: int | None, every: int, limit: int | None
) -> Source:
    from tame_deploy.runtime.jobs.sources import open_source

    paths = sys.stdin if "-" in images else None
    named = [name for name in images if name != "-"]
    source = open_source(named, output, paths=paths, webcam=webcam, every=every)
    return source if limit is None else source.limited(limit)


def _connect_options(
    token_file: str | None,
    *,
    ca: str | None,
    cert: str | None,
    key: str | None,
    timeout_s: float,
) -> ConnectOptions:
    """Return how to reach a server: what was given, and else what the environment says."""
    from tame_deploy.runtime.backends.remote import ConnectOptions, options_from_environment
    from tame_deploy.serving.access import Tokens

    told = options_from_environment()
    return ConnectOptions(
        token=Tokens.of_file(token_file).known[0].decode() if token_file else told.token,
        ca=ca or told.ca,
        cert=cert or told.cert,
        key=key or told.key,
        timeout_s=timeout_s,
    )


def _class_ids(
    explainer: Explainer,
    class_ids: list[int],
    labels: list[str],
    *,
    top_k: int | None,
    versus: int | None,
) -> list[int] | None:
    """Return the classes that were named, by number or label, each once; None for none."""
    named = [*class_ids, *map(explainer.class_id, labels)]
    if named and top_k is not None:
        raise InputError("found both --top-k and classes to explain; expected one of them")
    chosen = list(dict.fromkeys(named)) or None
    explainer.check_classes(chosen, top_k, versus)
    return chosen


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function that moves a bar by so many pictures."""
    columns = (
        TextColumn("Explaining"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


class _RateColumn(ProgressColumn):
    """Pictures a second, over the last ones."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def _print_summary(summary: ExplainedFiles, *, total: int | None, backend: str) -> None:
    before = f", {summary.done_before} were done before" if summary.done_before else ""
    of = "" if total is None else f" of {total}"
    noun = "picture" if (summary.explained if total is None else total) == 1 else "pictures"
    console.print(
        f"[green]explained[/] {summary.explained}{of} {noun} with {backend}{before}: "
        f"{escape(str(summary.output))}"
    )
    if summary.sheet is not None:
        console.print(f"look at   {escape(str(summary.sheet))}")
    if summary.passed_over:
        notes.print(printable(_passed_over(summary.passed_over)), markup=False)
    for what, reasons in (("read", summary.unreadable), ("written", summary.unwritten)):
        if reasons:
            notes.print(f"[yellow]not {what}[/] ({len(reasons)}):")
        for reason in reasons:
            notes.print(f"  {printable(reason)}", markup=False)
    if summary.stopped:
        notes.print("[yellow]stopped:[/] go on with --resume")


def _passed_over(files: tuple[Path, ...]) -> str:
    """Say which files in folders were taken for no pictures."""
    one = len(files) == 1
    suffixes = ", ".join(sorted({file.suffix.lower() or "no suffix" for file in files}))
    names = ", ".join(file.name for file in files[:_NAMED])
    more = ", …" if len(files) > _NAMED else ""
    what = "file that is no picture" if one else "files that are no pictures"
    return f"passed over {len(files)} {what} ({suffixes}): {names}{more}"


def _status_of(summary: ExplainedFiles) -> int:
    if summary.stopped:
        return INTERRUPTED
    return 1 if summary.unreadable or summary.unwritten else 0


def _has_screen() -> bool:
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
