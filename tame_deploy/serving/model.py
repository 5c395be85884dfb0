"""One artifact on a backend, asked over the network."""

from __future__ import annotations

import asyncio
import io
import logging
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
from tame_deploy.preprocess import MAX_PIXELS, as_input, load_image, prepare
from tame_deploy.runtime.backend import BackendOptions
from tame_deploy.runtime.explainer import Explainer, load
from tame_deploy.runtime.explanation import Explanation
from tame_deploy.runtime.tensorrt.backend import TensorRTBackend
from tame_deploy.serving.contract import VERSION, Contract, Question
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
        decoders: threads that decode pictures and draw overlays.
    """

    backend: str = "auto"
    backend_options: BackendOptions = field(default_factory=BackendOptions)
    max_batch: int = 8
    instances: int = 1
    window_ms: float = 0.0
    max_waiting: int = 256
    max_pixels: int = MAX_PIXELS
    decoders: int = 2


@dataclass(frozen=True)
class Explained:
    """The explanation of one encoded picture, and milliseconds by stage."""

    explanation: Explanation
    timing_ms: dict[str, float]


class ServedModel:
    """Answers requests for one artifact; it lives on one event loop, after `start`."""

    def __init__(
        self, name: str, explainer: Explainer, options: ModelOptions, statistics: ModelStatistics
    ) -> None:
        self.name, self.explainer, self.options = name, explainer, options
        self.statistics = statistics
        self.max_batch = min(options.max_batch, _most_rows(explainer))
        self.contract = Contract(name, explainer.artifact, self.max_batch, explainer.backend.name)
        self._pool = ThreadPoolExecutor(options.decoders, "tame-deploy decode")
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
        self.statistics.show_waiting(lambda: self._scheduler.waiting)

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
            outcome, pictures, timing = await self._outcome(question)
            drawn = None
            if question.draws:
                explanation = self._explanation(outcome, pictures, question.images)
                drawn = await self._aside("draw", lambda: _overlays(explanation), timing)
            tensors = tuple(self._output(w, outcome, drawn) for w in question.outputs)
            return outcome, InferAnswer(self.name, VERSION, request.id, tensors, timing)

        limits = [limit for limit in (request.timeout_s, timeout_s) if limit is not None]
        return await self._counted(answer(), min(limits, default=None), transport)

    async def explain(
        self, file: bytes, class_ids: Sequence[int], timeout_s: float | None
    ) -> Explained:
        """Explain one encoded picture; no classes means the likeliest.

        Raises:
            RequestError: if it cannot be explained; the message is for the client.
        """

        async def answer() -> tuple[Outcome, Explained]:
            ids = np.asarray([class_ids], np.int64)
            chosen = InputTensor("class_ids", "INT64", ids) if class_ids else None
            question = Question(1, None, (file,), self.contract.class_ids(chosen, 1), ())
            outcome, pictures, timing = await self._outcome(question)
            return outcome, Explained(self._explanation(outcome, pictures, None), timing)

        return await self._counted(answer(), timeout_s, "http")

    async def draw(self, explained: Explained) -> list[bytes]:
        """Return the PNG overlays of an explained picture, one for each of its classes."""
        drawn = await self._aside("draw", lambda: _overlays(explained.explanation),
                                  explained.timing_ms)  # fmt: skip
        return list(drawn[0])

    async def close(self, timeout_s: float) -> None:
        """Wait for the requests that were accepted, and free the backend."""
        assert self._idle is not None
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            _log.warning("%s: %d requests were not answered in time", self.name, self._accepted)
        self._scheduler.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.explainer.close()

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
            return await asyncio.wait_for(answer, timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
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
    ) -> tuple[Outcome, tuple[Image.Image, ...], dict[str, float]]:
        """Decode what must be, wait for the turn, and check what came out."""
        timing: dict[str, float] = {}
        images, pictures = question.images, tuple[Image.Image, ...]()
        if images is None:
            images, pictures = await self._decoded(question.files, timing)
        outcome = await self._scheduler.submit(self._feeds(images, question.class_ids))
        if not np.isfinite(outcome.outputs["logits"]).all():
            raise BackendError("the network gave NaN or infinite logits; its weights are no good")
        timing["queue"] = outcome.queue_ns / 1e6
        timing["infer"] = outcome.times.infer_ns / 1e6
        return outcome, pictures, timing

    async def _decoded(
        self, files: Sequence[bytes], timing: dict[str, float]
    ) -> tuple[NDArray[Any], tuple[Image.Image, ...]]:
        """Return encoded pictures as the graph's input, and as they are."""
        spec = self.explainer.artifact.manifest.image

        def read(index: int) -> tuple[Image.Image, NDArray[np.uint8]]:
            try:
                picture = load_image(files[index], max_pixels=self.options.max_pixels)
                return picture, np.asarray(prepare(picture, spec))
            except InputError as error:
                which = f"picture {index}: " if len(files) > 1 else ""
                raise RequestError(f"{which}{error}") from None

        found = await asyncio.gather(
            *(self._aside("decode", partial(read, i), timing) for i in range(len(files)))
        )
        pixels = as_input(np.stack([pixels for _, pixels in found]), spec)
        return pixels, tuple(picture for picture, _ in found)

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
        self, outcome: Outcome, pictures: Sequence[Image.Image], images: NDArray[Any] | None
    ) -> Explanation:
        """Return the answer for looking at: over the pictures, or what the network saw of them."""
        manifest = self.explainer.artifact.manifest
        image, outputs = manifest.image, outcome.outputs
        if images is not None:
            pictures = [Image.fromarray(pixels) for pixels in images]
            image = replace(image, crop="none")
        return Explanation(
            outputs["logits"], outputs["explained"], outputs["maps"], self.explainer.labels,
            tuple(pictures), image, manifest.graph.maps, manifest.speed_only,
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


def _overlays(explanation: Explanation) -> NDArray[np.object_]:
    """Return PNG files (B, K), one for each map."""
    found = np.empty(explanation.class_ids.shape, object)
    for row, place in np.ndindex(*found.shape):
        file = io.BytesIO()
        drawn = explanation.overlay(row, place, max_side=_OVERLAY_SIDE)
        drawn.save(file, "PNG", compress_level=1)
        found[row, place] = file.getvalue()
    return found


def _most_rows(explainer: Explainer) -> int:
    """Return how many pictures the backend takes at once, where that is fixed."""
    backend = explainer.backend
    if isinstance(backend, TensorRTBackend):
        return max(profile.batch[-1] for profile in backend.stored.sidecar.options.profiles)
    return 2**31


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
