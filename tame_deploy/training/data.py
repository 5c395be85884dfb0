"""Batches for training: what comes in which step depends on the seed alone.

Order, crops and flips are drawn from (seed, epoch, picture), so that a run is the same with any
number of workers and processes, and goes on after a kill with the very batch it would have had.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.data.labelled import FilePictures, Pictures, Subset
from tame_deploy.data.sources import PictureSource, open_pictures
from tame_deploy.errors import InputError
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.picture.preprocess import prepared_levels
from tame_deploy.training.recipe import DataConfig, Recipe

__all__ = [
    "Batch",
    "EpochBatches",
    "PictureTensors",
    "make_loader",
    "open_training_data",
    "plain_errors",
]

#: After this many unreadable pictures in a row nothing is looked for any further.
_PATIENCE = 20


@dataclass
class Batch:
    """Pictures of one step.

    Attributes:
        pixels: uint8 or uint16 (B, channels, H, W).
        indices: int64 (B), which pictures they are.
        problems: what could not be read, as (picture, reason); the next one stands in for it.
    """

    pixels: Tensor
    indices: Tensor
    problems: list[tuple[int, str]]

    def pin_memory(self) -> Batch:
        """Return the batch in memory from which a GPU copies faster."""
        return Batch(self.pixels.pin_memory(), self.indices.pin_memory(), self.problems)


class PictureTensors(Dataset[tuple[Tensor, int, list[tuple[int, str]]]]):
    """Pictures as tensors of uint8 or uint16, by (epoch, index)."""

    def __init__(
        self,
        pictures: Pictures,
        image: ImageSpec,
        seed: int,
        *,
        random_crop: bool = False,
        flip: bool = False,
    ) -> None:
        self.pictures = pictures
        self.image = image
        self.seed = seed
        self.random_crop = random_crop
        self.flip = flip

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def digest(self) -> str:
        """A hash of the pictures' names in order: other pictures make other steps.

        Of a path, its last two parts count, so that data may move.
        """
        names = hashlib.sha256()
        for index in range(len(self.pictures)):
            parts = PurePath(self.pictures.name(index)).parts[-2:]
            names.update("/".join(parts).encode("utf-8", "surrogateescape") + b"\0")
        return names.hexdigest()

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, list[tuple[int, str]]]:
        """Return a picture, the number of the one that was read, and what was not.

        Raises:
            InputError: if many in a row cannot be read.
        """
        epoch, first = key
        problems: list[tuple[int, str]] = []
        for offset in range(min(_PATIENCE, len(self.pictures))):
            index = (first + offset) % len(self.pictures)
            try:
                return self._read(epoch, index), index, problems
            except InputError as error:
                name = self.pictures.name(index)
                reason = str(error)
                problems.append((index, reason if name in reason else f"{name}: {reason}"))
        if len(problems) == 1:
            raise InputError(f"the only picture cannot be read: {problems[0][1]}")
        raise InputError(
            f"{len(problems)} pictures in a row cannot be read, the first: {problems[0][1]}"
        )

    def _read(self, epoch: int, index: int) -> Tensor:
        chance = np.random.default_rng((self.seed, epoch, index)).random(3)
        place = (chance[0], chance[1]) if self.random_crop else None
        pixels = prepared_levels(self.pictures.image(index, self.image), self.image, place)
        if self.flip and chance[2] < 0.5:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())  # torch warns of read-only ones


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Which pictures make which batch of an epoch, for one of several processes.

    A global batch is the next `batch_size` times `world` of the epoch's permutation, dealt out in
    turn, so that any number of processes sees the same global batches. What does not fill one at
    the end is left out.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        epoch: int = 0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        skip: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.epoch = epoch
        self.skip = skip
        order = np.arange(count)
        if shuffle:
            order = np.random.default_rng((seed, epoch)).permutation(count)
        whole = batch_size * world
        rows = order[: count // whole * whole].reshape(-1, batch_size, world)
        self.batches = rows[:, :, rank]  # (batches, batch_size)

    def __len__(self) -> int:
        return len(self.batches) - self.skip

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for row in self.batches[self.skip :]:
            yield [(self.epoch, int(index)) for index in row]


def make_loader(
    dataset: PictureTensors,
    batches: Iterable[list[tuple[int, int]]],
    workers: int,
    *,
    pin: bool = False,
) -> DataLoader[Batch]:
    """Return a loader of `Batch`es."""
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        worker_init_fn=_ignore_interrupts,
    )
    return loader


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an error of a loader's process, which comes with a traceback, back into its one line.

    Raises:
        InputError: as it was raised where the picture was read.
    """
    try:
        yield
    except InputError as error:
        last = str(error).strip().splitlines()[-1]
        raise InputError(last.removeprefix("tame_deploy.errors.InputError: ")) from error


def _ignore_interrupts(_worker: int) -> None:
    # A terminal sends Ctrl-C to every process; what becomes of workers is for the first to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(items: Sequence[tuple[Tensor, int, list[tuple[int, str]]]]) -> Batch:
    pixels, indices, problems = zip(*items, strict=True)
    return Batch(torch.stack(pixels), torch.tensor(indices), [p for ps in problems for p in ps])


def open_training_data(
    recipe: Recipe, network: ExplainedNetwork
) -> tuple[PictureTensors, PictureTensors]:
    """Return training and validation pictures.

    Raises:
        InputError: if there are none, too few for a batch, or of one class only.
    """
    data = recipe.data
    if data.train is None:
        raise InputError("the recipe names no pictures to train on; pass --data")
    training = _open(data.train, data, network)
    if data.validation is not None:
        validation = _open(data.validation, data, network)
    else:
        training, validation = _set_aside(training, data.validation_share, recipe.run.seed)
    if not len(validation):
        raise InputError("there are no pictures to validate on")
    if len(training) < recipe.run.batch_size:
        raise InputError(
            f"found {len(training)} pictures to train on, fewer than a batch of "
            f"{recipe.run.batch_size}; add pictures or lower --batch-size"
        )
    _check_labels(training, data.train)
    image, seed = network.backbone.image, recipe.run.seed
    return (
        PictureTensors(training, image, seed, random_crop=data.random_crop, flip=data.flip),
        PictureTensors(validation, image, seed),
    )


def _open(name: str, data: DataConfig, network: ExplainedNetwork) -> Pictures:
    source = PictureSource(name, data.root, max_unreadable=data.max_unreadable)
    return open_pictures(source, network.head.config.classes, network.backbone.labels)


def _set_aside(pictures: Pictures, share: float, seed: int) -> tuple[Pictures, Pictures]:
    if share == 0:
        raise InputError("data.validation_share is 0 and no validation pictures are named")
    order = np.random.default_rng(seed).permutation(len(pictures))
    count = max(1, round(share * len(pictures)))
    chosen, rest = np.sort(order[:count]), np.sort(order[count:])
    return (
        Subset(pictures, tuple(int(index) for index in rest)),
        Subset(pictures, tuple(int(index) for index in chosen)),
    )


def _check_labels(pictures: Pictures, name: str) -> None:
    whole = pictures.whole if isinstance(pictures, Subset) else pictures
    if not isinstance(whole, FilePictures):
        return
    if len(set(whole.labels)) == 1 and whole.labels[0] is not None:
        raise InputError(
            f"all {len(whole)} pictures of {name} are of class {whole.labels[0]}; expected several "
            "classes (a folder of pictures without class folders needs no labels)"
        )
    folders = {path.relative_to(name).parts[0] for path in whole.paths if os.path.isdir(name)}
    if len(folders) == 1 and os.path.isdir(os.path.join(name, *folders)):
        raise InputError(
            f"all {len(whole)} pictures of {name} are in one class folder, {folders.pop()}; "
            "expected several, or the folder of the pictures itself, which needs no labels"
        )
