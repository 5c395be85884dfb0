"""The methods of the protocol, on grpc.aio."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.json_format import ParseDict

from tame_deploy import __version__
from tame_deploy.errors import TameError
from tame_deploy.serving.contract import VERSION
from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.grpc.codec import (
    Received,
    decode_request,
    encode_response,
    encode_streamed,
    receive,
    small_message,
)
from tame_deploy.serving.grpc.schema import METHODS, SERVICE, message
from tame_deploy.serving.logs import access, request_id, usable_id
from tame_deploy.serving.options import ServeOptions
from tame_deploy.serving.repository import EXTENSIONS, SERVER_NAME, Repository
from tame_deploy.serving.traces import span

__all__ = ["InferenceService"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_T = TypeVar("_T")

_log = logging.getLogger("tame_deploy.serving")
#: Below this, reading numbers in the loop takes less time than handing them to a thread.
_SMALL = 64 * 1024
#: Messages of the largest size that may be held at a time, as bodies over HTTP.
_MESSAGES = 16
#: Requests of one stream that are answered at a time.
_SIDE_BY_SIDE = 16
_Streamed = message("ModelStreamInferResponse")


class InferenceService:
    """Answers each method with the models of a repository."""

    def __init__(self, repository: Repository, options: ServeOptions) -> None:
        self._repository, self._options = repository, options
        self._held, self._most_held = 0, _MESSAGES * options.max_body_mb * 2**20  # bytes
        self._holding = threading.RLock()  # a message may be let go in any thread

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what a server is given."""
        found = {}
        for name, (request, streams) in METHODS.items():
            if streams:
                found[name] = grpc.stream_stream_rpc_method_handler(self._stream, self._receive)
                continue
            method = self._guarded(name, getattr(self, f"_{_snake(name)}"))
            if name == "ModelInfer":
                found[name] = grpc.unary_unary_rpc_method_handler(method, self._receive)
            else:
                found[name] = grpc.unary_unary_rpc_method_handler(
                    method,
                    small_message(request.FromString),
                    lambda answer: answer.SerializeToString(),
                )
        return grpc.method_handlers_generic_handler(SERVICE, found)

    def _receive(self, data: bytes) -> Received | RequestError:
        """Read a message; all large ones that are held at a time have a bound together."""
        size = len(data) if len(data) > _SMALL else 0
        if self._held + size > self._most_held:
            words = "too many large requests at a time; try again later"
            return RequestError(words, Fault.UNAVAILABLE)
        received = receive(data, self._repository.most_values)
        if size and isinstance(received, Received):
            self._hold(size)
            received.freed = weakref.finalize(received, self._hold, -size)
        return received

    def _hold(self, size: int) -> None:
        with self._holding:
            self._held += size

    def _guarded(
        self, name: str, method: Callable[[Any], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """Give a method its request's id and its place in the log; its errors become codes."""

        async def answer(request: Any, context: Context) -> Any:
            metadata = _metadata(context)
            started, code = time.perf_counter(), "CANCELLED"
            head = request.message if isinstance(request, Received) else request
            told = getattr(head, "id", "") or metadata.get("x-request-id", "")
            token = request_id.set(usable_id(told))
            try:
                with span(f"{SERVICE}/{name}", metadata):
                    if isinstance(request, RequestError):
                        raise request
                    found = await method(request)
                code = "OK"
                return found
            except RequestError as error:
                code = error.fault.code
                await context.abort(grpc.StatusCode[code], str(error))
            except TameError as error:
                code = "INVALID_ARGUMENT"
                _log.warning("refused: %s", error)
                await context.abort(grpc.StatusCode[code], "the request cannot be answered")
            except Exception as error:
                if isinstance(error, grpc.aio.AbortError):
                    raise
                code = "INTERNAL"
                _log.exception("a request failed")
                words = "the server failed; its log says why"
                await context.abort(grpc.StatusCode.INTERNAL, words)
            finally:
                self._note_end("POST", name, code, started=started, client=context.peer())
                request_id.reset(token)
                if isinstance(request, Received):
                    request.let_go()

        return answer

    async def _server_live(self, _request: Any) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _server_ready(self, _request: Any) -> Any:
        return message("ServerReadyResponse")(ready=self._repository.ready)

    async def _model_ready(self, request: Any) -> Any:
        try:
            ready = self._repository.is_ready(request.name, request.version)
        except RequestError:
            ready = False  # as Triton: what is not there is not ready
        return message("ModelReadyResponse")(ready=ready)

    async def _server_metadata(self, _request: Any) -> Any:
        found = message("ServerMetadataResponse")
        return found(name=SERVER_NAME, version=__version__, extensions=EXTENSIONS)

    async def _model_metadata(self, request: Any) -> Any:
        model = self._repository.get(request.name, request.version)
        return ParseDict(model.contract.metadata(), message("ModelMetadataResponse")())

    async def _model_config(self, request: Any) -> Any:
        model = self._repository.get(request.name, request.version)
        return ParseDict({"config": model.config()}, message("ModelConfigResponse")())

    async def _model_statistics(self, request: Any) -> Any:
        found = {"model_stats": self._repository.statistics(request.name, request.version)}
        return ParseDict(found, message("ModelStatisticsResponse")())

    async def _repository_index(self, request: Any) -> Any:
        found = {"models": self._repository.index(only_ready=request.ready)}
        return ParseDict(found, message("RepositoryIndexResponse")())

    async def _model_infer(self, request: Received) -> bytes:
        name, version = request.message.model_name, request.message.model_version
        self._repository.get(name, version)
        if request.raw or request.message.ByteSize() <= _SMALL:
            decoded = decode_request(request)
        else:
            decoded = await asyncio.to_thread(decode_request, request)
        # Taken only now: meanwhile an artifact may have been replaced.
        model = self._repository.get(name, version)
        return encode_response(await model.infer(decoded, "grpc", self._options.timeout_s))

    async def _stream(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[bytes]:
        """Answer the requests of a stream in their order, some of them side by side."""
        client = context.peer()
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_SIDE_BY_SIDE)
        tasks: set[asyncio.Task[Any]] = set()

        def begin(work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
            task = asyncio.ensure_future(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task

        async def read() -> None:
            try:
                async for request in requests:
                    task = begin(self._streamed(request, client))
                    await answers.put(task)
                    if self._held > self._most_held / 2:  # leave room for others
                        await asyncio.wait((task,))
            finally:
                await answers.put(None)

        reader = begin(read())
        try:
            while (task := await answers.get()) is not None:
                yield await task
            await reader
        finally:  # whoever goes away leaves nothing behind, not even what had just begun
            for task in tuple(tasks):
                task.cancel()
            while not answers.empty():  # else the reader would wait for ever to say its last
                answers.get_nowait()

    async def _streamed(self, request: Received | RequestError, client: str) -> bytes:
        """Return the answer to one request of a stream; an error ends nothing but that request."""
        started, code = time.perf_counter(), "OK"
        message = request.message if isinstance(request, Received) else None
        request_id.set(usable_id(message.id if message else ""))  # of this task alone
        try:
            if isinstance(request, RequestError):
                raise request
            return encode_streamed(await self._model_infer(request))
        except RequestError as error:
            code, words = error.fault.code, str(error)
        except Exception:
            _log.exception("a request failed")
            code, words = Fault.INTERNAL.code, "the server failed; its log says why"
        finally:
            self._note_end("STREAM", "ModelStreamInfer", code, started=started, client=client)
            if isinstance(request, Received):
                request.let_go()
        failed = _Streamed(error_message=words)
        if message is not None:
            failed.infer_response.id = message.id
            failed.infer_response.model_name = message.model_name
            failed.infer_response.model_version = message.model_version or VERSION
        found: bytes = failed.SerializeToString()
        return found

    def _note_end(self, method: str, name: str, code: str, *, started: float, client: str) -> None:
        """Count and log a request that is over."""
        self._repository.metrics.responses.labels("grpc", code).inc()
        ms = (time.perf_counter() - started) * 1e3
        path = f"/{SERVICE}/{name}"
        access(transport="grpc", method=method, path=path, status=code, ms=ms, client=client)


def _metadata(context: Context) -> dict[str, str]:
    return {
        key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
    }


def _snake(name: str) -> str:
    """Return ServerLive as server_live."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
