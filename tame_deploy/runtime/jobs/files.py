"""Explaining files on disk: pictures beside pictures, one record a picture, one contact sheet."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tame_deploy.errors import InputError
from tame_deploy.picture.overlay import contact_sheet
from tame_deploy.picture.preprocess import IMAGE_SUFFIXES, ImageSource
from tame_deploy.runtime.explain.explainer import Explainer
from tame_deploy.runtime.explain.explanation import Explanation
from tame_deploy.runtime.explain.stream import Streamed
from tame_deploy.runtime.jobs.records import (
    LINES_NAME,
    MapFormat,
    RecordFormat,
    Records,
    done_before,
)
from tame_deploy.runtime.jobs.sources import Source

__all__ = ["ExplainedFiles", "FileOptions", "explain_files", "prepare_output"]

SHEET_NAME = "contact-sheet.jpg"
#: More thumbnails than this make a sheet that no viewer likes.
SHEET_LIMIT = 60
_THUMBNAIL_SIDE = 440
#: Larger overlays cost time and memory and show no more.
OVERLAY_SIDE = 1600


@dataclass(frozen=True)
class FileOptions:
    """What is written for each picture.

    Attributes:
        pictures: whether overlays, panels and a contact sheet are drawn.
        records: as "jsonl" or "parquet".
        maps: kept as "npz" shards of a thousand or as "png", or not.
        resume: leave out the pictures whose records are there already.
        batch_size: pictures in the graph at a time.
        workers: threads that read pictures; None is one a core, at most four.

    Raises:
        InputError: for a number below 1.
    """

    pictures: bool = True
    records: RecordFormat = "jsonl"
    maps: MapFormat | None = None
    resume: bool = False
    batch_size: int = 8
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.workers is not None and self.workers < 1):
            raise InputError(
                f"batch_size is {self.batch_size}, workers {self.workers}; expected at least 1"
            )


@dataclass
class ExplainedFiles:
    """What came of a run: `stopped` by Ctrl-C, which `resume` goes on from."""

    output: Path
    explained: int = 0
    done_before: int = 0
    unreadable: list[str] = field(default_factory=list)
    sheet: Path | None = None
    stopped: bool = False


def prepare_output(output: str, *, overwrite: bool) -> Path:
    """Return the output directory, made if need be.

    Raises:
        InputError: if it holds something (and `overwrite` is off), or cannot be written.
    """
    path = Path(output)
    with _explained_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()) and not overwrite:
            raise InputError(f"{path} is not empty; pass --overwrite to write into it")
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    return path


@contextmanager
def _explained_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def explain_files(
    explainer: Explainer,
    source: Source,
    output: Path,
    *,
    class_ids: Sequence[int] | None = None,
    top_k: int | None = None,
    options: FileOptions | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> ExplainedFiles:
    """Explain pictures and write a record each, and overlays, panels and maps as wanted.

    Memory does not grow with their number. Those that cannot be read are passed over and listed in
    what is returned; Ctrl-C ends the run in good order.

    Args:
        explainer: an open artifact.
        source: named pictures.
        output: an existing directory.
        class_ids: classes to explain in every picture; the likeliest by default.
        top_k: instead, how many of the likeliest to explain.
        options: what is written.
        advance: told how many more pictures are dealt with.

    Raises:
        InputError: if classes are out of range, or the output cannot be written.
    """
    options = options or FileOptions()
    summary = ExplainedFiles(output)
    with _explained_os_errors(output):
        if options.resume:
            done = done_before(output, options.records)
            summary.done_before = len(done)
            source = source.without(done)
        advance(summary.done_before)
        run = _Run(explainer, output, options, summary)
        with Records(output, options.records, options.maps, resumed=options.resume) as records:
            run.explain(source, records, class_ids, top_k, advance)
        if not summary.explained and not summary.done_before:
            # So that the corrected command finds the folder empty.
            (output / LINES_NAME).unlink(missing_ok=True)
        run.draw_sheet()
    return summary


class _Run:
    """One run over named pictures."""

    def __init__(
        self, explainer: Explainer, output: Path, options: FileOptions, summary: ExplainedFiles
    ) -> None:
        self.explainer, self.output = explainer, output
        self.options, self.summary = options, summary
        self._names = _UniqueNames(output if options.resume else None)
        self._asked: deque[str] = deque()
        self._thumbnails: list[tuple[Image.Image, str]] = []

    def explain(
        self,
        source: Source,
        records: Records,
        class_ids: Sequence[int] | None,
        top_k: int | None,
        advance: Callable[[int], None],
    ) -> None:
        """Explain all there is, or until Ctrl-C."""
        stream = self.explainer.stream(
            self._sources(source),
            class_ids,
            top_k=top_k,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            skip_unreadable=True,
        )
        try:
            with closing(stream):
                for one in stream:
                    self._keep(self._asked.popleft(), one, records)
                    advance(1)
        except KeyboardInterrupt:
            self.summary.stopped = True

    def _sources(self, source: Source) -> Iterator[ImageSource]:
        for one in source.pictures:
            self._asked.append(one.name)
            yield one.source

    def _keep(self, name: str, one: Streamed, records: Records) -> None:
        if one.explanation is None:
            reason = str(one.error)
            self.summary.unreadable.append(reason if name in reason else f"{name}: {reason}")
            return
        stem = self._names.take(name)
        record = _record_of(one.explanation, name)
        if self.options.pictures:
            _write_pictures(one.explanation, record, self.output, stem)
            if len(self._thumbnails) < SHEET_LIMIT:
                self._thumbnails.append(_thumbnail(one.explanation))
        records.add(record, one.explanation, stem)
        self.summary.explained += 1

    def draw_sheet(self) -> None:
        """Draw the contact sheet, if there is anything on it."""
        if self._thumbnails:
            self.summary.sheet = self.output / SHEET_NAME
            _save(contact_sheet(self._thumbnails), self.summary.sheet)


class _UniqueNames:
    """File names for outputs: the picture's own, numbered where folders share one."""

    def __init__(self, folder: Path | None) -> None:
        found = folder.glob("*-overlay.jpg") if folder is not None else ()
        self._taken = {
            re.sub(r"(-\d+)?-overlay$", "", path.stem).casefold() for path in found
        }  # fmt: skip

    def take(self, name: str) -> str:
        path = Path(name)
        end = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else ""
        stem = path.name.removesuffix(end).encode("utf-8", "replace").decode()[:80]
        taken, number = stem, 1
        while taken.casefold() in self._taken:
            number += 1
            taken = f"{stem}~{number}"
        self._taken.add(taken.casefold())
        return taken


def _record_of(one: Explanation, name: str) -> dict[str, Any]:
    """Return what is said of one picture."""
    probabilities = one.probabilities[0]
    record: dict[str, Any] = {
        "file": name,
        "top": [
            score._asdict() | {"probability": round(score.probability, 6)} for score in one.top(0)
        ],
        "explained": [
            {
                "class_id": class_id,
                "name": one.labels[class_id],
                "probability": round(float(probabilities[class_id]), 6),
            }
            for class_id in map(int, one.class_ids[0])
        ],
    }
    if one.speed_only:
        record["speed_only"] = True
    return record


def _write_pictures(one: Explanation, record: dict[str, Any], output: Path, stem: str) -> None:
    """Write one picture's overlays and panels, and name them in its record."""
    for place, explained in enumerate(record["explained"]):
        suffix = f"-{place + 1}" if len(record["explained"]) > 1 else ""
        overlay, panel = f"{stem}{suffix}-overlay.jpg", f"{stem}{suffix}-panel.jpg"
        _save(one.overlay(0, place, max_side=OVERLAY_SIDE), output / overlay)
        _save(one.panel(0, place, title=Path(record["file"]).name), output / panel)
        explained["overlay"], explained["panel"] = overlay, panel


def _thumbnail(one: Explanation) -> tuple[Image.Image, str]:
    class_id = int(one.class_ids[0, 0])
    image = one.overlay(0, max_side=_THUMBNAIL_SIDE)
    return image, f"{one.labels[class_id]} {one.probabilities[0, class_id]:.0%}"


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, quality=92, subsampling=0)
