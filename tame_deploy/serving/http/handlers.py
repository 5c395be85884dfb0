"""What each route does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tame_deploy import __version__
from tame_deploy.serving.contract import OVERLAY
from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.http.bodies import best_encoding, pack, read_body
from tame_deploy.serving.http.codec import (
    HEADER_LENGTH,
    HttpRequest,
    decode_request,
    encode_response,
    json_size,
)
from tame_deploy.serving.http.explain import explain_picture
from tame_deploy.serving.http.openapi import openapi_document
from tame_deploy.serving.messages import InferResponse
from tame_deploy.serving.model import ServedModel
from tame_deploy.serving.options import ServeOptions
from tame_deploy.serving.repository import EXTENSIONS, SERVER_NAME, Repository
from tame_deploy.serving.statistics import METRICS_TYPE
from tame_deploy.serving.strict_json import parse_json

__all__ = ["Handlers"]

_T = TypeVar("_T")

#: Below this, coding in the loop takes less time than handing it to a thread.
_SMALL = 64 * 1024
#: Bodies of the largest size that may be held at a time.
_BODIES = 16
#: More bytes than any body has; a power of two, where all that is aligned begins.
_ANY = 2**62
#: What is not worth packing.
_TINY = 1024


class Handlers:
    """Answers requests with the models of a repository."""

    def __init__(self, repository: Repository, options: ServeOptions) -> None:
        self._repository, self._options = repository, options
        self._held = 0  # bytes of bodies

    async def infer(self, request: Request) -> Response:
        """Answer a request of the protocol."""
        model = self._model(request)  # whoever names none need not send a body
        path = request.path_params
        length = request.headers.get(HEADER_LENGTH)
        async with self._body(request, aligned=json_size(length, _ANY)) as body:
            decode = partial(
                decode_request,
                body,
                length,
                model=path["model"],
                bounds=model.contract.json_bounds,
                version=path.get("version", ""),
            )
            is_long = json_size(length, len(body)) > _SMALL
            decoded = await asyncio.to_thread(decode) if is_long else decode()
            # Taken only now: while the body came, an artifact may have been replaced.
            work = self._model(request).infer(decoded.request, "http", self._options.timeout_s)
            response = await _unless_gone(request, work)
        if _is_long_as_json(response, decoded):
            encoded, headers = await asyncio.to_thread(encode_response, response, decoded)
        else:
            encoded, headers = encode_response(response, decoded)
        return await _packed(request, encoded, headers)

    async def explain(self, request: Request) -> Response:
        """Explain a picture that came as a file."""
        self._model(request)
        async with self._body(request) as body:
            work = explain_picture(
                request, self._model(request), bytes(body), timeout_s=self._options.timeout_s
            )
            found = await _unless_gone(request, work)
        if found.media_type != "application/json":
            return found
        kind = {"content-type": found.headers["content-type"]}
        return await _packed(request, bytes(found.body), kind)

    async def metadata(self, request: Request) -> Response:
        """Tell what a model takes and gives."""
        return JSONResponse(self._model(request).contract.metadata())

    async def config(self, request: Request) -> Response:
        """Tell how a model is run."""
        return JSONResponse(self._model(request).config())

    async def statistics(self, request: Request) -> Response:
        """Tell what a model, or every model, did so far."""
        path = request.path_params
        found = self._repository.statistics(path.get("model", ""), path.get("version", ""))
        return JSONResponse({"model_stats": found})

    async def model_ready(self, request: Request) -> Response:
        """Tell whether a model answers."""
        path = request.path_params
        ready = self._repository.is_ready(path["model"], path.get("version", ""))
        return _health({"name": path["model"], "ready": ready}, ready)

    async def server(self, _request: Request) -> Response:
        """Tell what this server is."""
        told = {"name": SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS)}
        return JSONResponse(told)

    async def live(self, _request: Request) -> Response:
        """Tell that the server runs."""
        return _health({"live": True}, True)

    async def ready(self, _request: Request) -> Response:
        """Tell whether every model answers."""
        ready = self._repository.ready
        return _health({"ready": ready}, ready)

    async def index(self, request: Request) -> Response:
        """Tell the models and their states."""
        async with self._body(request, most=_SMALL) as body:
            filters = parse_json(body) if body else {}
        only_ready = filters.get("ready", False) if isinstance(filters, dict) else None
        if not isinstance(only_ready, bool):
            raise RequestError('expected nothing, or an object such as {"ready": true}')
        return JSONResponse(self._repository.index(only_ready=only_ready))

    async def metrics(self, _request: Request) -> Response:
        """Give Prometheus what it scrapes."""
        return Response(self._repository.metrics.text(), media_type=METRICS_TYPE)

    async def openapi(self, _request: Request) -> Response:
        """Describe all this."""
        return JSONResponse(openapi_document(self._repository.names))

    def _model(self, request: Request) -> ServedModel:
        path = request.path_params
        return self._repository.get(path["model"], path.get("version", ""))

    @asynccontextmanager
    async def _body(
        self, request: Request, *, most: int | None = None, aligned: int = 0
    ) -> AsyncIterator[bytes | memoryview]:
        """Yield a request's body; all that are held at a time have a bound together."""
        limit, held = self._options.max_body_mb * 2**20, 0

        def hold(size: int) -> None:
            nonlocal held
            if self._held + size > _BODIES * limit:
                words = "too many large requests at a time; try again later"
                raise RequestError(words, Fault.UNAVAILABLE)
            held += size
            self._held += size

        try:
            yield await read_body(
                request, limit=most or limit, timeout_s=self._options.body_timeout_s, hold=hold,
                aligned=aligned,
            )  # fmt: skip
        finally:
            self._held -= held


def _health(told: dict[str, Any], good: bool) -> Response:
    """Return an answer for balancers, who read the status, and for KServe's clients."""
    return JSONResponse(told, 200 if good else Fault.UNAVAILABLE.status)


async def _unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """Await work, and drop it when the client goes away."""
    waiting, answered = asyncio.current_task(), False
    gone = asyncio.ensure_future(_gone(request))

    def drop(_: asyncio.Future[None]) -> None:
        if waiting is not None and not answered:
            waiting.cancel()

    gone.add_done_callback(drop)
    try:
        return await work
    except asyncio.CancelledError:
        if not gone.done():
            raise
        raise RequestError("the client went away", Fault.CANCELLED) from None
    finally:
        answered = True
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _is_long_as_json(response: InferResponse, request: HttpRequest) -> bool:
    """Whether many numbers, or pictures, are to be written as JSON."""
    return any(
        (tensor.array.size > _SMALL // 8 or tensor.name == OVERLAY)
        and not request.wants_raw(tensor.name)
        for tensor in response.outputs
    )


async def _packed(request: Request, body: bytes, headers: dict[str, str]) -> Response:
    encoding = best_encoding(request.headers.get("accept-encoding", ""))
    if encoding is not None and len(body) > _TINY:
        body = await asyncio.to_thread(pack, body, encoding)
        headers = {**headers, "content-encoding": encoding}
    return Response(body, headers=headers)
