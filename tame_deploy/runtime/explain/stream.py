"""Pictures flow by: some are read while others are explained, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import ImageSource, as_input, load_image, prepare
from tame_deploy.runtime.explain.explanation import Explanation

__all__ = ["Streamed", "stream"]

_MOST_WORKERS = 4
#: Batches that wait for their turn: one that runs, and one that is ready when it has.
_RUNNING = 2

#: A picture, and its pixels as the network sees them.
_Read: TypeAlias = "tuple[Image.Image, NDArray[np.uint8]]"
_Explain: TypeAlias = "Callable[[list[Image.Image], NDArray[Any], Any], Explanation]"


@dataclass(frozen=True)
class Streamed:
    """One picture of a stream.

    Attributes:
        index: its number, from 0.
        source: what was given for it.
        explanation: of this one picture; None if it could not be read.
        error: why it could not.
    """

    index: int
    source: ImageSource
    explanation: Explanation | None
    error: InputError | None = None


def stream(
    explain: _Explain,
    artifact: Artifact,
    images: Iterable[ImageSource],
    asked: Any,
    batch_size: int,
    workers: int | None,
    skip_unreadable: bool,
) -> Generator[Streamed, None, None]:
    """Yield what `explain` makes of pictures (see `Explainer.stream`)."""
    workers = workers or min(_MOST_WORKERS, os.cpu_count() or 1)
    readers = ThreadPoolExecutor(workers, "tame-deploy read")
    runner = ThreadPoolExecutor(1, "tame-deploy explain")
    spec = artifact.manifest.image

    def run(batch: list[_Waiting]) -> list[Streamed]:
        return _explained(batch, lambda pictures, pixels: explain(pictures, pixels, asked), spec)

    try:
        batches = _batches(images, readers, spec, batch_size, workers)
        running: deque[Future[list[Streamed]]] = deque()
        for batch in batches:
            running.append(runner.submit(run, batch))
            if len(running) >= _RUNNING:
                yield from _checked(running.popleft().result(), skip_unreadable)
        while running:
            yield from _checked(running.popleft().result(), skip_unreadable)
    finally:
        # Whoever stops early waits for the batch that runs, and for nothing else.
        runner.shutdown(wait=True, cancel_futures=True)
        readers.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Waiting:
    """A picture that is being read."""

    index: int
    source: ImageSource
    read: Future[_Read]


def _batches(
    images: Iterable[ImageSource],
    readers: ThreadPoolExecutor,
    spec: ImageSpec,
    batch_size: int,
    workers: int,
) -> Iterator[list[_Waiting]]:
    """Yield batches whose pictures are being read, always some ahead of the one that is given."""
    given = enumerate(images)
    waiting: deque[_Waiting] = deque()
    ahead = batch_size + workers
    while True:
        for index, source in islice(given, batch_size + ahead - len(waiting)):
            waiting.append(_Waiting(index, source, readers.submit(_read, source, spec)))
        if not waiting:
            return
        yield [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]


def _read(source: ImageSource, spec: ImageSpec) -> _Read:
    picture = load_image(source)
    return picture, np.asarray(prepare(picture, spec))


def _explained(
    batch: list[_Waiting],
    explain: Callable[[list[Image.Image], NDArray[Any]], Explanation],
    spec: ImageSpec,
) -> list[Streamed]:
    """Explain the pictures of a batch that can be read."""
    pictures: dict[int, _Read] = {}
    errors: dict[int, InputError] = {}
    for one in batch:
        try:
            pictures[one.index] = one.read.result()
        except InputError as error:
            errors[one.index] = error
    found: dict[int, Explanation] = {}
    if pictures:
        pixels = as_input(np.stack([pixels for _, pixels in pictures.values()]), spec)
        whole = explain([picture for picture, _ in pictures.values()], pixels)
        found = {index: whole.one(place) for place, index in enumerate(pictures)}
    return [
        Streamed(one.index, one.source, found.get(one.index), errors.get(one.index))
        for one in batch
    ]


def _checked(found: list[Streamed], skip_unreadable: bool) -> Iterator[Streamed]:
    for one in found:
        if one.error is not None and not skip_unreadable:
            raise InputError(f"picture {one.index}: {one.error}") from one.error
        yield one
