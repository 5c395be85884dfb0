"""Which pictures calibrate and which are held out: a seeded choice of what the network sees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tame_deploy.artifact.manifest import Manifest
from tame_deploy.artifact.types import MAX_UNREADABLE, ImageSpec
from tame_deploy.data.labelled import Pictures
from tame_deploy.data.sources import check_share
from tame_deploy.errors import InputError
from tame_deploy.metrics.evaluation_set import EvaluationSet
from tame_deploy.picture.preprocess import Levels, prepared_levels

__all__ = [
    "NOTHING",
    "Choice",
    "PictureSets",
    "PicturesToChooseFrom",
    "choose_pictures",
    "choose_sets",
    "evaluation_set",
    "prepared",
]


@dataclass(frozen=True)
class Choice:
    """Pictures by number, name and hash: sha256 of the prepared (H, W, channels) pixels."""

    indices: tuple[int, ...]
    names: tuple[str, ...]
    sha256: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def part(self, start: int, stop: int) -> Choice:
        """Return some of them."""
        rows = slice(start, stop)
        return Choice(self.indices[rows], self.names[rows], self.sha256[rows])

    def joined(self, other: Choice) -> Choice:
        """Return these and others."""
        return Choice(
            self.indices + other.indices, self.names + other.names, self.sha256 + other.sha256
        )


NOTHING = Choice((), (), ())


@dataclass(frozen=True)
class PicturesToChooseFrom:
    """A data set, what the user calls it, and how its pictures become the network's."""

    pictures: Pictures
    source: str
    image: ImageSpec

    def pixels(self, index: int) -> Levels:
        """Return a picture resized and cropped, (H, W, channels).

        Raises:
            InputError: if it cannot be read.
        """
        return prepared_levels(self.pictures.image(index, self.image), self.image)


def choose_pictures(
    source: PicturesToChooseFrom,
    count: int,
    seed: int,
    *,
    least: int | None = None,
    beside: Choice = NOTHING,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Choice, list[str]]:
    """Choose pictures in a seeded order; also returns which could not be read.

    A picture that is there twice is taken once, and none that is in `beside`.

    Args:
        source: where they come from.
        count: how many at most.
        seed: of the order.
        least: how many at least; `count` by default.
        beside: an earlier choice.
        advance: told how many more pictures were looked at.

    Raises:
        InputError: if there are not enough, or too many cannot be read.
    """
    total = len(source.pictures)
    order = np.random.default_rng(seed).permutation(total).tolist()
    taken, seen = set(beside.indices), set(beside.sha256)
    chosen: dict[str, int] = {}
    unreadable: list[str] = []
    for index in (number for number in order if number not in taken):
        if len(chosen) == count:
            break
        try:
            digest = _sha256(source.pixels(index))
        except InputError as error:
            name, reason = source.pictures.name(index), str(error)
            unreadable.append(reason if name in reason else f"{name}: {reason}")
            check_share(unreadable, total, MAX_UNREADABLE)
        else:
            if digest not in seen:
                chosen.setdefault(digest, index)
        advance(1)
    _check_enough(source, len(chosen), count, max(count if least is None else least, 1), beside)
    names = tuple(source.pictures.name(index) for index in chosen.values())
    return Choice(tuple(chosen.values()), names, tuple(chosen)), unreadable


def _check_enough(
    source: PicturesToChooseFrom, found: int, count: int, least: int, beside: Choice
) -> None:
    if found < least:
        besides = f" besides the {len(beside)} chosen first" if len(beside) else ""
        fewer = "calibrate on fewer (--calibration-size)" if len(beside) else "ask for fewer"
        raise InputError(
            f"found {found} different pictures in {source.source}{besides}; expected "
            f"{'at least ' if least < count else ''}{least}. Name a larger set, or {fewer}"
        )


@dataclass(frozen=True)
class PictureSets:
    """Pictures that share none: which calibrate, which help to choose a plan, which judge it."""

    calibration: Choice
    validation: Choice
    held_out: Choice


def choose_sets(
    source: PicturesToChooseFrom,
    *,
    calibration_size: int,
    held_out_size: int,
    min_held_out_size: int,
    seed: int,
) -> tuple[PictureSets, list[str]]:
    """Choose the sets of a quantization; also returns which pictures could not be read.

    The validation set is at most as large as the calibration set, and takes at most a third of
    what can be spared of the rest.

    Args:
        source: where the pictures come from.
        calibration_size: how many calibrate.
        held_out_size: how many are held out, at most.
        min_held_out_size: how many are held out, at least.
        seed: of the choice.

    Raises:
        InputError: if there are not enough, or too many cannot be read.
    """
    calibration, unreadable = choose_pictures(source, calibration_size, seed)
    rest, more = choose_pictures(
        source,
        held_out_size + calibration_size,
        seed,
        least=min_held_out_size,
        beside=calibration,
    )
    helping = min(calibration_size, (len(rest) - min_held_out_size) // 3)
    held_out = rest.part(helping, helping + held_out_size)
    return PictureSets(calibration, rest.part(0, helping), held_out), [*unreadable, *more]


def prepared(source: PicturesToChooseFrom, choice: Choice) -> Levels:
    """Return a choice's pictures, (N, H, W, channels), held to their hashes.

    Raises:
        InputError: if a picture has changed since it was chosen.
    """
    rows = []
    for index, name, expected in zip(choice.indices, choice.names, choice.sha256, strict=True):
        pixels = source.pixels(index)
        if _sha256(pixels) != expected:
            raise InputError(f"{name} has changed since it was chosen; start again")
        rows.append(pixels)
    return np.stack(rows)


def evaluation_set(
    manifest: Manifest, source: PicturesToChooseFrom, choice: Choice
) -> EvaluationSet:
    """Return a choice's pictures, held to their hashes, for graphs that a manifest describes.

    Raises:
        InputError: if a picture has changed since it was chosen.
    """
    labels = [source.pictures.label(index) for index in choice.indices]
    return EvaluationSet(
        manifest=manifest, pixels=prepared(source, choice), names=choice.names, labels=labels
    )


def _sha256(pixels: Levels) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()
