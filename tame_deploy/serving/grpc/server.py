"""A grpc.aio server with the inference service, health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from tame_deploy.errors import InputError
from tame_deploy.files import read_file
from tame_deploy.serving.access import Tokens
from tame_deploy.serving.grpc.guard import HEALTH_SERVICE, GuardedHandlers
from tame_deploy.serving.grpc.health import Health
from tame_deploy.serving.grpc.schema import POOL, SERVICE
from tame_deploy.serving.grpc.service import InferenceService
from tame_deploy.serving.options import ServeOptions
from tame_deploy.serving.repository import Repository

__all__ = ["GrpcServer"]

_MIB = 2**20
#: Of one connection.
_STREAMS = 100
_IDLE_MS, _KEEP_ALIVE_MS = 600_000, 60_000
#: For answers to reach their clients before a connection is closed.
_LAST_S = 0.2


class GrpcServer:
    """Listens from `start` to `stop`; `port` is where."""

    def __init__(self, repository: Repository, options: ServeOptions, tokens: Tokens) -> None:
        size = options.max_body_mb * _MIB
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", min(_STREAMS, options.max_connections)),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
                ("grpc.keepalive_time_ms", _KEEP_ALIVE_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
            maximum_concurrent_rpcs=options.max_connections,
        )
        self._options = options
        handlers = GuardedHandlers(tokens, open_health=options.open_health)
        handlers.add_generic_rpc_handlers((InferenceService(repository, options).handlers(),))
        self._health = Health()
        self.show_ready(ready=False)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, handlers)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(_reflection(), handlers)
        self._server.add_generic_rpc_handlers((handlers,))
        self.port = 0

    async def start(self) -> None:
        """Bind and listen.

        Raises:
            InputError: if the address is taken, or the certificates cannot be used.
        """
        options = self._options
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"{host}:{options.grpc_port}"
        try:
            if options.tls_cert is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, _credentials(options))
        except RuntimeError as error:
            raise InputError(
                f"cannot listen on {address} for gRPC: it is taken. Another one: --grpc-port; "
                "0 takes a free one"
            ) from error
        await self._server.start()

    def show_ready(self, *, ready: bool) -> None:
        """Tell grpc.health.v1 whether requests are answered."""
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if ready else states.NOT_SERVING
        for name in ("", SERVICE):
            self._health.set(name, state)

    async def stop(self, grace_s: float, answered: Callable[[], Awaitable[None]]) -> None:
        """Take no more requests, and end once all are answered, or late.

        Streams that nobody asks anything, and watchers of health, are not waited for.
        """
        stopping = asyncio.ensure_future(self._server.stop(grace_s))
        waiting = asyncio.ensure_future(_soon_after(answered))
        await asyncio.wait((stopping, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await self._server.stop(min(_LAST_S, grace_s))
        await stopping


async def _soon_after(answered: Callable[[], Awaitable[None]]) -> None:
    """Return when all is answered, and still is a moment later: what was sent may be on its way."""
    for _ in range(2):
        await answered()
        await asyncio.sleep(_LAST_S)


def _reflection() -> Any:
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        POOL.AddSerializedFile(file.serialized_pb)
    names = (SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME)
    return reflection.aio.ReflectionServicer(names, pool=POOL)


def _credentials(options: ServeOptions) -> grpc.ServerCredentials:
    assert options.tls_cert is not None
    assert options.tls_key is not None
    key, cert = read_file(options.tls_key, "tls_key"), read_file(options.tls_cert, "tls_cert")
    authority = read_file(options.client_ca, "client_ca") if options.client_ca else None
    return grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=authority, require_client_auth=authority is not None
    )
