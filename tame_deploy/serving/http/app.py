"""The routes of the protocol, and what surrounds each of them: access, errors, logs."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tame_deploy.errors import TameError
from tame_deploy.serving.access import Tokens
from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.http.handlers import Handlers
from tame_deploy.serving.http.page import page_routes
from tame_deploy.serving.logs import access, request_id
from tame_deploy.serving.options import ServeOptions
from tame_deploy.serving.repository import Repository
from tame_deploy.serving.traces import span

__all__ = ["make_app"]

Handler: TypeAlias = "Callable[[Request], Awaitable[Response]]"

_log = logging.getLogger("tame_deploy.serving")
#: Seconds after which whom the server was too busy for should come back.
_RETRY_AFTER = "1"
_LONGEST_ID = 128

_UNIMPLEMENTED = (
    "/v2/systemsharedmemory/{rest:path}",
    "/v2/cudasharedmemory/{rest:path}",
    "/v2/repository/models/{rest:path}",
    "/v2/trace/setting",
    "/v2/models/{model}/trace/setting",
    "/v2/models/{model}/generate",
    "/v2/models/{model}/generate_stream",
    "/v2/logging",
)


def make_app(repository: Repository, options: ServeOptions, tokens: Tokens) -> Starlette:
    """Return the ASGI application of a server."""
    do = Handlers(repository, options)

    def route(path: str, handler: Handler, *methods: str, health: bool = False) -> Route:
        is_open = health and options.open_health
        endpoint = _Endpoint(
            handler, repository, Tokens() if is_open else tokens, options.timeout_s
        )
        return Route(path, endpoint, methods=list(methods))

    routes = [
        route("/v2", do.server, "GET"),
        route("/v2/health/live", do.live, "GET", health=True),
        route("/v2/health/ready", do.ready, "GET", health=True),
        route("/v2/repository/index", do.index, "POST"),
        route("/v2/models/stats", do.statistics, "GET"),  # before a model could be called stats
        route("/metrics", do.metrics, "GET", health=True),
        route("/openapi.json", do.openapi, "GET"),
    ]
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            route(f"{path}/infer", do.infer, "POST"),
            route(f"{path}/explain", do.explain, "POST"),
            route(path, do.metadata, "GET"),
            route(f"{path}/config", do.config, "GET"),
            route(f"{path}/stats", do.statistics, "GET"),
            route(f"{path}/ready", do.model_ready, "GET", health=True),
        ]
    routes += [route(path, _unimplemented, "GET", "POST") for path in _UNIMPLEMENTED]
    if options.page:
        routes += page_routes()
    handlers: Any = {HTTPException: _http_exception}
    return Starlette(routes=routes, exception_handlers=handlers)


async def _unimplemented(request: Request) -> Response:
    raise RequestError(f"{request.url.path:.80} is not implemented", Fault.UNIMPLEMENTED)


class _Endpoint:
    """A handler behind access control, its errors as JSON, its end in the log."""

    def __init__(
        self, handler: Handler, repository: Repository, tokens: Tokens, timeout_s: float
    ) -> None:
        self._handler, self._repository, self._tokens = handler, repository, tokens
        self._timeout_s = timeout_s

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive, send)
        started = time.perf_counter()
        told = request.headers.get("x-request-id", "")
        if not (told.isascii() and told.isprintable() and 0 < len(told) <= _LONGEST_ID):
            told = uuid.uuid4().hex
        token = request_id.set(told)
        try:
            with span(f"{request.method} {scope['path']}", request.headers):
                response = await self._answer(request)
            response.headers["x-request-id"] = told
            if self._repository.draining:
                response.headers["connection"] = "close"
            await self._send(response(scope, receive, send))
            self._repository.metrics.responses.labels("http", str(response.status_code)).inc()
            access(
                transport="http", method=request.method, path=scope["path"],
                status=response.status_code, ms=(time.perf_counter() - started) * 1e3,
                client=request.client.host if request.client else "",
                size=int(response.headers.get("content-length", 0)),
            )  # fmt: skip
        finally:
            request_id.reset(token)

    async def _send(self, sending: Awaitable[None]) -> None:
        """Send an answer to a client that may not read it; it is given as long as a request."""
        try:
            await asyncio.wait_for(sending, self._timeout_s)
        except (asyncio.TimeoutError, TimeoutError):
            # Raised on, it makes uvicorn close the connection.
            raise ConnectionError("a client did not read its answer in time") from None

    async def _answer(self, request: Request) -> Response:
        try:
            self._tokens.check(request.headers.get("authorization"))
            return await self._handler(request)
        except RequestError as error:
            return _refusal(error)
        except TameError as error:
            _log.warning("refused: %s", error)
            return _refusal(RequestError("the request cannot be answered"))
        except Exception:
            _log.exception("a request failed")
            words = "the server failed; its log says why"
            return _refusal(RequestError(words, Fault.INTERNAL))


def _refusal(error: RequestError) -> Response:
    headers = {}
    if error.fault is Fault.UNAVAILABLE:
        headers["retry-after"] = _RETRY_AFTER
    if error.fault is Fault.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    if error.fault in (Fault.SLOW, Fault.TOO_LARGE):
        headers["connection"] = "close"  # the rest of the body is on its way
    words = str(error).encode(errors="backslashreplace").decode()  # JSON may hold half a character
    return JSONResponse({"error": words}, error.fault.status, headers)


def _http_exception(_request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail.lower()}, error.status_code, error.headers)
