"""Pictures in, explained predictions out."""

from __future__ import annotations

import asyncio
import difflib
import os
from collections.abc import Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.artifact import Artifact, open_artifact
from tame_deploy.errors import BackendError, InputError
from tame_deploy.preprocess import ImageSource, load_image, prepare_batch
from tame_deploy.runtime.backend import Backend, BackendOptions
from tame_deploy.runtime.explanation import Explanation
from tame_deploy.runtime.selection import open_backend
from tame_deploy.runtime.stream import Streamed, stream

__all__ = ["ClassIds", "Explainer", "load"]

ClassIds: TypeAlias = "int | Sequence[int] | Sequence[Sequence[int]] | NDArray[np.integer[Any]]"
Images: TypeAlias = "ImageSource | Sequence[ImageSource] | NDArray[np.uint8]"


class Explainer:
    """Explains pictures with one artifact on one backend; a context manager, safe for threads."""

    def __init__(self, artifact: Artifact, backend: Backend) -> None:
        self.artifact = artifact
        self.backend = backend
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
        chosen = self._resolve(class_ids, top_k, len(pictures))
        spec = self.artifact.manifest.image
        outputs: list[dict[str, NDArray[Any]]] = []
        for start in range(0, len(pictures), batch_size):
            rows = slice(start, start + batch_size)
            images = prepare_batch(pictures[rows], spec)
            outputs.append(self._run(images, None if chosen is None else chosen[rows]))
        joined = {name: np.concatenate([o[name] for o in outputs]) for name in outputs[0]}
        return self._explanation(joined, pictures)

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
        self._resolve(class_ids, top_k, 1)
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
        chosen = self._resolve(class_ids, top_k, len(pictures))
        return self._explanation(self._run(images, chosen), pictures)

    def _run(
        self, images: NDArray[Any], chosen: NDArray[np.int64] | None
    ) -> dict[str, NDArray[Any]]:
        feeds = {"images": images}
        if chosen is not None:
            feeds["class_ids"] = chosen
        return self.backend.run(feeds)

    def _explanation(
        self, outputs: dict[str, NDArray[Any]], pictures: Sequence[Image.Image]
    ) -> Explanation:
        if not np.isfinite(outputs["logits"]).all():
            raise BackendError("the network gave NaN or infinite logits; its weights are no good")
        manifest = self.artifact.manifest
        return Explanation(
            outputs["logits"],
            outputs["explained"],
            outputs["maps"],
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
        self._resolve(class_ids, top_k, 1)

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

    def _resolve(
        self, class_ids: ClassIds | None, top_k: int | None, count: int
    ) -> NDArray[np.int64] | None:
        """Return int64 (N, K) for the graph, or None for a graph that takes no class ids."""
        graph = self.artifact.manifest.graph
        if class_ids is not None and top_k is not None:
            raise InputError("found both class_ids and top_k; expected one of them")
        if graph.explain != "selectable":
            if class_ids is not None or top_k not in (None, graph.ranks):
                given = "every class" if graph.explain == "all" else f"the top {graph.ranks}"
                raise InputError(
                    f"this artifact always explains {given}; to choose, export it with "
                    "--explain selectable"
                )
            return None
        if class_ids is None:
            if top_k is not None and not 1 <= top_k <= graph.ranks:
                raise InputError(
                    f"top_k is {top_k}; this artifact ranks 1 to {graph.ranks} classes "
                    "(export with a larger --top-k for more)"
                )
            class_ids = [-1] * (top_k or 1)
        return self._checked(class_ids, count, graph.ranks)

    def _checked(self, class_ids: ClassIds, count: int, ranks: int) -> NDArray[np.int64]:
        try:
            ids = np.asarray(class_ids)
        except ValueError:
            raise InputError("class_ids has rows of different lengths; expected (N, K)") from None
        if ids.dtype.kind not in "iu" or ids.ndim > 2 or ids.size == 0:
            raise InputError(f"found class_ids {ids.dtype} {list(ids.shape)}; expected integers")
        if ids.ndim == 2 and len(ids) != count:
            raise InputError(f"class_ids has {len(ids)} rows for {count} pictures")
        ids = np.broadcast_to(np.atleast_1d(ids), (count, np.atleast_1d(ids).shape[-1]))
        classes = self.artifact.manifest.classes
        wrong = ids[(ids < -1) | (ids >= classes)]
        if wrong.size:
            raise InputError(f"class id {wrong[0]} is out of range; expected -1 to {classes - 1}")
        if (ids[:, ranks:] == -1).any():
            raise InputError(
                f"-1 stands in place {ranks + 1} or later; this artifact ranks {ranks} classes "
                "(export with a larger --top-k for more)"
            )
        return np.ascontiguousarray(ids, dtype=np.int64)

    def close(self) -> None:
        """Free the backend."""
        self.backend.close()

    def __enter__(self) -> Explainer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


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


def load(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    options: BackendOptions | None = None,
) -> Explainer:
    """Open an artifact for explaining.

    Args:
        path: the artifact's directory.
        backend: "tensorrt", "tensorrt-rtx", "onnxruntime", or "auto": the first of them that can
            be used here (`tame-deploy doctor` says which, and why).
        threads: how many threads one operation may use; one a core by default. For ONNX Runtime.
        providers: ONNX Runtime's execution providers, by preference; the CPU's by default.
        options: everything that a backend can be told, in place of the two before.

    Raises:
        ArtifactError: if the artifact is missing, altered or too new.
        BackendError: if the backend is not installed or a provider is not obtained.
        InputError: for options that do not belong together, or to the backend.
    """
    if options is not None and (threads is not None or providers is not None):
        raise InputError("found options beside threads or providers; expected one or the other")
    chosen = tuple(providers) if providers is not None else None
    artifact = open_artifact(path)
    opened = open_backend(artifact, backend, options or BackendOptions(threads, chosen))
    return Explainer(artifact, opened)
