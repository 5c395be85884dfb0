"""Who may call which method: decided from a call's head, before anything else of it is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from tame_deploy.serving.access import Tokens
from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.grpc.codec import small_message
from tame_deploy.serving.grpc.schema import SERVICE
from tame_deploy.serving.logs import access

__all__ = ["HEALTH_SERVICE", "GuardedHandlers"]

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
#: Methods of the inference service that are health's.
_HEALTH_METHODS = ("ServerLive", "ServerReady", "ModelReady")
#: Who may watch health at a time; each of them holds a request.
_WATCHERS = 64


class GuardedHandlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The handlers of all services, behind access control.

    A server asks it for the handler of every call. An interceptor could do the same, but each one
    costs a coroutine a call. Services are added as they would be to a server.
    """

    def __init__(self, tokens: Tokens, *, open_health: bool) -> None:
        self._tokens, self._open_health = tokens, open_health
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._watchers = 0

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Take handlers of a service, as a server does."""
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, Any]) -> None:
        """Take nothing: a server would call these past the guard."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return what answers a call: the method's own handler, or one that refuses."""
        service, _, method = details.method.lstrip("/").rpartition("/")
        is_health = service == HEALTH_SERVICE or (service == SERVICE and method in _HEALTH_METHODS)
        if not (is_health and self._open_health):
            try:
                self._tokens.check(dict(details.invocation_metadata or ()).get("authorization"))
            except RequestError as error:
                return _refusing(error)
        found = (handler.service(details) for handler in self._handlers)
        handler = next(filter(None, found), None)
        if handler is None:
            return _refusing(
                RequestError(f"{details.method:.80} is not implemented", Fault.UNIMPLEMENTED)
            )
        if service == HEALTH_SERVICE and method == "Watch":
            return self._watched(handler)
        return handler if service == SERVICE else _reading(handler)

    def _watched(self, handler: Any) -> Any:
        """Bound how many watch; otherwise a few clients could take every place there is."""

        async def watch(request: Any, context: Any) -> None:
            await _check(request, context)
            if self._watchers >= _WATCHERS:  # only here: many heads may come before one message
                words = f"{_WATCHERS} clients watch already; try again later"
                await _refuse(RequestError(words, Fault.UNAVAILABLE), context)
            self._watchers += 1
            try:
                await handler.unary_stream(request, context)
            finally:
                self._watchers -= 1

        return grpc.unary_stream_rpc_method_handler(
            watch, small_message(handler.request_deserializer), handler.response_serializer
        )


def _reading(handler: Any) -> Any:
    """Return a handler of services that are not ours, which would fail on a broken message."""
    how = small_message(handler.request_deserializer), handler.response_serializer

    async def answer(request: Any, context: Any) -> Any:
        await _check(request, context)
        return await handler.unary_unary(request, context)

    async def answer_each(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async def checked() -> AsyncIterator[Any]:
            async for request in requests:
                await _check(request, context)
                yield request

        async for one in handler.stream_stream(checked(), context):
            yield one

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(answer_each, *how)
    return grpc.unary_unary_rpc_method_handler(answer, *how)


async def _check(request: Any, context: Any) -> None:
    """End a call whose message could not be read."""
    if isinstance(request, RequestError):
        await context.abort(grpc.StatusCode[request.fault.code], str(request))


async def _refuse(error: RequestError, context: Any) -> None:
    access(transport="grpc", method="POST", path="-", status=error.fault.code, ms=0.0,
           client=context.peer())  # fmt: skip
    await context.abort(grpc.StatusCode[error.fault.code], str(error))


def _refusing(error: RequestError) -> Any:
    """Return a handler that refuses at once; one for streams, as that waits for no message."""

    async def refuse(_requests: Any, context: Any) -> None:
        await _refuse(error, context)

    return grpc.stream_stream_rpc_method_handler(refuse)
