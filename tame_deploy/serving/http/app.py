"""The routes of the protocol, and what surrounds each of them: access, errors, logs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tame_deploy.errors import TameError
from tame_deploy.serving.access import Tokens, host_check
from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.http.bodies import discard_rest, is_unread
from tame_deploy.serving.http.handlers import Handlers
from tame_deploy.serving.http.page import page_routes
from tame_deploy.serving.http.protocol import CONNECTION
from tame_deploy.serving.logs import access, request_id, usable_id
from tame_deploy.serving.options import ServeOptions
from tame_deploy.serving.repository import Repository
from tame_deploy.serving.traces import note_status, span

__all__ = ["make_app"]

Handler: TypeAlias = "Callable[[Request], Awaitable[Response]]"

_log = logging.getLogger("tame_deploy.serving")
#: Seconds after which whom the server was too busy for should come back.
_RETRY_AFTER = "1"

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


def make_app(repository: Repository, options: ServeOptions, tokens: Tokens) -> ASGIApp:
    """Return the ASGI application of a server."""
    do = Handlers(repository, options)

    def route(path: str, handler: Handler, *methods: str, health: bool = False) -> Route:
        is_open = health and options.open_health
        endpoint = _Endpoint(handler, Tokens() if is_open else tokens)
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
    handlers: Any = {HTTPException: partial(_no_such_route, tokens)}
    starlette = Starlette(routes=routes, exception_handlers=handlers)
    starlette.router.redirect_slashes = False
    is_answered = host_check(options.host, options.allowed_hosts)
    return _Outermost(starlette, repository, is_answered)


async def _misdirected(scope: Scope, receive: Receive, send: Send) -> None:
    told = Headers(scope=scope).get("host", "")
    words = f"this server does not answer to {told!r:.80}; --allowed-hosts adds a name to its own"
    await _refusal(RequestError(words, Fault.MISDIRECTED))(scope, receive, send)


async def _unimplemented(request: Request) -> Response:
    raise RequestError(f"{request.url.path:.80} is not implemented", Fault.UNIMPLEMENTED)


class _Outermost:
    """Gives every answer its request's id, counts and logs it, whatever made it.

    An answer that comes before its request's body was read ends the connection.
    """

    def __init__(
        self, app: ASGIApp, repository: Repository, is_answered: Callable[[str | None], bool]
    ) -> None:
        self._app, self._repository, self._is_answered = app, repository, is_answered

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers, connection = Headers(scope=scope), scope[CONNECTION]
        app = self._app if self._is_answered(headers.get("host")) else _misdirected
        token = request_id.set(usable_id(headers.get("x-request-id", "")))
        started, status, size, is_early = time.perf_counter(), 499, 0, False
        ended: float | None = None  # before what comes after an early answer is discarded

        async def send_with_id(event: Any) -> None:
            nonlocal status, size, is_early, ended
            if event["type"] == "http.response.start":
                status = event["status"]
                answered = MutableHeaders(scope=event)
                answered["x-request-id"] = request_id.get()
                is_early = is_unread(scope, headers)
                if is_early or (self._repository.draining and connection.is_last):
                    answered["connection"] = "close"
                size = int(answered.get("content-length", 0))
            elif is_early and not event.get("more_body"):
                await send({**event, "more_body": True})
                ended = time.perf_counter()
                await discard_rest(receive)
                event = {"type": "http.response.body"}
            await send(event)

        try:
            with span(f"{scope['method']} {scope['path']}", headers) as traced:
                await app(scope, receive, send_with_id)
                if connection.is_lost:
                    status = Fault.CANCELLED.status
                note_status(traced, status, failed=status >= Fault.INTERNAL.status)
        except asyncio.CancelledError:  # the server ends, and its time is over
            connection.give_up()
            status = Fault.UNAVAILABLE.status
        finally:
            self._repository.metrics.responses.labels("http", str(status)).inc()
            client = scope.get("client")
            access(
                transport="http", method=scope["method"], path=scope["path"], status=status,
                ms=((ended or time.perf_counter()) - started) * 1e3,
                client=client[0] if client else "", size=size,
            )  # fmt: skip
            request_id.reset(token)


class _Endpoint:
    """A handler behind access control, its errors as JSON."""

    def __init__(self, handler: Handler, tokens: Tokens) -> None:
        self._handler, self._tokens = handler, tokens

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        response = await self._answer(Request(scope, receive, send))
        await response(scope, receive, send)

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
    words = str(error).encode(errors="backslashreplace").decode()  # JSON may hold half a character
    return JSONResponse({"error": words}, error.fault.status, headers)


def _no_such_route(tokens: Tokens, request: Request, error: HTTPException) -> Response:
    """Say what is wrong with a path or its method, but to nobody who may not know what there is."""
    try:
        tokens.check(request.headers.get("authorization"))
    except RequestError as refused:
        return _refusal(refused)
    return JSONResponse({"error": error.detail.lower()}, error.status_code, error.headers)
