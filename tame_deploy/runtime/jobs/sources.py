"""What a user points at, as a stream of named pictures: files, folders, globs, lists, videos."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from tame_deploy.errors import InputError, require_extra
from tame_deploy.picture.preprocess import FORMATS, IMAGE_SUFFIXES
from tame_deploy.runtime.explain.stream import NamedPicture

__all__ = ["VIDEO_SUFFIXES", "Source", "open_source"]

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg"})


@dataclass(frozen=True)
class Source:
    """Named pictures.

    Attributes:
        pictures: in their order.
        total: how many there are, where that is known beforehand.
        passed_over: files in the folders that are no pictures.
    """

    pictures: Iterable[NamedPicture]
    total: int | None
    passed_over: tuple[Path, ...] = ()

    def limited(self, count: int) -> Source:
        """Return at most so many of them."""
        total = count if self.total is None else min(count, self.total)
        return replace(self, pictures=islice(self.pictures, count), total=total)


def open_source(
    sources: Sequence[str],
    output: str,
    *,
    paths: Iterable[str] | None = None,
    webcam: int | None = None,
    every: int = 1,
) -> Source:
    """Return the pictures behind what was named.

    Args:
        sources: files, folders, globs, and videos.
        output: folder of the results; what lies in it is left out.
        paths: names of further files, read one by one as they are needed (standard input).
        webcam: number of a camera, in place of all others; it never ends by itself.
        every: of videos and cameras, every so manieth frame.

    Raises:
        InputError: if there is nothing, a video or camera cannot be opened, or `every` has no
            meaning.
        MissingExtraError: for videos without OpenCV.
    """
    if webcam is not None:
        if sources or paths is not None:
            raise InputError("found a webcam beside other pictures; expected one or the other")
        return Source(_frames(webcam, f"webcam-{webcam}", every), None)
    videos = [name for name in sources if Path(name).suffix.lower() in VIDEO_SUFFIXES]
    others = [name for name in sources if name not in videos]
    if every > 1 and not videos:
        raise InputError(f"every is {every}, which is for videos and cameras; found neither")
    found, passed_over = _find_images(others, output) if others else ([], ())
    counts = [_count_frames(name, every) for name in videos]
    if not found and not videos and paths is None:
        raise InputError("found nothing to explain; expected files, folders, globs or videos")

    def pictures() -> Iterator[NamedPicture]:
        yield from (NamedPicture(os.fspath(path), path) for path in found)
        for name in videos:
            yield from _frames(name, name, every)
        for line in paths or ():
            name = line.rstrip("\r\n")
            if name:
                yield NamedPicture(name, name)

    known = paths is None and None not in counts
    total = len(found) + sum(filter(None, counts)) if known else None
    return Source(pictures(), total, tuple(passed_over))


def _find_images(sources: Sequence[str], output: str) -> tuple[list[Path], list[Path]]:
    """Return the picture files behind paths, folders and globs, and what folders hold beside them.

    Folders are searched to the bottom. A plain path is kept even if there is no such file, so that
    it is reported and not lost. What lies in the output folder is left out: it is what an earlier
    run wrote.

    Raises:
        InputError: if there are none, one is a URL, or one that is named outright lies in the
            output folder.
    """
    written = Path(os.path.abspath(output))
    found: dict[Path, None] = {}  # ordered, without duplicates
    unmatched: list[Path] = []
    passed_over: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if "://" in source:
            raise InputError(f"{source} is a URL; pictures are not fetched, so download it first")
        if path.is_dir():
            for file in _outside(written, sorted(path.rglob("*"))):
                if file.is_file():
                    (found if _is_picture(file) else passed_over)[file] = None
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
        count = len(passed_over)
        beside = f" (but {count} other file{'s' * (count > 1)})" if count else ""
        raise InputError(
            f"no pictures in {', '.join(sources)}{beside}; expected files, folders or globs of "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    # What matches nothing is reported like a file that is not there.
    return [*found, *unmatched], list(passed_over)


def _outside(folder: Path, paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if folder not in Path(os.path.abspath(path)).parents]


def _is_picture(path: Path) -> bool:
    """Whether a file in a folder is taken: by its suffix, or else by its first bytes."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata and large sizes do not matter here
            with Image.open(path, formats=FORMATS):
                return True
    except Image.DecompressionBombError:
        return True  # a picture all the same: reading it will say that it is too large
    except Exception:  # damaged files make decoders raise nearly anything
        return False


def _capture(source: str | int) -> Any:
    require_extra("video", "cv2")
    import cv2

    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        capture.release()
        what = f"webcam {source}" if isinstance(source, int) else source
        exists = isinstance(source, int) or Path(source).is_file()
        reason = "cannot be opened as a video" if exists else "is not there"
        raise InputError(f"{what} {reason}")
    return capture


def _count_frames(name: str, every: int) -> int | None:
    """Return how many frames will be taken of a video, if its file says."""
    import cv2

    capture = _capture(name)
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    return -(-count // every) if count > 0 else None


def _frames(source: str | int, name: str, every: int) -> Iterator[NamedPicture]:
    """Yield frames as RGB, uint8 (H, W, 3), named by their number."""
    import cv2

    capture = _capture(source)
    try:
        number = 0
        while capture.grab():
            if number % every == 0:
                read, frame = capture.retrieve()
                if not read:
                    break
                yield NamedPicture(f"{name}#{number}", cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            number += 1
    finally:
        capture.release()
