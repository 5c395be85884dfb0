"""One artifact on a backend, asked over the network."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.errors import BackendError, InputError
from tame_deploy.picture.lazy import LazyPicture
from tame_deploy.picture.preprocess import (
    Levels,
    as_input,
    load_picture,
    prepared_levels,
    shown,
    size_of,
)
from tame_deploy.runtime.backends.cores import usable_processors
from tame_deploy.runtime.explain.explainer import Explainer
from tame_deploy.runtime.explain.explanation import Explanation, PictureExplanation
from tame_deploy.runtime.explain.load import load
from tame_deploy.runtime.predict.predictor import Predictions
from tame_deploy.serving.contract import OVERLAY, VERSION, CheckedRequest, Contract
from tame_deploy.serving.deadlines import within
from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.messages import (
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    RequestedOutput,
)
from tame_deploy.serving.options import ModelOptions
from tame_deploy.serving.scheduler import RequestResult, Scheduler, Tensors
from tame_deploy.serving.statistics import ModelStatistics

__all__ = ["ExplainedPicture", "ServedModel", "open_model", "small"]

_T = TypeVar("_T")

_log = logging.getLogger("tame_deploy.serving")

_MOST_DECODERS = 4
#: Overlays are for looking at.
_OVERLAY_SIDE = 1600


@dataclass(frozen=True, kw_only=True)
class ExplainedPicture:
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
class _DecodedPictures:
    """Encoded pictures as the graph's input; for drawing also as they are, but small."""

    images: NDArray[Any]
    pictures: tuple[Image.Image | LazyPicture, ...]
    sizes: tuple[tuple[int, int], ...]


class ServedModel:
    """Answers requests for one artifact; it lives on one event loop, after `start`."""

    def __init__(
        self, explainer: Explainer, options: ModelOptions, statistics: ModelStatistics
    ) -> None:
        self.explainer, self.options, self.statistics = explainer, options, statistics
        self.name = name = statistics.name
        self.max_batch = min(options.max_batch, explainer.backend.max_batch or options.max_batch)
        self.contract = Contract(name, explainer, self.max_batch)
        threads = options.decoders or min(_MOST_DECODERS, usable_processors())
        self._pool = ThreadPoolExecutor(threads, "tame-deploy decode")
        self._accepted = 0
        self._idle: asyncio.Event | None = None

    def warm_up(self) -> None:
        """Run the smallest and the largest batch once.

        Raises:
            BackendError: if the backend cannot run them.
        """
        for batch in sorted({1, self.max_batch}):
            self.explainer.predictor.warm_up(batch)

    def start(self) -> None:
        """Take requests from now on, on the running event loop."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._scheduler = Scheduler(
            self._predict,
            max_batch=self.max_batch,
            instances=self.options.instances,
            max_queue_delay_s=self.options.max_queue_delay_ms / 1e3,
            observe=self.statistics.ran,
        )
        self.statistics.started(
            self.explainer.backend.name,
            self.explainer.artifact,
            accepted=lambda: self._accepted,
            waiting=lambda: self._scheduler.waiting,
        )

    def config(self) -> dict[str, Any]:
        """Return the model's configuration as Triton shows it."""
        return self.contract.config(
            self.options.instances, int(self.options.max_queue_delay_ms * 1e3)
        )

    async def infer(
        self, request: InferRequest, transport: str, timeout_s: float | None
    ) -> InferResponse:
        """Answer a request of the protocol, in the time it allows and at most in `timeout_s`.

        Raises:
            RequestError: if it cannot be answered; the message is for the client.
        """

        async def respond() -> tuple[RequestResult, InferResponse]:
            checked = self.contract.check(request)
            result, decoded, timing = await self._run(checked)
            overlays = None
            if checked.draws:
                explanation = self._explanation(result, checked, decoded)
                overlays = await self._draw(explanation, timing)
            tensors = tuple(self._output(one, result, overlays) for one in checked.outputs)
            return result, InferResponse(
                model=self.name, version=VERSION, id=request.id, outputs=tensors
            )

        limits = [limit for limit in (request.timeout_s, timeout_s) if limit is not None]
        return await self._count(respond(), min(limits, default=None), transport)

    async def explain(
        self, file: bytes, class_ids: Sequence[int], timeout_s: float | None, *, draws: bool
    ) -> ExplainedPicture:
        """Explain one encoded picture, and draw it if asked to; no classes means the likeliest.

        Raises:
            RequestError: if it cannot be explained; the message is for the client.
        """

        async def respond() -> tuple[RequestResult, ExplainedPicture]:
            ids = np.asarray([class_ids], np.int64)
            chosen = InputTensor("class_ids", "INT64", ids) if class_ids else None
            request = CheckedRequest(
                rows=1,
                images=None,
                files=(file,),
                class_ids=self.contract.class_ids(chosen, 1),
                outputs=(RequestedOutput(OVERLAY),) if draws else (),
            )
            self.contract.check_overlays(request)
            result, decoded, timing = await self._run(request)
            assert decoded is not None
            explanation = self._explanation(result, request, decoded)
            overlays = (await self._draw(explanation, timing))[0] if draws else ()
            return result, ExplainedPicture(
                explanation=explanation[0],
                size=decoded.sizes[0],
                overlays=tuple(overlays),
                timing_ms=timing,
            )

        return await self._count(respond(), timeout_s, "http")

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

    async def _count(
        self,
        responding: Coroutine[Any, Any, tuple[RequestResult, _T]],
        timeout_s: float | None,
        transport: str,
    ) -> _T:
        """Await a response within its time, and note in the statistics how that went."""
        started = time.monotonic_ns()
        try:
            result, response = await self._admit(responding, timeout_s)
        except RequestError as error:
            self.statistics.failed(time.monotonic_ns() - started, transport, error.fault.code)
            raise
        except asyncio.CancelledError:
            self.statistics.failed(time.monotonic_ns() - started, transport, Fault.CANCELLED.code)
            raise
        except Exception:
            self.statistics.failed(time.monotonic_ns() - started, transport, Fault.INTERNAL.code)
            raise
        self.statistics.succeeded(result, time.monotonic_ns() - started, transport)
        return response

    async def _admit(self, responding: Coroutine[Any, Any, _T], timeout_s: float | None) -> _T:
        """Await a response if there is room for it; whatever goes wrong is a RequestError."""
        if self._accepted >= self.options.max_queue_size:
            responding.close()
            raise RequestError(
                f"{self._accepted} requests wait for model {self.name!r}; try again later",
                Fault.UNAVAILABLE,
            )
        assert self._idle is not None
        self._accepted += 1
        self._idle.clear()
        try:
            return await within(responding, timeout_s)
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

    async def _run(
        self, request: CheckedRequest
    ) -> tuple[RequestResult, _DecodedPictures | None, dict[str, float]]:
        """Decode the pictures of a request that has files, and run it in its turn."""
        timing: dict[str, float] = {}
        images, decoded = request.images, None
        if images is None:
            decoded = await self._decode(request, timing)
            images = decoded.images
        feeds = self.explainer.predictor.feeds(images, request.class_ids)
        result = await self._scheduler.submit(feeds)
        timing["queue"] = result.queue_ns / 1e6
        timing["infer"] = result.times.infer_ns / 1e6
        return result, decoded, timing

    def _predict(self, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
        """Return the graph's outputs by name, all of them finite; called in threads."""
        found = self.explainer.predictor.predict(feeds["images"], feeds.get("class_ids"))
        return {"logits": found.logits, "explained": found.class_ids, "maps": found.maps}

    async def _decode(self, request: CheckedRequest, timing: dict[str, float]) -> _DecodedPictures:
        """Decode a request's files; what is not needed for overlays is dropped at once."""
        spec, files = self.explainer.artifact.manifest.image, request.files

        def read(
            index: int,
        ) -> tuple[Levels, Image.Image | LazyPicture, tuple[int, int]]:
            most = self.options.max_pixels
            try:
                picture = load_picture(files[index], spec, max_pixels=most)
                pixels, size = prepared_levels(picture, spec), size_of(picture)
                if not request.draws:
                    return pixels, LazyPicture(files[index], spec, most), size
                return pixels, small(shown(picture)), size
            except InputError as error:
                which = f"picture {index}: " if len(files) > 1 else ""
                raise RequestError(f"{which}{error}") from None

        found = await asyncio.gather(
            *(self._in_thread("decode", partial(read, i), timing) for i in range(len(files)))
        )
        pixels, pictures, sizes = zip(*found, strict=True)
        return _DecodedPictures(as_input(np.stack(pixels), spec), pictures, sizes)

    async def _draw(
        self, explanation: Explanation, timing: dict[str, float]
    ) -> NDArray[np.object_]:
        """Return overlays, PNG files (B, K), drawn one by one: nobody waits behind all of them."""
        found = np.empty(explanation.class_ids.shape, object)

        async def draw(row: int, place: int) -> None:
            work = partial(_overlay, explanation[row], place)
            found[row, place] = await self._in_thread("draw", work, timing)

        await asyncio.gather(*(draw(row, place) for row, place in np.ndindex(*found.shape)))
        return found

    async def _in_thread(self, stage: str, work: Callable[[], _T], timing: dict[str, float]) -> _T:
        """Work in a thread; what is cancelled before it begins is not begun."""

        def timed() -> tuple[_T, int]:
            started = time.monotonic_ns()
            return work(), time.monotonic_ns() - started

        found, ns = await asyncio.get_running_loop().run_in_executor(self._pool, timed)
        self.statistics.spent(stage, ns)
        timing[stage] = timing.get(stage, 0.0) + ns / 1e6
        return found

    def _explanation(
        self, result: RequestResult, request: CheckedRequest, decoded: _DecodedPictures | None
    ) -> Explanation:
        """Return the answer for looking at: over the pictures, or what the network saw of them."""
        manifest = self.explainer.artifact.manifest
        image, outputs = manifest.image, result.outputs
        if decoded is not None:
            pictures: tuple[Image.Image | LazyPicture, ...] = decoded.pictures
        else:
            assert request.images is not None
            pictures = tuple(shown(pixels) for pixels in request.images)
            image = replace(image, crop="none")
        found = Predictions(outputs["logits"], outputs["explained"], outputs["maps"])
        return Explanation.of(found, manifest, self.explainer.labels, pictures, image)

    def _output(
        self, requested: RequestedOutput, result: RequestResult, overlays: NDArray[Any] | None
    ) -> OutputTensor:
        if overlays is not None and requested.name == OVERLAY:
            return OutputTensor(requested.name, overlays)
        array = result.outputs[requested.name]
        if requested.classes:
            array = _classification(array, requested.classes, self.explainer.labels)
        return OutputTensor(requested.name, array)


def _classification(
    logits: NDArray[np.float32], count: int, labels: Sequence[str]
) -> NDArray[np.object_]:
    """Return "logit:class:label" of the likeliest classes, bytes (B, count), as Triton has it."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    found = np.empty(best.shape, object)
    for (row, place), class_id in np.ndenumerate(best):
        found[row, place] = f"{logits[row, class_id]:f}:{class_id}:{labels[class_id]}".encode()
    return found


def small(picture: Image.Image) -> Image.Image:
    """Shrink a picture to what overlays are drawn over, and return it."""
    picture.thumbnail((_OVERLAY_SIDE, _OVERLAY_SIDE), Image.Resampling.LANCZOS)
    return picture


def _overlay(explanation: PictureExplanation, place: int) -> bytes:
    """Return a picture under one of its maps as a PNG file."""
    file = io.BytesIO()
    drawn = explanation.overlay(place, max_side=_OVERLAY_SIDE)
    drawn.save(file, "PNG", compress_level=1)
    return file.getvalue()


def open_model(path: str, options: ModelOptions, statistics: ModelStatistics) -> ServedModel:
    """Open an artifact and run it once, so that its first request is as fast as the next.

    Args:
        path: the artifact.
        options: how it is run.
        statistics: of the model, with its name.

    Raises:
        ArtifactError: if it cannot be used.
        BackendError: if no backend runs it.
        InputError: for options that the backend cannot honour.
    """
    explainer = load(path, backend=options.backend, options=options.backend_options)
    try:
        model = ServedModel(explainer, options, statistics)
        model.warm_up()
    except BaseException:
        explainer.close()
        raise
    return model
