"""Where objects are: mask pictures, or boxes in a file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from tame_deploy.data.labelled import Region
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import IMAGE_SUFFIXES

__all__ = ["find_regions", "read_lines"]


def find_regions(
    paths: Sequence[Path], root: Path, masks: str | None, boxes: str | None
) -> dict[Path, Region]:
    """Return the regions of pictures.

    A mask has its picture's path below `root`, or its name alone where only one picture and one
    mask have it, whatever the suffix; boxes name the path or the name.

    Raises:
        InputError: for both kinds at once, for a name that several share, or if nothing belongs to
            any picture.
    """
    if masks and boxes:
        raise InputError("found both --masks and --boxes; expected one of them")
    known: Mapping[str, Region] = {}
    if masks:
        folder = Path(masks)
        if not folder.is_dir():
            raise InputError(f"--masks {masks} is no folder; expected one of mask pictures")
        files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        known = {_stem(file, folder): file for file in sorted(files)}
    elif boxes:
        known = {
            PurePath(name).with_suffix("").as_posix(): tuple(found)
            for name, found in _read_boxes(Path(boxes)).items()
        }
    matched = _match({path: _stem(path, root) for path in paths}, known)
    if (masks or boxes) and not matched:
        raise InputError(
            f"{masks or boxes} has nothing for any of the pictures; expected entries named as "
            f"they are, such as {paths[0].name}"
        )
    return matched


def _stem(path: Path, root: Path) -> str:
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return inside.with_suffix("").as_posix()


def _match(stems: Mapping[Path, str], known: Mapping[str, Region]) -> dict[Path, Region]:
    matched = {path: known[stem] for path, stem in stems.items() if stem in known}
    by_name = {stem.rpartition("/")[2]: region for stem, region in known.items()}
    shared = Counter(stem.rpartition("/")[2] for stem in known)
    pictures = Counter(stem.rpartition("/")[2] for stem in stems.values())
    for path, stem in stems.items():
        name = stem.rpartition("/")[2]
        if path in matched or name not in by_name:
            continue
        if shared[name] > 1 or pictures[name] > 1:
            raise InputError(
                f"{shared[name]} masks or boxes and {pictures[name]} pictures are called {name}; "
                f"name them by their paths, such as {stem}"
            )
        matched[path] = by_name[name]
    return matched


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
