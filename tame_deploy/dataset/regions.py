"""Where objects are: mask pictures, or boxes in a file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from tame_deploy.dataset.pictures import Region
from tame_deploy.errors import InputError
from tame_deploy.preprocess import IMAGE_SUFFIXES

__all__ = ["find_regions", "read_lines"]


def find_regions(paths: Sequence[Path], masks: str | None, boxes: str | None) -> dict[Path, Region]:
    """Return the regions of pictures: masks by the pictures' stem, boxes by their name or path.

    Raises:
        InputError: for both kinds at once, or if nothing belongs to any picture.
    """
    if masks and boxes:
        raise InputError("found both --masks and --boxes; expected one of them")
    found: dict[Path, Region] = {}
    if masks:
        if not Path(masks).is_dir():
            raise InputError(f"--masks {masks} is no folder; expected one of mask pictures")
        files = (file for file in Path(masks).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        by_stem = {file.stem: file for file in sorted(files)}
        found |= {path: by_stem[path.stem] for path in paths if path.stem in by_stem}
    elif boxes:
        known = _read_boxes(Path(boxes))
        for path in paths:
            match = known.get(path.name) or known.get(path.as_posix())
            if match:
                found[path] = tuple(match)
    if (masks or boxes) and not found:
        raise InputError(
            f"{masks or boxes} has nothing for any of the pictures; expected entries named as "
            f"they are, such as {paths[0].name}"
        )
    return found


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file.

    Raises:
        InputError: if it cannot be read as UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from None


def _read_boxes(file: Path) -> dict[str, list[tuple[float, ...]]]:
    boxes: dict[str, list[tuple[float, ...]]] = {}
    for number, row in enumerate(csv.reader(read_lines(file)), 1):
        if not row:
            continue
        try:
            name, *corners = (cell.strip() for cell in row)
            left, top, right, bottom = (float(corner) for corner in corners)
        except ValueError:
            if number == 1:
                continue  # a header
            raise InputError(
                f"{file}, line {number}: found {','.join(row)!r:.80}; "
                "expected path,left,top,right,bottom"
            ) from None
        if not (left < right and top < bottom):
            raise InputError(f"{file}, line {number}: the box is empty: {row[1:]}")
        boxes.setdefault(name, []).append((left, top, right, bottom))
    return boxes
