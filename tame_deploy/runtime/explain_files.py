"""Explaining files on disk: pictures beside pictures, one record a picture, one contact sheet."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from tame_deploy.errors import InputError
from tame_deploy.overlay import contact_sheet
from tame_deploy.preprocess import IMAGE_SUFFIXES, load_image, visible_box
from tame_deploy.runtime.explainer import Explainer
from tame_deploy.runtime.explanation import Explanation
from tame_deploy.types import ImageSpec

__all__ = ["ExplainedFiles", "explain_files", "find_images", "prepare_output"]

RESULTS_NAME = "results.jsonl"
SHEET_NAME = "contact-sheet.jpg"
#: More thumbnails than this make a sheet that no viewer likes.
SHEET_LIMIT = 60
_THUMBNAIL_SIDE = 440
#: Larger overlays cost time and memory and show no more.
OVERLAY_SIDE = 1600


@dataclass
class ExplainedFiles:
    """What came of a list of files."""

    output: Path
    explained: int = 0
    unreadable: list[str] = field(default_factory=list)
    sheet: Path | None = None


def find_images(sources: Sequence[str], output: str) -> list[Path]:
    """Return the picture files behind paths, folders (searched to the bottom) and globs.

    A plain path is kept even if there is no such file, so that it is reported and not lost. What
    lies in the output folder is left out: it is what an earlier run wrote.

    Raises:
        InputError: if there are none, or a picture named outright lies in the output folder.
    """
    written = Path(os.path.abspath(output))
    found: dict[Path, None] = {}  # ordered, without duplicates
    unmatched: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found.update(dict.fromkeys(_outside(written, _pictures_in(path))))
        elif glob.has_magic(source) and not path.exists():
            matches = (Path(match) for match in sorted(glob.glob(source, recursive=True)))
            files = [match for match in matches if match.is_file()]
            found.update(dict.fromkeys(_outside(written, files)))
            unmatched += [] if files else [path]
        elif not _outside(written, [path]):
            raise InputError(f"{path} lies in the output folder; choose another output with -o")
        else:
            found[path] = None
    if not found:
        raise InputError(
            f"no pictures in {', '.join(sources)}; expected files, folders or globs of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return [*found, *unmatched]  # what matches nothing is reported like a file that is not there


def _outside(folder: Path, paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if folder not in Path(os.path.abspath(path)).parents]


def _pictures_in(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in files if path.is_file())


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
    paths: Sequence[Path],
    output: Path,
    *,
    class_ids: Sequence[int] | None = None,
    top_k: int | None = None,
    batch_size: int = 8,
    advance: Callable[[int], None] = lambda _: None,
) -> ExplainedFiles:
    """Explain files and write an overlay and a panel each, results.jsonl and a contact sheet.

    Files that cannot be read are passed over and listed in what is returned.

    Args:
        explainer: an open artifact.
        paths: picture files.
        output: an existing directory.
        class_ids: classes to explain in every picture; the likeliest by default.
        top_k: instead, how many of the likeliest to explain.
        batch_size: pictures in memory and in the graph at a time.
        advance: told how many more files are dealt with.

    Raises:
        InputError: if classes are out of range, or the output cannot be written.
    """
    summary = ExplainedFiles(output)
    names = _UniqueNames()
    thumbnails: list[tuple[Image.Image, str]] = []
    with _explained_os_errors(output), _open_results(output) as lines:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            read = _read(batch, explainer.artifact.manifest.image, summary.unreadable)
            if read:
                pictures = [picture for _, picture in read]
                result = explainer.explain(pictures, class_ids, top_k=top_k, batch_size=batch_size)
                for index, (path, _) in enumerate(read):
                    record = _write_pictures(result, index, path, output, names)
                    lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                    summary.explained += 1
                    if len(thumbnails) < SHEET_LIMIT:
                        thumbnails.append(_thumbnail(result, index))
                lines.flush()
            advance(len(batch))
        if not summary.explained:
            (output / RESULTS_NAME).unlink()  # so that the corrected command finds the folder empty
        if thumbnails:
            summary.sheet = output / SHEET_NAME
            _save(contact_sheet(thumbnails), summary.sheet)
    return summary


def _open_results(output: Path) -> TextIO:
    # A file name that is no UTF-8 must not end the run; escaped, it is still valid JSON.
    return (output / RESULTS_NAME).open("w", encoding="utf-8", errors="backslashreplace")


def _read(
    paths: Sequence[Path], spec: ImageSpec, unreadable: list[str]
) -> list[tuple[Path, Image.Image]]:
    read = []
    for path in paths:
        try:
            picture = load_image(path)
            visible_box(picture.size, spec)  # refuses a strip that cannot be resized
        except InputError as error:
            reason = str(error)
            unreadable.append(reason if str(path) in reason else f"{path}: {reason}")
        else:
            read.append((path, picture))
    return read


class _UniqueNames:
    """File names for outputs: the picture's own, numbered where folders share one."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, path: Path) -> str:
        stem = path.stem.encode("utf-8", "replace").decode()[:80]  # with what follows, a legal name
        name, number = stem, 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}~{number}"
        self._taken.add(name.casefold())
        return name


def _write_pictures(
    result: Explanation, index: int, path: Path, output: Path, names: _UniqueNames
) -> dict[str, Any]:
    """Write one picture's overlays and panels; return its record for results.jsonl."""
    name = names.take(path)
    probabilities = result.probabilities[index]
    explained = []
    for place, class_id in enumerate(int(c) for c in result.class_ids[index]):
        suffix = f"-{place + 1}" if result.class_ids.shape[1] > 1 else ""
        overlay, panel = f"{name}{suffix}-overlay.jpg", f"{name}{suffix}-panel.jpg"
        _save(result.overlay(index, place, max_side=OVERLAY_SIDE), output / overlay)
        _save(result.panel(index, place, title=path.name), output / panel)
        explained.append(
            {
                "class_id": class_id,
                "name": result.labels[class_id],
                "probability": round(float(probabilities[class_id]), 6),
                "overlay": overlay,
                "panel": panel,
            }
        )
    top = [
        score._asdict() | {"probability": round(score.probability, 6)}
        for score in result.top(index)
    ]
    record: dict[str, Any] = {"file": os.fspath(path), "top": top, "explained": explained}
    if result.speed_only:
        record["speed_only"] = True
    return record


def _thumbnail(result: Explanation, index: int) -> tuple[Image.Image, str]:
    class_id = int(result.class_ids[index, 0])
    image = result.overlay(index, max_side=_THUMBNAIL_SIDE)
    return image, f"{result.labels[class_id]} {result.probabilities[index, class_id]:.0%}"


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, quality=92, subsampling=0)
