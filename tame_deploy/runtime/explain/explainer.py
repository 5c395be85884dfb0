"""Pictures in, explained predictions out."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Generator, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact.directory import Artifact
from tame_deploy.closing import Closing
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import ImageSource, load_image, prepare_batch
from tame_deploy.runtime.backends.protocol import Backend
from tame_deploy.runtime.explain.explanation import Explanation
from tame_deploy.runtime.explain.stream import Streamed, stream
from tame_deploy.runtime.predict.class_ids import ClassIds
from tame_deploy.runtime.predict.predictor import Predictions, Predictor, joined

__all__ = ["Explainer"]

Images: TypeAlias = "ImageSource | Sequence[ImageSource] | NDArray[np.uint8]"


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
        batch_size: int = 8,
    ) -> Explanation:
        """Classify pictures and show where the classifier looked.

        Args:
            images: one picture or several of any size: paths, file contents as bytes, PIL images,
                uint8 arrays (H, W, 3), or one array (N, H, W, 3). All are prepared as the
                manifest says.
            class_ids: which classes to explain: one for all pictures, K for all pictures, or K
                for each of them, (N, K); -1 in place j is the j-th most likely. By default the
                most likely one.
            top_k: instead of `class_ids`, how many of the most likely classes to explain.
            batch_size: how many pictures go through the graph at a time.

        Raises:
            InputError: for a picture or class that cannot be explained, by position and reason.
            BackendError: if the backend fails.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; expected at least 1")
        pictures = _load_all(images)
        chosen = self.predictor.class_ids(len(pictures), class_ids, top_k)
        spec = self.artifact.manifest.image
        found: list[Predictions] = []
        for start in range(0, len(pictures), batch_size):
            rows = slice(start, start + batch_size)
            images = prepare_batch(pictures[rows], spec)
            found.append(self.predictor.predict(images, None if chosen is None else chosen[rows]))
        return self._explanation(joined(found), pictures)

    async def explain_async(
        self,
        images: Images,
        class_ids: ClassIds | None = None,
        *,
        top_k: int | None = None,
        batch_size: int = 8,
    ) -> Explanation:
        """Do as `explain` does in a thread, so that an event loop goes on meanwhile.

        Raises:
            InputError: as `explain`.
            BackendError: as `explain`.
        """
        return await asyncio.to_thread(
            self.explain, images, class_ids, top_k=top_k, batch_size=batch_size
        )

    def stream(
        self,
        images: Iterable[ImageSource],
        class_ids: int | Sequence[int] | None = None,
        *,
        top_k: int | None = None,
        batch_size: int = 8,
        workers: int | None = None,
        skip_unreadable: bool = False,
    ) -> Generator[Streamed, None, None]:
        """Explain any number of pictures in order, reading some while others are explained.

        Memory does not grow with their number, and they are asked for only as they are needed.
        Whoever stops early closes the iterator (a `for` loop does when it is left by `break` and
        the iterator is dropped; `contextlib.closing` does it at once).

        Args:
            images: pictures, as `explain` takes single ones.
            class_ids: which classes to explain in every one of them, as for `explain`.
            top_k: instead, how many of the likeliest.
            batch_size: how many go through the graph at a time.
            workers: threads that read and resize; by default one a core, and at most four.
            skip_unreadable: give a picture that cannot be read with its error, and go on.

        Raises:
            InputError: for classes that cannot be explained; with `skip_unreadable` off, for a
                picture that cannot be read, by its index, after those before it.
            BackendError: if the backend fails.
        """
        if batch_size < 1 or (workers is not None and workers < 1):
            raise InputError(f"batch_size is {batch_size}, workers {workers}; expected at least 1")
        self.predictor.class_ids(1, class_ids, top_k)
        asked = (class_ids, top_k)
        return stream(self._explain_prepared, self.artifact, images, asked, batch_size, workers,
                      skip_unreadable)  # fmt: skip

    def _explain_prepared(
        self,
        pictures: Sequence[Image.Image],
        images: NDArray[Any],
        asked: tuple[int | Sequence[int] | None, int | None],
    ) -> Explanation:
        """Explain one batch whose `images` tensor is ready."""
        class_ids, top_k = asked
        chosen = self.predictor.class_ids(len(pictures), class_ids, top_k)
        return self._explanation(self.predictor.predict(images, chosen), pictures)

    def _explanation(self, found: Predictions, pictures: Sequence[Image.Image]) -> Explanation:
        manifest = self.artifact.manifest
        return Explanation(
            found.logits,
            found.class_ids,
            found.maps,
            self.labels,
            tuple(pictures),
            manifest.image,
            manifest.graph.maps,
            manifest.speed_only,
        )

    def check_classes(self, class_ids: ClassIds | None, top_k: int | None = None) -> None:
        """Check what `explain` would be asked, before any picture is read.

        Raises:
            InputError: if the classes cannot be explained by this artifact.
        """
        self.predictor.class_ids(1, class_ids, top_k)

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

    def close(self) -> None:
        """Free the backend."""
        self.backend.close()


def _load_all(images: Images) -> list[Any]:
    if isinstance(images, np.ndarray) and images.ndim == 4:
        sources: Sequence[Any] = list(images)
    elif isinstance(images, (list, tuple)):
        sources = images
    else:
        return [load_image(images)]  # type: ignore[arg-type]
    if not sources:
        raise InputError("found no pictures; expected at least one")
    pictures = []
    for index, source in enumerate(sources):
        try:
            pictures.append(load_image(source))
        except InputError as error:
            raise InputError(f"picture {index}: {error}") from None
    return pictures
