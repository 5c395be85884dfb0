"""Opening labelled pictures: what a user names, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from tame_deploy.artifact.types import MAX_UNREADABLE
from tame_deploy.data.labelled import (
    HELD_OUT_SEED,
    DrawnPictures,
    FilePictures,
    Pictures,
    TorchvisionPictures,
)
from tame_deploy.data.regions import find_regions, read_lines
from tame_deploy.data.shapes import LABELS
from tame_deploy.errors import InputError, require_extra
from tame_deploy.picture.preprocess import IMAGE_SUFFIXES

__all__ = ["PictureSource", "check_share", "open_pictures"]


@dataclass(frozen=True)
class PictureSource:
    """Where labelled pictures are.

    Attributes:
        data: a folder (of class folders, or of pictures), a list file of `path label` lines,
            `torchvision:NAME[:SPLIT]`, `demo:COUNT` or `demo-held-out:COUNT`.
        root: what relative paths of a list start from (its own folder by default), or where
            torchvision keeps the data set.
        masks: a folder of mask pictures, named as the pictures are; not black is the object.
        boxes: a file of `path,left,top,right,bottom` lines in pixels, several a picture if need be.
        max_unreadable: share in [0, 1] that may be missing or unreadable.
    """

    data: str
    root: str | None = None
    _: KW_ONLY
    masks: str | None = None
    boxes: str | None = None
    max_unreadable: float = MAX_UNREADABLE


def open_pictures(
    source: PictureSource, classes: int, labels: Sequence[str] | None = None
) -> Pictures:
    """Open pictures for a classifier.

    Args:
        source: where they are.
        classes: how many classes the classifier knows.
        labels: their names; class folders that bear them are matched by name.

    Raises:
        InputError: if there are none, labels are out of range, too many are missing, or masks or
            boxes match nothing.
    """
    kind, _, rest = source.data.partition(":")
    if kind in ("demo", "demo-held-out", "torchvision") and not os.path.exists(source.data):
        if source.masks or source.boxes:
            raise InputError(f"--masks and --boxes are for pictures in files, not {source.data}")
        if kind == "torchvision":
            return _torchvision(rest, source.root, classes)
        return _drawn(kind, rest, classes)
    path = Path(source.data)
    if path.is_dir():
        found = _folder(path, classes, labels)
    elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        raise InputError(f"{path} is a picture; expected a folder of them, or a list file")
    elif path.is_file():
        found = _listed(path, Path(source.root or path.parent), classes, source.max_unreadable)
    else:
        raise InputError(
            f"no data at {source.data}; expected a folder, a list file, torchvision:NAME or demo:N"
        )
    root = path if path.is_dir() else Path(source.root or path.parent)
    regions = find_regions(found.paths, root, source.masks, source.boxes)
    return FilePictures(found.paths, found.labels, regions=regions, missing=found.missing)


def check_share(problems: Sequence[str], count: int, limit: float) -> None:
    """Check that no more pictures are missing or unreadable than is tolerated.

    Raises:
        InputError: listing the first of them.
    """
    if len(problems) > limit * count:
        shown = "; ".join(problems[:5]) + (" …" if len(problems) > 5 else "")
        raise InputError(
            f"{len(problems)} of {count} pictures are missing or unreadable, more than "
            f"{limit:.0%} (max_unreadable raises that): {shown}"
        )


def _drawn(kind: str, count: str, classes: int) -> DrawnPictures:
    if not count.isdecimal() or not 1 <= int(count) <= HELD_OUT_SEED:
        raise InputError(f"found {kind}:{count}; expected {kind}:COUNT, such as {kind}:600")
    # Another classifier can be trained and scored on them, but not judged by their labels.
    known = classes == len(LABELS)
    return DrawnPictures(0 if kind == "demo" else HELD_OUT_SEED, int(count), known)


def _torchvision(name: str, root: str | None, classes: int) -> TorchvisionPictures:
    require_extra("train", "torchvision")
    import inspect

    from torchvision import datasets

    name, _, split = name.partition(":")
    build = getattr(datasets, name, None)
    if not (isinstance(build, type) and issubclass(build, datasets.VisionDataset)):
        raise InputError(f"torchvision has no data set {name!r}; expected one like CIFAR10")
    known = inspect.signature(build).parameters
    arguments: dict[str, Any] = {}
    if "root" in known:
        arguments["root"] = root or "data"
    if "train" in known:
        if split not in ("", "train", "test"):
            raise InputError(f"torchvision's {name} has no split {split!r}; expected train or test")
        arguments["train"] = split != "test"
    elif "split" in known and split:
        arguments["split"] = split
    elif split:
        raise InputError(f"torchvision's {name} has no splits; found {split!r}")
    try:
        dataset = build(**arguments)
    # Each data set complains in its own way of a missing file or an unknown split.
    except Exception as error:
        reason = " ".join((str(error).strip() or type(error).__name__).split())
        raise InputError(
            f"cannot open torchvision's {name} in {root or 'data'}: {reason:.200} "
            "(nothing is downloaded here; --data-root says where it is)"
        ) from None
    names = getattr(dataset, "classes", None)
    if names is not None and len(names) > classes:
        raise InputError(
            f"torchvision's {name} has {len(names)} classes; the classifier knows {classes}"
        )
    labelled = names is None or len(names) == classes
    return TorchvisionPictures(f"torchvision:{name}", dataset, labelled)


def _folder(path: Path, classes: int, labels: Sequence[str] | None) -> FilePictures:
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    groups = [(folder, _pictures_in(folder)) for folder in folders]
    groups = [(folder, files) for folder, files in groups if files]
    if not groups:
        files = _pictures_in(path)
        if not files:
            raise InputError(
                f"no pictures in {path}; expected {', '.join(sorted(IMAGE_SUFFIXES))}, "
                "in a folder for each class or all in one"
            )
        return FilePictures(tuple(files), (None,) * len(files))
    ids = _folder_classes([folder.name for folder, _ in groups], classes, labels)
    pairs = [(file, ids[number]) for number, (_, files) in enumerate(groups) for file in files]
    return FilePictures(tuple(file for file, _ in pairs), tuple(label for _, label in pairs))


def _folder_classes(
    names: Sequence[str], classes: int, labels: Sequence[str] | None
) -> list[int | None]:
    """Return class ids of folders: by name where all are class names, else in order."""
    known: dict[str, list[int]] = {}
    for index, label in enumerate(labels or ()):
        known.setdefault(label.casefold(), []).append(index)
    odd = [name for name in names if len(known.get(name.casefold(), ())) != 1]
    if not odd:
        return [known[name.casefold()][0] for name in names]
    if len(odd) < len(names):
        raise InputError(
            f"{len(names) - len(odd)} of {len(names)} class folders bear the name of a class, and "
            f"{', '.join(odd[:3])} of none or of several; rename them, or number all"
        )
    if len(names) == classes:
        return list(range(classes))
    if len(names) > classes:
        raise InputError(
            f"found {len(names)} class folders ({', '.join(names[:3])} …) for a classifier of "
            f"{classes} classes; expected at most one a class"
        )
    return [None] * len(names)


def _pictures_in(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in files if path.is_file())


def _listed(file: Path, root: Path, classes: int, limit: float) -> FilePictures:
    entries = list(_list_lines(file))
    if not entries:
        raise InputError(f"{file} lists no pictures; expected `path label` lines")
    wrong = [(line, label) for line, _, label in entries if not 0 <= label < classes]
    if wrong:
        raise InputError(
            f"{file}, line {wrong[0][0]}: label {wrong[0][1]} is out of range; expected 0 to "
            f"{classes - 1} ({len(wrong)} lines are so)"
        )
    kept, missing = [], []
    for _, name, label in entries:
        path = root / name
        if path.is_file():
            kept.append((path, label))
        else:
            missing.append(f"{path}: no such file")
    check_share(missing, len(entries), limit)
    if not kept:
        raise InputError(f"none of the {len(entries)} pictures of {file} is there; first: {root}")
    paths, labels = zip(*kept, strict=True)
    return FilePictures(tuple(paths), tuple(labels), missing=tuple(missing))


def _list_lines(file: Path) -> Iterator[tuple[int, str, int]]:
    """Yield (line number, path, label); the two are parted by a comma or white space."""
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        separator = "," if "," in line else None
        parts = [part.strip() for part in line.rsplit(separator, 1)]
        if len(parts) == 2 and parts[1].removeprefix("-").isdecimal():
            yield number, parts[0], int(parts[1])
        elif number > 1 or separator is None:  # a first line may be the header of a CSV
            raise InputError(
                f"{file}, line {number}: found {line!r:.80}; expected `path label`, a number"
            )
