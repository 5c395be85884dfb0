"""A server's life: listen, open and warm up, answer, and end without losing what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tame_deploy.errors import InputError
from tame_deploy.preprocess import MAX_PIXELS
from tame_deploy.runtime.backend import BackendOptions
from tame_deploy.serving.access import Tokens
from tame_deploy.serving.grpc.server import GrpcServer
from tame_deploy.serving.http.app import make_app
from tame_deploy.serving.model import ModelOptions
from tame_deploy.serving.options import ServeOptions
from tame_deploy.serving.repository import Repository
from tame_deploy.serving.statistics import Metrics
from tame_deploy.serving.traces import set_up_traces

__all__ = ["Addresses", "run_server", "serve"]

_log = logging.getLogger("tame_deploy.serving")
#: How long after "not ready" requests on open connections are still taken: balancers need a moment.
_GRACE_S = 0.5


class Addresses:
    """Where a server listens, once it does."""

    def __init__(self, host: str, http_port: int, grpc_port: int | None, scheme: str) -> None:
        shown = f"[{host}]" if ":" in host else host
        self.http = f"{scheme}://{shown}:{http_port}"
        self.grpc = None if grpc_port is None else f"{shown}:{grpc_port}"


def run_server(
    artifacts: Mapping[str, Path],
    options: ServeOptions,
    ready: Callable[[Addresses, Repository], None] = lambda *_: None,
) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends it at once.

    Raises:
        TameError: if an artifact cannot be opened, or an address is taken.
    """
    asyncio.run(serve(artifacts, options, ready))


async def serve(
    artifacts: Mapping[str, Path],
    options: ServeOptions,
    ready: Callable[[Addresses, Repository], None] = lambda *_: None,
) -> None:
    """Serve on the running event loop (see `run_server`)."""
    tokens = Tokens.of_file(options.token_file) if options.token_file else Tokens()
    end_traces = set_up_traces(options.traces) if options.traces else lambda: None
    repository = Repository(artifacts, _model_options(options), Metrics())
    http = _HttpServer(repository, options, tokens)
    grpc = GrpcServer(repository, options, tokens) if options.grpc_port is not None else None
    ended = _end_signals()
    try:
        http.start()
        if grpc is not None:
            await grpc.start()
        opened = asyncio.ensure_future(repository.open_all())
        await asyncio.wait((opened, ended), return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            opened.result()
            if grpc is not None:
                await grpc.show_ready(ready=True)
            scheme = "https" if options.tls_cert else "http"
            ready(
                Addresses(options.host, http.port, grpc.port if grpc is not None else None, scheme),
                repository,
            )
            await _until(ended, http, repository, options)
    finally:
        await _end(http, grpc, repository, options.drain_s)
        await asyncio.to_thread(end_traces)


def _model_options(options: ServeOptions) -> ModelOptions:
    return ModelOptions(
        options.backend,
        BackendOptions(
            options.threads,
            device=options.device,
            streams=max(options.instances, BackendOptions().streams),
            precision=options.precision,
        ),
        max_batch=options.max_batch,
        instances=options.instances,
        window_ms=options.window_ms,
        max_waiting=options.max_waiting,
        max_pixels=min(options.max_pixels, MAX_PIXELS),
    )


def _end_signals() -> asyncio.Future[None]:
    """Return what is done when the process is told to end; a second signal kills it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end(number: signal.Signals) -> None:
        _log.info("%s: ending", number.name)
        loop.remove_signal_handler(number)
        if not ended.done():
            ended.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.add_signal_handler(number, end, number)
    return ended


async def _until(
    ended: asyncio.Future[None], http: _HttpServer, repository: Repository, options: ServeOptions
) -> None:
    """Return when the process is told to end; watch the artifacts meanwhile."""
    watch = asyncio.ensure_future(
        repository.watch(options.reload_s) if options.reload_s else asyncio.Event().wait()
    )
    await asyncio.wait((ended, watch, http.running), return_when=asyncio.FIRST_COMPLETED)
    for task in (watch, http.running):
        if task.done():
            task.result()
    watch.cancel()


async def _end(
    http: _HttpServer, grpc: GrpcServer | None, repository: Repository, drain_s: float
) -> None:
    """Answer what was accepted, within `drain_s` seconds, and close."""
    was_ready = repository.ready
    repository.begin_drain()
    if grpc is not None:
        await grpc.show_ready(ready=False)
    http.stop_listening()
    if was_ready:
        await asyncio.sleep(min(_GRACE_S, drain_s))
    stops = [http.stop(drain_s)]
    if grpc is not None:
        stops.append(grpc.stop(drain_s))
    await asyncio.gather(*stops)
    await repository.close(drain_s)


_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"connection: close\r\ncontent-length: 0\r\n\r\n"
)


class _Protocol(HttpToolsProtocol):
    """uvicorn's, which by itself waits for ever for a request's head, however large it gets."""

    head_timeout_s = 30.0
    most_of_head = 64 * 1024

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_size = 0
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer is None:
            return
        self._head_size += len(data)
        if self._head_size > self.most_of_head and not self.transport.is_closing():
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._forget_timer()
        self._head_size = 0
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: signals end both transports, here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _HttpServer:
    def __init__(self, repository: Repository, options: ServeOptions, tokens: Tokens) -> None:
        protocol = type("Protocol", (_Protocol,), {"head_timeout_s": options.body_timeout_s})
        config = uvicorn.Config(
            make_app(repository, options, tokens),
            http=protocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=max(1, round(options.keep_alive_s)),
            limit_concurrency=options.max_connections,
            backlog=2048,
        )
        if options.tls_cert is not None:
            config.ssl_keyfile, config.ssl_certfile = options.tls_key, options.tls_cert
            config.ssl_ca_certs = options.client_ca
            if options.client_ca is not None:
                config.ssl_cert_reqs = ssl.CERT_REQUIRED
        self._config, self._options = config, options
        self._server = _Uvicorn(config)
        self.port = 0

    def start(self) -> None:
        """Bind and listen; requests are taken as soon as the loop turns.

        Raises:
            InputError: if the address is taken, or the certificates cannot be used.
        """
        host, port = self._options.host, self._options.http_port
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.socket(family, socket.SOCK_STREAM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            reason = error.strerror or error
            raise InputError(f"cannot listen on {host}:{port} for HTTP: {reason}") from error
        try:
            self._config.load()
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"the certificates cannot be used: {error}") from error
        self.port = self._socket.getsockname()[1]
        self.running = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))

    def stop_listening(self) -> None:
        """Take no new connections; those that are open go on."""
        for server in getattr(self._server, "servers", ()):
            server.close()

    async def stop(self, grace_s: float) -> None:
        """Close idle connections, and the others once they are answered, or late."""
        if not hasattr(self, "running"):
            return
        self._config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._server.should_exit = True
        await self.running
