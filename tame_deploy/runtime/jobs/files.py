"""Explaining files on disk: pictures beside pictures, one record a picture, one contact sheet."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tame_deploy.artifact.task import THRESHOLD
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import MAX_PIXELS, Window
from tame_deploy.runtime.explain.explainer import Explainer
from tame_deploy.runtime.explain.explanation import (
    NOTHING_TO_TELL,
    ClassScore,
    PictureExplanation,
)
from tame_deploy.runtime.explain.stream import NamedPicture, Streamed
from tame_deploy.runtime.jobs.drawings import Drawings
from tame_deploy.runtime.jobs.records import (
    LINES_NAME,
    RecordedNames,
    RecordFormat,
    Records,
    output_options,
    recorded_names,
)
from tame_deploy.runtime.jobs.sources import Source

__all__ = ["ExplainedFiles", "FileOptions", "MapFormat", "explain_files", "prepare_output"]

MapFormat: TypeAlias = Literal["npz", "png"]

#: What no other picture would be spared: a full disk, a full quota, a disk that cannot be written.
_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What is written for each picture, and how pictures are read.

    Attributes:
        pictures: whether overlays, panels and a contact sheet are drawn.
        records: as "jsonl" or "parquet".
        maps: kept as "npz" shards of a thousand or as "png", or not.
        resume: leave out the pictures whose records are there already.
        batch_size: pictures in the graph at a time.
        workers: threads that read pictures; None is one for each processor that the
            process may use, at most four.
        max_pixels: a picture of more is refused before it is decoded.
        window: levels of 16-bit grey that become black and white (see `load_image`).
        threshold: the least probability of the classes listed as `labels`, in [0, 1]; by default
            0.5 for multi-label classifiers, and no such list for others.

    Raises:
        InputError: for a threshold outside [0, 1].
    """

    pictures: bool = True
    records: RecordFormat = "jsonl"
    maps: MapFormat | None = None
    resume: bool = False
    batch_size: int = 8
    workers: int | None = None
    max_pixels: int = MAX_PIXELS
    window: Window | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"--threshold is {self.threshold:g}; expected 0 to 1")


@dataclass(kw_only=True)
class ExplainedFiles:
    """What came of a run.

    Attributes:
        output: the folder of the results.
        explained: how many pictures were.
        done_before: how many were passed over because an earlier run had explained them.
        unreadable: which could not be read, and why.
        unwritten: which have no record because their files could not be written, and why.
        passed_over: files in the given folders that are no pictures.
        sheet: the contact sheet.
        stopped: whether Ctrl-C ended it; `FileOptions.resume` goes on.
    """

    output: Path
    explained: int = 0
    done_before: int = 0
    unreadable: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    passed_over: tuple[Path, ...] = ()
    sheet: Path | None = None
    stopped: bool = False


def prepare_output(output: str, *, overwrite: bool) -> Path:
    """Return the output directory, made if need be.

    Raises:
        InputError: if it holds something (and `overwrite` is off), or cannot be written.
    """
    path = Path(output)
    with _writing_to(path):
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()) and not overwrite:
            raise InputError(f"{path} is not empty; pass --overwrite to write into it")
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    return path


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error


def explain_files(
    explainer: Explainer,
    source: Source,
    output: Path,
    *,
    class_ids: Sequence[int] | None = None,
    top_k: int | None = None,
    versus: str | int | None = None,
    options: FileOptions | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> ExplainedFiles:
    """Explain pictures and write a record each, and overlays, panels and maps as wanted.

    Memory does not grow with their number. Those that cannot be read, or whose files cannot be
    written, are passed over and listed in what is returned; Ctrl-C ends the run in good order.

    Args:
        explainer: an open artifact.
        source: named pictures.
        output: an existing directory.
        class_ids: classes to explain in every picture; the likeliest by default.
        top_k: instead, how many of the likeliest to explain.
        versus: why each of them, and not this class, by name or number.
        options: what is written.
        advance: told how many more pictures are dealt with.

    Raises:
        InputError: if classes are out of range, if the output is full, gone or not to be written,
            or if what is resumed wrote other files for each picture or explained other classes.
    """
    options = options or FileOptions()
    summary = ExplainedFiles(output=output, passed_over=source.passed_over)
    with _writing_to(output):
        earlier = recorded_names(output, options.records) if options.resume else RecordedNames()
        _check_outputs(output, earlier, options)
        other = explainer.class_named(versus) if isinstance(versus, str) else versus
        if explainer.artifact.manifest.graph.explain == "selectable":  # others are asked nothing
            _check_questions(output, earlier, class_ids, top_k, other)
        stream = explainer.stream(
            _left(source, earlier.pictures, summary, advance), class_ids,
            top_k=top_k, versus=other, batch_size=options.batch_size, workers=options.workers,
            skip_unreadable=True, max_pixels=options.max_pixels, window=options.window,
        )  # fmt: skip
        drawings = Drawings(
            output, pictures=options.pictures, maps=options.maps == "png", taken=earlier.files
        )
        with Records(
            output, options.records, keeps_maps=options.maps == "npz", resumed=options.resume
        ) as records:
            _explain_all(stream, drawings, records, summary, advance, options.threshold)
        if not summary.explained and not earlier.pictures and options.records == "jsonl":
            # So that the corrected command finds the folder empty.
            (output / LINES_NAME).unlink(missing_ok=True)
        summary.sheet = drawings.draw_sheet()
    return summary


def _check_outputs(folder: Path, earlier: RecordedNames, options: FileOptions) -> None:
    """Check that the pictures that an earlier run explained have what is asked for now."""
    asked = output_options(pictures=options.pictures, maps=options.maps)
    if earlier.outputs and asked not in earlier.outputs:
        found = min(earlier.outputs)
        raise InputError(
            f"{folder} holds pictures explained with {found}, not {asked}; resume with {found}, "
            "or choose another --output"
        )


def _check_questions(
    folder: Path,
    earlier: RecordedNames,
    class_ids: Sequence[int] | None,
    top_k: int | None,
    versus: int | None,
) -> None:
    """Check that the pictures that an earlier run explained were asked what is asked now."""
    for question in earlier.questions:
        if not question.answers(class_ids, top_k, versus):
            raise InputError(
                f"{folder} holds pictures of which other classes were explained ({question}); "
                "resume with the --class-id, --label, --top-k and --versus of before, or choose "
                "another --output"
            )


def _left(
    source: Source,
    done: frozenset[str],
    summary: ExplainedFiles,
    advance: Callable[[int], None],
) -> Iterator[NamedPicture]:
    """Yield the pictures that are not done, and count those that are."""
    for picture in source.pictures:
        if picture.name in done:
            summary.done_before += 1
            advance(1)
        else:
            yield picture


def _explain_all(
    stream: Generator[Streamed, None, None],
    drawings: Drawings,
    records: Records,
    summary: ExplainedFiles,
    advance: Callable[[int], None],
    threshold: float | None,
) -> None:
    """Keep what comes of a stream until it ends, or until Ctrl-C."""
    try:
        with closing(stream):
            for one in stream:
                _keep(one, drawings, records, summary, threshold)
                advance(1)
    except KeyboardInterrupt:
        summary.stopped = True


def _keep(
    one: Streamed,
    drawings: Drawings,
    records: Records,
    summary: ExplainedFiles,
    threshold: float | None,
) -> None:
    """Write what belongs to one picture, or say in the summary why that was not possible."""
    if one.explanation is None:
        reason = str(one.error)
        summary.unreadable.append(reason if one.name in reason else f"{one.name}: {reason}")
        return
    record = _record_of(one.name, one.explanation, threshold)
    try:
        drawings.add(one.explanation, record)
    except OSError as error:
        if error.errno in _LASTING or not drawings.folder.is_dir():
            raise
        summary.unwritten.append(f"{one.name}: {error.strerror or error}")
        return
    records.add(record, one.explanation)
    summary.explained += 1


def _record_of(name: str, one: PictureExplanation, threshold: float | None) -> dict[str, Any]:
    """Return what is said of one picture."""
    record: dict[str, Any] = {
        "file": name,
        "top": [_score_of(score) for score in one.top()],
        "explained": list(map(_contrast_of, one.explained, one.versus)),
    }
    if threshold is None and one.task == "multilabel":
        threshold = THRESHOLD
    if threshold is not None:
        record["labels"] = [_score_of(score) for score in one.top(None, threshold)]
    if one.speed_only:
        record["speed_only"] = True
    return record


def _contrast_of(score: ClassScore, other: ClassScore | None) -> dict[str, Any]:
    """Return what is said of a map: its class, and what it is contrasted with if it is."""
    said = _score_of(score)
    if other is not None:
        said["versus"] = _score_of(other)
        if other.class_id == score.class_id:
            said["note"] = NOTHING_TO_TELL
    return said


def _score_of(score: ClassScore) -> dict[str, Any]:
    return score._asdict() | {"probability": round(score.probability, 6)}
