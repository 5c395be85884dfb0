"""One artifact on a backend, asked over the network."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.errors import BackendError, InputError
from tame_deploy.picture.lazy import LazyPicture
from tame_deploy.picture.preprocess import MAX_PIXELS, as_input, load_image, prepare
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.explain.explainer import Explainer
from tame_deploy.runtime.explain.explanation import Explanation, PictureExplanation
from tame_deploy.runtime.explain.load import load
from tame_deploy.serving.contract import VERSION, Contract, Question
from tame_deploy.serving.deadlines import within
from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.messages import (
    InferAnswer,
    InferRequest,
    InputTensor,
    OutputTensor,
    WantedOutput,
)
from tame_deploy.serving.scheduler import Outcome, Scheduler
from tame_deploy.serving.statistics import ModelStatistics

__all__ = ["Explained", "ModelOptions", "ServedModel", "open_model"]

_T = TypeVar("_T")

_log = logging.getLogger("tame_deploy.serving")

_MOST_DECODERS = 4
#: Overlays are for looking at.
_OVERLAY_SIDE = 1600


@dataclass(frozen=True)
class ModelOptions:
    """How models are run.

    Attributes:
        backend: as `tame_deploy.load` takes it.
        backend_options: likewise.
        max_batch: pictures in a batch, and in a request; an engine's profile may allow fewer.
        instances: batches that run at a time.
        window_ms: how long a request may wait for others to share its batch.
        max_waiting: requests that are accepted before an answer; more are told to come back.
        max_pixels: of an encoded picture.
        decoders: threads that decode pictures and draw overlays; None is one a core, up to four.
    """

    backend: str = "auto"
    backend_options: BackendOptions = field(default_factory=BackendOptions)
    max_batch: int = 8
    instances: int = 1
    window_ms: float = 0.0
    max_waiting: int = 256
    max_pixels: int = MAX_PIXELS
    decoders: int | None = None


@dataclass(frozen=True)
class Explained:
    """The explanation of one encoded picture.

    Attributes:
        explanation: of the picture, which is at most 1600 pixels a side.
        size: (width, height) of the picture itself.
        overlays: PNG files, one for each class, if they were asked for.
        timing_ms: milliseconds by stage.
    """

    explanation: PictureExplanation
    size: tuple[int, int]
    overlays: tuple[bytes, ...]
    timing_ms: dict[str, float]


@dataclass(frozen=True)
class _Decoded:
    """Encoded pictures as the graph's input; for drawing also as they are, but small."""

    images: NDArray[Any]
    pictures: tuple[Image.Image | LazyPicture, ...]
    sizes: tuple[tuple[int, int], ...]


class ServedModel:
    """Answers requests for one artifact; it lives on one event loop, after `start`."""

    def __init__(
        self, name: str, explainer: Explainer, options: ModelOptions, statistics: ModelStatistics
    ) -> None:
        self.name, self.explainer, self.options = name, explainer, options
        self.statistics = statistics
        self.max_batch = min(options.max_batch, explainer.backend.max_batch or options.max_batch)
        self.contract = Contract(name, explainer.artifact, self.max_batch, explainer.backend.name)
        threads = options.decoders or min(_MOST_DECODERS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, "tame-deploy decode")
        self._accepted = 0
        self._idle: asyncio.Event | None = None

    def warm_up(self) -> None:
        """Run the smallest and the largest batch once.

        Raises:
            BackendError: if the backend cannot run them.
        """
        spec = self.explainer.artifact.manifest.image
        for rows in sorted({1, self.max_batch}):
            shape: Any = spec.input_shape(rows)
            images: NDArray[Any] = np.zeros(shape, spec.dtype)
            self.explainer.backend.run(self._feeds(images, self.contract.class_ids(None, rows)))

    def start(self) -> None:
        """Take requests from now on, on the running event loop."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._scheduler = Scheduler(
            self.explainer.backend.run,
            max_batch=self.max_batch,
            instances=self.options.instances,
            window_s=self.options.window_ms / 1e3,
            observe=self.statistics.ran,
        )
        self.statistics.started(
            self.explainer.backend.name,
            self.explainer.artifact.manifest.precision,
            accepted=lambda: self._accepted,
            waiting=lambda: self._scheduler.waiting,
        )

    def config(self) -> dict[str, Any]:
        """Return the model's configuration as Triton shows it."""
        return self.contract.config(self.options.instances, int(self.options.window_ms * 1e3))

    async def infer(
        self, request: InferRequest, transport: str, timeout_s: float | None
    ) -> InferAnswer:
        """Answer a request of the protocol, in the time it allows and at most in `timeout_s`.

        Raises:
            RequestError: if it cannot be answered; the message is for the client.
        """

        async def answer() -> tuple[Outcome, InferAnswer]:
            question = self.contract.read(request)
            outcome, decoded, timing = await self._outcome(question)
            drawn = None
            if question.draws:
                drawn = await self._drawn(self._explanation(outcome, question, decoded), timing)
            tensors = tuple(self._output(w, outcome, drawn) for w in question.outputs)
            return outcome, InferAnswer(self.name, VERSION, request.id, tensors)

        limits = [limit for limit in (request.timeout_s, timeout_s) if limit is not None]
        return await self._counted(answer(), min(limits, default=None), transport)

    async def explain(
        self, file: bytes, class_ids: Sequence[int], timeout_s: float | None, *, draws: bool
    ) -> Explained:
        """Explain one encoded picture, and draw it if asked to; no classes means the likeliest.

        Raises:
            RequestError: if it cannot be explained; the message is for the client.
        """

        async def answer() -> tuple[Outcome, Explained]:
            ids = np.asarray([class_ids], np.int64)
            chosen = InputTensor("class_ids", "INT64", ids) if class_ids else None
            wanted = (WantedOutput("overlay"),) if draws else ()
            resolved = self.contract.class_ids(chosen, 1)
            question = self.contract.checked(Question(1, None, (file,), resolved, wanted))
            outcome, decoded, timing = await self._outcome(question)
            assert decoded is not None
            explanation = self._explanation(outcome, question, decoded)
            overlays = (await self._drawn(explanation, timing))[0] if draws else ()
            return outcome, Explained(explanation[0], decoded.sizes[0], tuple(overlays), timing)

        return await self._counted(answer(), timeout_s, "http")

    async def idle(self) -> None:
        """Return when every request that was accepted has its answer."""
        assert self._idle is not None
        await self._idle.wait()

    async def close(self, timeout_s: float) -> None:
        """Wait for the requests that were accepted, and free the backend."""
        try:
            await within(self.idle(), timeout_s)
        except asyncio.TimeoutError:
            _log.warning("%s: %d requests were not answered in time", self.name, self._accepted)
        self._pool.shutdown(wait=False, cancel_futures=True)
        await self._scheduler.close()
        await asyncio.to_thread(self.explainer.close)

    async def _counted(
        self,
        answer: Coroutine[Any, Any, tuple[Outcome, _T]],
        timeout_s: float | None,
        transport: str,
    ) -> _T:
        """Await an answer within its time, and keep the books."""
        started = time.monotonic_ns()
        try:
            outcome, found = await self._admitted(answer, timeout_s)
        except RequestError as error:
            self.statistics.failed(time.monotonic_ns() - started, transport, error.fault.code)
            raise
        except asyncio.CancelledError:
            self.statistics.failed(time.monotonic_ns() - started, transport, Fault.CANCELLED.code)
            raise
        except Exception:
            self.statistics.failed(time.monotonic_ns() - started, transport, Fault.INTERNAL.code)
            raise
        self.statistics.answered(outcome, time.monotonic_ns() - started, transport)
        return found

    async def _admitted(self, answer: Coroutine[Any, Any, _T], timeout_s: float | None) -> _T:
        """Await an answer if there is room for it; whatever goes wrong is a RequestError."""
        if self._accepted >= self.options.max_waiting:
            answer.close()
            raise RequestError(
                f"{self._accepted} requests wait for model {self.name!r}; try again later",
                Fault.UNAVAILABLE,
            )
        assert self._idle is not None
        self._accepted += 1
        self._idle.clear()
        try:
            return await within(answer, timeout_s)
        except asyncio.TimeoutError:
            raise RequestError("the time for this request ran out", Fault.DEADLINE) from None
        except BackendError as error:
            _log.exception("%s: the backend failed", self.name)
            words = "the model could not be run; the server's log says why"
            raise RequestError(words, Fault.INTERNAL) from error
        finally:
            self._accepted -= 1
            if not self._accepted:
                self._idle.set()

    async def _outcome(
        self, question: Question
    ) -> tuple[Outcome, _Decoded | None, dict[str, float]]:
        """Decode what must be, wait for the turn, and check what came out."""
        timing: dict[str, float] = {}
        images, decoded = question.images, None
        if images is None:
            decoded = await self._decoded(question, timing)
            images = decoded.images
        outcome = await self._scheduler.submit(self._feeds(images, question.class_ids))
        if not np.isfinite(outcome.outputs["logits"]).all():
            raise BackendError("the network gave NaN or infinite logits; its weights are no good")
        timing["queue"] = outcome.queue_ns / 1e6
        timing["infer"] = outcome.times.infer_ns / 1e6
        return outcome, decoded, timing

    async def _decoded(self, question: Question, timing: dict[str, float]) -> _Decoded:
        """Decode the files of a question; the pictures themselves are dropped at once."""
        spec, files = self.explainer.artifact.manifest.image, question.files

        def read(
            index: int,
        ) -> tuple[NDArray[np.uint8], Image.Image | LazyPicture, tuple[int, int]]:
            try:
                picture = load_image(files[index], max_pixels=self.options.max_pixels)
                pixels, size = np.asarray(prepare(picture, spec)), picture.size
                if not question.draws:
                    return pixels, LazyPicture(files[index], self.options.max_pixels), size
                picture.thumbnail((_OVERLAY_SIDE, _OVERLAY_SIDE), Image.Resampling.LANCZOS)
                return pixels, picture, size
            except InputError as error:
                which = f"picture {index}: " if len(files) > 1 else ""
                raise RequestError(f"{which}{error}") from None

        found = await asyncio.gather(
            *(self._aside("decode", partial(read, i), timing) for i in range(len(files)))
        )
        pixels, pictures, sizes = zip(*found, strict=True)
        return _Decoded(as_input(np.stack(pixels), spec), pictures, sizes)

    async def _drawn(
        self, explanation: Explanation, timing: dict[str, float]
    ) -> NDArray[np.object_]:
        """Return PNG files (B, K), each drawn apart, so that nobody waits behind all of them."""
        found = np.empty(explanation.class_ids.shape, object)

        async def draw(row: int, place: int) -> None:
            work = partial(_overlay, explanation[row], place)
            found[row, place] = await self._aside("draw", work, timing)

        await asyncio.gather(*(draw(row, place) for row, place in np.ndindex(*found.shape)))
        return found

    async def _aside(self, stage: str, work: Callable[[], _T], timing: dict[str, float]) -> _T:
        """Work in a thread; what is cancelled before it begins is not begun."""

        def timed() -> tuple[_T, int]:
            started = time.monotonic_ns()
            return work(), time.monotonic_ns() - started

        found, ns = await asyncio.get_running_loop().run_in_executor(self._pool, timed)
        self.statistics.spent(stage, ns)
        timing[stage] = timing.get(stage, 0.0) + ns / 1e6
        return found

    def _feeds(
        self, images: NDArray[Any], class_ids: NDArray[np.int64] | None
    ) -> dict[str, NDArray[Any]]:
        return (
            {"images": images} if class_ids is None else {"images": images, "class_ids": class_ids}
        )

    def _explanation(
        self, outcome: Outcome, question: Question, decoded: _Decoded | None
    ) -> Explanation:
        """Return the answer for looking at: over the pictures, or what the network saw of them."""
        manifest = self.explainer.artifact.manifest
        image, outputs = manifest.image, outcome.outputs
        if decoded is not None:
            pictures: tuple[Image.Image | LazyPicture, ...] = decoded.pictures
        else:
            assert question.images is not None
            pictures = tuple(Image.fromarray(pixels) for pixels in question.images)
            image = replace(image, crop="none")
        return Explanation(
            outputs["logits"], outputs["explained"], outputs["maps"], self.explainer.labels,
            pictures, image, manifest.graph.maps, manifest.speed_only,
        )  # fmt: skip

    def _output(
        self, wanted: WantedOutput, outcome: Outcome, drawn: NDArray[Any] | None
    ) -> OutputTensor:
        if drawn is not None and wanted.name == "overlay":
            return OutputTensor(wanted.name, drawn)
        array = outcome.outputs[wanted.name]
        if wanted.classes:
            array = _classified(array, wanted.classes, self.explainer.labels)
        return OutputTensor(wanted.name, array)


def _classified(
    logits: NDArray[np.float32], count: int, labels: Sequence[str]
) -> NDArray[np.object_]:
    """Return "logit:class:label" of the likeliest classes, bytes (B, count), as Triton has it."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    found = np.empty(best.shape, object)
    for (row, place), class_id in np.ndenumerate(best):
        found[row, place] = f"{logits[row, class_id]:f}:{class_id}:{labels[class_id]}".encode()
    return found


def _overlay(explanation: PictureExplanation, place: int) -> bytes:
    """Return a picture under one of its maps as a PNG file."""
    file = io.BytesIO()
    drawn = explanation.overlay(place, max_side=_OVERLAY_SIDE)
    drawn.save(file, "PNG", compress_level=1)
    return file.getvalue()


def open_model(
    name: str, path: str, options: ModelOptions, statistics: ModelStatistics
) -> ServedModel:
    """Open an artifact and run it once, so that its first request is as fast as the next.

    Raises:
        ArtifactError: if it cannot be used.
        BackendError: if no backend runs it.
        InputError: for options that the backend cannot honour.
    """
    explainer = load(path, backend=options.backend, options=options.backend_options)
    try:
        model = ServedModel(name, explainer, options, statistics)
        model.warm_up()
    except BaseException:
        explainer.close()
        raise
    return model
