"""uvicorn with the application and our protocol, from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn

from tame_deploy.errors import InputError
from tame_deploy.files import read_file
from tame_deploy.serving.access import Tokens
from tame_deploy.serving.http.app import make_app
from tame_deploy.serving.http.protocol import Protocol
from tame_deploy.serving.http.receiving import Receiver
from tame_deploy.serving.options import ServeOptions
from tame_deploy.serving.repository import Repository

__all__ = ["HttpServer"]


#: For a client to take leave of TLS, after which it keeps no place.
_LEAVE_S = 2.0


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: signals end both transports, elsewhere.

    And it bounds how long TLS begins and ends, which is a minute and half a one by itself.
    """

    def __init__(self, config: uvicorn.Config, handshake_s: float) -> None:
        super().__init__(config)
        self._handshake_s = handshake_s

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        config, loop = self.config, asyncio.get_running_loop()
        bounds: dict[str, Any] = {}
        if config.ssl is not None:
            bounds["ssl_handshake_timeout"] = self._handshake_s
            if sys.version_info >= (3, 11):
                bounds["ssl_shutdown_timeout"] = _LEAVE_S
        kind: Any = config.http_protocol_class

        def protocol() -> Receiver:
            return Receiver(
                kind(
                    config=config,
                    server_state=self.server_state,
                    app_state=self.lifespan.state,
                )
            )

        self.servers = [
            await loop.create_server(
                protocol, sock=one, ssl=config.ssl, backlog=config.backlog, **bounds
            )
            for one in sockets or ()
        ]
        self.started = True


class HttpServer:
    """Listens from `start` to `stop`; `port` is where, `running` is done if it ends by itself."""

    def __init__(self, repository: Repository, options: ServeOptions, tokens: Tokens) -> None:
        bounds = {
            "head_timeout_s": options.body_timeout_s,
            "answer_timeout_s": options.timeout_s,
            "most_connections": options.max_connections,
            "metrics": repository.metrics,
        }
        config = uvicorn.Config(
            make_app(repository, options, tokens),
            http=type("Protocol", (Protocol,), bounds),
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
        self._server = _Uvicorn(config, options.body_timeout_s)
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
