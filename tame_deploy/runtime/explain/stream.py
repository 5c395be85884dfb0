"""Pictures flow by: some are read while others are explained, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
from PIL import Image

from tame_deploy.errors import InputError
from tame_deploy.picture.lazy import LazyPicture, ReadPicture
from tame_deploy.picture.preprocess import ImageSource, Levels
from tame_deploy.runtime.backends.cores import usable_processors
from tame_deploy.runtime.explain.explanation import Explanation, PictureExplanation

__all__ = ["NamedPicture", "Streamed", "stream"]

_MOST_WORKERS = 4
#: Batches that wait for their turn: one that runs, and one that is ready when it has.
_RUNNING = 2

#: Explains a batch: its pictures, and their pixels as the network sees them.
_Explain: TypeAlias = "Callable[[Sequence[Image.Image | LazyPicture], Levels], Explanation]"


@dataclass(frozen=True)
class NamedPicture:
    """A picture and what to call it: its path, or a video's and the number of the frame."""

    name: str
    source: ImageSource


@dataclass(frozen=True)
class Streamed:
    """One picture of a stream.

    Attributes:
        index: its number, from 0.
        name: what it was called: by a `NamedPicture`, or its path; "" for what has no name.
        source: what was given for it.
        explanation: of this one picture; None if it could not be read.
        error: why it could not.
    """

    index: int
    name: str
    source: ImageSource
    explanation: PictureExplanation | None
    error: InputError | None = None


@dataclass(frozen=True)
class _BeingRead:
    """A picture on its way, with what it will be told by."""

    index: int
    name: str
    source: ImageSource
    read: Future[ReadPicture]


def stream(
    explain: _Explain,
    read: Callable[[ImageSource], ReadPicture],
    images: Iterable[ImageSource | NamedPicture],
    *,
    batch_size: int,
    workers: int | None,
    skip_unreadable: bool,
) -> Generator[Streamed, None, None]:
    """Yield what `explain` makes of batches of what `read` makes of pictures.

    See `Explainer.stream`, which checks what it is given.
    """
    workers = workers or min(_MOST_WORKERS, usable_processors())
    readers = ThreadPoolExecutor(workers, "tame-deploy read")
    runner = ThreadPoolExecutor(1, "tame-deploy explain")
    running: deque[Future[list[Streamed]]] = deque()
    try:
        named = (one if isinstance(one, NamedPicture) else _named(one) for one in images)
        given = (
            _BeingRead(index, one.name, one.source, readers.submit(read, one.source))
            for index, one in enumerate(named)
        )
        for batch in _batches(given, batch_size, ahead=batch_size + workers):
            running.append(runner.submit(_explain_batch, batch, explain))
            if len(running) >= _RUNNING:
                yield from _checked(running.popleft().result(), skip_unreadable)
        while running:
            yield from _checked(running.popleft().result(), skip_unreadable)
    finally:
        # Whoever stops early waits for the batch that runs, and for nothing else.
        runner.shutdown(wait=True, cancel_futures=True)
        readers.shutdown(wait=True, cancel_futures=True)


def _named(source: ImageSource) -> NamedPicture:
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    return NamedPicture(name, source)


def _batches(
    given: Iterator[_BeingRead], batch_size: int, ahead: int
) -> Iterator[list[_BeingRead]]:
    """Yield batches, when so many more pictures than the batch has are being read."""
    waiting: deque[_BeingRead] = deque()
    while True:
        waiting.extend(islice(given, batch_size + ahead - len(waiting)))
        if not waiting:
            return
        yield [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]


def _explain_batch(batch: list[_BeingRead], explain: _Explain) -> list[Streamed]:
    """Explain the pictures of a batch that can be read."""
    pictures: dict[int, ReadPicture] = {}
    errors: dict[int, InputError] = {}
    for one in batch:
        try:
            pictures[one.index] = one.read.result()
        except InputError as error:
            errors[one.index] = error
    found: dict[int, PictureExplanation] = {}
    if pictures:
        pixels = np.stack([pixels for _, pixels in pictures.values()])
        explanation = explain([picture for picture, _ in pictures.values()], pixels)
        found = dict(zip(pictures, explanation, strict=True))
    return [
        Streamed(
            one.index, one.name, one.source, found.get(one.index), errors.get(one.index)
        )
        for one in batch
    ]  # fmt: skip


def _checked(found: list[Streamed], skip_unreadable: bool) -> Iterator[Streamed]:
    for one in found:
        if one.error is not None and not skip_unreadable:
            raise InputError(f"picture {one.index}: {one.error}") from one.error
        yield one
