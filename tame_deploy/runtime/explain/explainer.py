"""Pictures in, explained predictions out."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.directory import Artifact
from tame_deploy.closing import Closing
from tame_deploy.errors import InputError
from tame_deploy.picture.lazy import LazyPicture, ReadPicture, read_prepared
from tame_deploy.picture.preprocess import (
    MAX_PIXELS,
    ImageSource,
    Levels,
    Window,
    as_input,
    check_window,
)
from tame_deploy.runtime.backends.protocol import Backend
from tame_deploy.runtime.explain.explanation import Explanation
from tame_deploy.runtime.explain.stream import NamedPicture, Streamed, stream
from tame_deploy.runtime.predict.class_ids import ClassIds
from tame_deploy.runtime.predict.predictor import Predictions, Predictor, joined

__all__ = ["Explainer"]

Images: TypeAlias = "ImageSource | Sequence[ImageSource] | Levels"


class Explainer(Closing):
    """Explains pictures with one artifact on one backend; a context manager, safe for threads."""

    def __init__(self, artifact: Artifact, backend: Backend) -> None:
        self.artifact = artifact
        self.backend = backend
        self.predictor = Predictor.of(artifact.manifest, backend)
        self.labels = artifact.read_labels()

    def explain(
        self,
        images: Images,
        class_ids: ClassIds | None = None,
        *,
        top_k: int | None = None,
        versus: str | int | None = None,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
        window: Window | None = None,
    ) -> Explanation:
        """Classify pictures and show where the classifier looked.

        Pictures are decoded one by one as their batch comes. A list of up to `batch_size` stays
        decoded, for overlays. Of a longer one, paths and bytes are decoded again whenever they are
        drawn, so that memory does not grow with the pictures' sizes; a file that is gone or changed
        by then is an InputError. Arrays and PIL images, which are in memory already, are copied.

        A picture that cannot be read ends the call when its turn comes, and what was found before
        is lost; `stream` with `skip_unreadable` goes on.

        Args:
            images: one picture or several of any size: paths, file contents as bytes, PIL images,
                arrays (H, W, 3), or one array (N, H, W, 3); what else than RGB of 8 bits
                `load_picture` takes for the network. All are prepared as the manifest says.
            class_ids: one class for all pictures, K for all, or K for each of them, (N, K); -1 in
                place j is the j-th most likely. By default the most likely one.
            top_k: instead of `class_ids`, how many of the most likely classes to explain.
            versus: a class, by name or number: why each explained class, and not this one. A map
                is then the difference of the two classes' maps, positive where the picture speaks
                for the one, negative for the other; 0 everywhere where both are the same class.
            batch_size: how many pictures go through the graph at a time.
            max_pixels: a picture of more is refused before it is decoded.
            window: levels of 16-bit grey that become black and white (see `load_image`).

        Raises:
            InputError: for a picture or class that cannot be explained, by position and reason.
            BackendError: if the backend fails.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; expected at least 1")
        is_list = isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4
        sources: Sequence[Any] = images if is_list else [images]  # type: ignore[assignment]
        if len(sources) == 0:
            raise InputError("found no pictures; expected at least one")
        chosen = self._chosen(len(sources), class_ids, top_k, versus)
        spec, lazily = self.artifact.manifest.image, len(sources) > batch_size
        check_window(window, spec)
        read = partial(
            read_prepared, spec=spec, max_pixels=max_pixels, window=window, lazily=lazily
        )
        reading = _read_all(sources, read, named=is_list)
        return self._explain_batches(reading, chosen, batch_size)

    async def explain_async(
        self,
        images: Images,
        class_ids: ClassIds | None = None,
        *,
        top_k: int | None = None,
        versus: str | int | None = None,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
        window: Window | None = None,
    ) -> Explanation:
        """Do as `explain` does in a thread, so that an event loop goes on meanwhile.

        Raises:
            InputError: as `explain`.
            BackendError: as `explain`.
        """
        return await asyncio.to_thread(
            self.explain,
            images,
            class_ids,
            top_k=top_k,
            versus=versus,
            batch_size=batch_size,
            max_pixels=max_pixels,
            window=window,
        )

    def stream(  # noqa: PLR0913  (options of one call)
        self,
        images: Iterable[ImageSource | NamedPicture],
        class_ids: int | Sequence[int] | None = None,
        *,
        top_k: int | None = None,
        versus: str | int | None = None,
        batch_size: int = 8,
        workers: int | None = None,
        skip_unreadable: bool = False,
        max_pixels: int = MAX_PIXELS,
        window: Window | None = None,
    ) -> Generator[Streamed, None, None]:
        """Explain any number of pictures in order, reading some while others are explained.

        Memory does not grow with their number, and they are asked for only as they are needed.
        Whoever stops early closes the iterator (a `for` loop does when it is left by `break` and
        the iterator is dropped; `contextlib.closing` does it at once).

        Args:
            images: pictures, as `explain` takes single ones, with names if they have any.
            class_ids: which classes to explain in every one of them, as for `explain`.
            top_k: instead, how many of the likeliest.
            versus: why each of them, and not this class (see `explain`).
            batch_size: how many go through the graph at a time.
            workers: threads that read and resize; by default one for each processor that the
                process may use, and at most four.
            skip_unreadable: give a picture that cannot be read with its error, and go on.
            max_pixels: a picture of more is refused before it is decoded.
            window: levels of 16-bit grey that become black and white (see `load_image`).

        Raises:
            InputError: for classes that cannot be explained; with `skip_unreadable` off, for a
                picture that cannot be read, by its index, after those before it.
            BackendError: if the backend fails.
        """
        if batch_size < 1 or (workers is not None and workers < 1):
            raise InputError(f"batch_size is {batch_size}, workers {workers}; expected at least 1")
        chosen = self._chosen(1, class_ids, top_k, versus)
        spec = self.artifact.manifest.image
        check_window(window, spec)
        return stream(
            partial(self._explain_prepared, chosen=chosen),
            partial(read_prepared, spec=spec, max_pixels=max_pixels, window=window),
            images,
            batch_size=batch_size,
            workers=workers,
            skip_unreadable=skip_unreadable,
        )

    def _explain_batches(
        self, reading: Iterator[ReadPicture], chosen: NDArray[np.int64] | None, batch_size: int
    ) -> Explanation:
        """Explain pictures as they are read, each with its own row of classes."""
        pictures: list[Image.Image | LazyPicture] = []
        found: list[Predictions] = []
        while batch := list(islice(reading, batch_size)):
            rows = slice(len(pictures), len(pictures) + len(batch))
            pixels = np.stack([pixels for _, pixels in batch])
            images = as_input(pixels, self.artifact.manifest.image)
            found.append(self.predictor.predict(images, None if chosen is None else chosen[rows]))
            pictures += [picture for picture, _ in batch]
        return self._explanation(joined(found), pictures)

    def _explain_prepared(
        self,
        pictures: Sequence[Image.Image | LazyPicture],
        pixels: Levels,
        chosen: NDArray[np.int64] | None,
    ) -> Explanation:
        """Explain a batch (B, height, width, channels), with one row of classes for all of it."""
        ids = None if chosen is None else np.repeat(chosen, len(pixels), axis=0)
        images = as_input(pixels, self.artifact.manifest.image)
        return self._explanation(self.predictor.predict(images, ids), pictures)

    def _explanation(
        self, found: Predictions, pictures: Sequence[Image.Image | LazyPicture]
    ) -> Explanation:
        manifest = self.artifact.manifest
        return Explanation.of(found, manifest, self.labels, pictures, manifest.image)

    def check_classes(
        self,
        class_ids: ClassIds | None,
        top_k: int | None = None,
        versus: str | int | None = None,
    ) -> None:
        """Check what `explain` would be asked, before any picture is read.

        Raises:
            InputError: if the classes cannot be explained by this artifact.
        """
        self._chosen(1, class_ids, top_k, versus)

    def _chosen(
        self,
        count: int,
        class_ids: ClassIds | None,
        top_k: int | None,
        versus: str | int | None,
    ) -> NDArray[np.int64] | None:
        """Return the graph's `class_ids` for `count` pictures."""
        other = self.class_named(versus) if isinstance(versus, str) else versus
        return self.predictor.class_ids(count, class_ids, top_k, other)

    def class_id(self, label: str) -> int:
        """Return the class with a name, whatever its capitals.

        Raises:
            InputError: offering the nearest names, or if several classes share the name.
        """
        wanted = label.strip().casefold()
        matches = [i for i, name in enumerate(self.labels) if name.casefold() == wanted]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InputError(f"classes {matches} are all called {label!r}; name one by its id")
        near = difflib.get_close_matches(wanted, [name.casefold() for name in self.labels], 3, 0.5)
        hint = f"Nearest: {', '.join(near)}" if near else "See labels.txt in the artifact"
        raise InputError(f"no class is called {label!r}. {hint}")

    def class_named(self, text: str) -> int:
        """Return the class with a name, or else with a number.

        Raises:
            InputError: offering the nearest names, or saying which numbers there are.
        """
        try:
            return self.class_id(text)
        except InputError:
            number = text.strip()
            if not number.removeprefix("-").isdecimal():
                raise
        if not 0 <= int(number) < len(self.labels):
            raise InputError(
                f"no class is called {text!r}, and numbers of classes are 0 to "
                f"{len(self.labels) - 1}"
            )
        return int(number)

    def close(self) -> None:
        """Free the backend."""
        self.backend.close()


def _read_all(
    sources: Sequence[Any], read: Callable[[ImageSource], ReadPicture], *, named: bool
) -> Iterator[ReadPicture]:
    """Read pictures one by one; errors are `named` by the picture's position."""
    for index, source in enumerate(sources):
        try:
            yield read(source)
        except InputError as error:
            raise InputError(f"picture {index}: {error}" if named else str(error)) from None
