"""uvicorn with the application, and with the bounds that it does not have by itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tame_deploy.errors import InputError
from tame_deploy.files import read_file
from tame_deploy.serving.access import Tokens
from tame_deploy.serving.http.app import make_app
from tame_deploy.serving.options import ServeOptions
from tame_deploy.serving.repository import Repository

__all__ = ["HttpServer"]

_MOST_OF_HEAD = 64 * 1024
_HEAD_TOO_LARGE = b"431 Request Header Fields Too Large"
_TOO_MANY = b"503 Service Unavailable"
#: An answer that comes sooner needs no proof that its half-closed client is still there.
_PROBE_S = 0.1
_INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


class _Protocol(HttpToolsProtocol):
    """uvicorn's, which by itself waits for ever for a whole head, and for answers to be read.

    And it closes connections whose client says that it sends no more, without the answer.
    """

    head_timeout_s = 30.0
    answer_timeout_s = 60.0
    most_connections = 1000

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_size = 0
        if len(self.connections) > self.most_connections:
            self._refuse(_TOO_MANY, b"retry-after: 1\r\n")
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer is None:
            return
        self._head_size += len(data)
        if self._head_size > _MOST_OF_HEAD:
            self._refuse(_HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._forget_timer()
        self._head_size = 0
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.answer_timeout_s, self._give_up_if_unread)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Return whether to keep the connection: its client sends no more, but may read on.

        TLS knows no such half: who ends it is gone.
        """
        request = self.cycle  # the newest; those before it are whole
        whole = self._head_timer is None and request is not None and not request.more_body
        if not whole or request.response_complete or self.scheme == "https":
            return None
        request.keep_alive = False
        self.loop.call_later(_PROBE_S, self._probe_half_closed, False)
        return True

    def _probe_half_closed(self, sent: bool) -> None:
        """Find out whether a client that sends no more still reads: if not, its system says so.

        By HTTP/1.1, any number of interim responses may come before an answer.
        """
        if self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        alone = not self.pipeline and not self.cycle.response_started
        if not sent and alone and self.cycle.scope["http_version"] == "1.1":
            self.transport.write(_INTERIM)
            sent = True
        self.loop.call_later(_PROBE_S, self._probe_half_closed, sent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self.transport.abort)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up_if_unread(self) -> None:
        # A client that took nothing of what was written is gone, or wants us to hold it.
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _refuse(self, status: bytes, more: bytes = b"") -> None:
        if not self.transport.is_closing():
            head = b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n"
            self.transport.write(head + more + b"\r\n")
            self.transport.close()


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: signals end both transports, elsewhere."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Listens from `start` to `stop`; `port` is where, `running` is done if it ends by itself."""

    def __init__(self, repository: Repository, options: ServeOptions, tokens: Tokens) -> None:
        bounds = {
            "head_timeout_s": options.body_timeout_s,
            "answer_timeout_s": options.timeout_s,
            "most_connections": options.max_connections,
        }
        config = uvicorn.Config(
            make_app(repository, options, tokens),
            http=type("Protocol", (_Protocol,), bounds),
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who the client is, it does not say itself
            timeout_keep_alive=max(1, round(options.keep_alive_s)),
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
        self.running: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Bind and listen; requests are taken as soon as the loop turns.

        Raises:
            InputError: if the address is taken, or the certificates cannot be used.
        """
        options = self._options
        for path in (options.tls_cert, options.tls_key, options.client_ca):
            if path is not None:
                read_file(path, "certificates")
        try:
            self._config.load()
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"tls_cert and tls_key are no PEM files that belong together: {error}"
            ) from error
        listening = self._bound()
        self.port = listening.getsockname()[1]
        self.running = asyncio.ensure_future(self._server.serve(sockets=[listening]))

    def _bound(self) -> socket.socket:
        host, port = self._options.host, self._options.http_port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with contextlib.ExitStack() as stack:
            try:
                # With the protocol named, asyncio sends answers at once (TCP_NODELAY).
                found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
                stack.callback(found.close)
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                found.bind((host, port))
            except OSError as error:
                reason = error.strerror or error
                raise InputError(
                    f"cannot listen on {host}:{port} for HTTP: {reason}. Another one: --http-port; "
                    "0 takes a free one"
                ) from error
            stack.pop_all()
            return found

    def stop_listening(self) -> None:
        """Take no new connections; those that are open go on."""
        for server in getattr(self._server, "servers", ()):
            server.close()

    async def stop(self, grace_s: float) -> None:
        """Close idle connections, and the others once they are answered, or late."""
        if self.running is None:
            return
        self._config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]
        self._server.should_exit = True
        await self.running
