"""A grpc.aio server with the inference service, health and reflection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tame_deploy.errors import InputError
from tame_deploy.serving.access import Tokens, read_file
from tame_deploy.serving.faults import RequestError
from tame_deploy.serving.grpc.schema import POOL, SERVICE
from tame_deploy.serving.grpc.service import InferenceService
from tame_deploy.serving.options import ServeOptions
from tame_deploy.serving.repository import Repository

__all__ = ["GrpcServer"]

_MIB = 2**20
_HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class GrpcServer:
    """Listens from `start` to `stop`; `port` is where."""

    def __init__(self, repository: Repository, options: ServeOptions, tokens: Tokens) -> None:
        size = options.max_body_mb * _MIB
        self._server = grpc.aio.server(
            interceptors=(_Guard(tokens, open_health=options.open_health),),
            options=(
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", options.max_connections),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
            maximum_concurrent_rpcs=options.max_connections,
        )
        self._options = options
        service = InferenceService(repository, options, tokens)
        self._server.add_generic_rpc_handlers((service.handlers(),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._add_reflection()
        self.port = 0

    def _add_reflection(self) -> None:
        names = (SERVICE, _HEALTH_SERVICE, reflection.SERVICE_NAME)
        for file in (health_pb2.DESCRIPTOR, *_reflection_files()):
            POOL.AddSerializedFile(file.serialized_pb)
        reflection.enable_server_reflection(names, self._server, pool=POOL)

    async def start(self) -> None:
        """Bind and listen.

        Raises:
            InputError: if the address is taken, or the certificates cannot be used.
        """
        options = self._options
        address = f"{options.host}:{options.grpc_port}"
        try:
            if options.tls_cert is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, _credentials(options))
        except RuntimeError as error:
            raise InputError(f"cannot listen on {address} for gRPC: it is taken, or the "
                             "certificates cannot be used") from error  # fmt: skip
        await self._server.start()
        await self.show_ready(ready=False)

    async def show_ready(self, *, ready: bool) -> None:
        """Tell grpc.health.v1 whether requests are answered."""
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if ready else states.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, state)

    async def stop(self, grace_s: float) -> None:
        """Take no more requests, and wait for those that run."""
        await self._server.stop(grace_s)


def _reflection_files() -> tuple[Any, ...]:
    from grpc_reflection.v1alpha import reflection_pb2

    return (reflection_pb2.DESCRIPTOR,)


def _credentials(options: ServeOptions) -> grpc.ServerCredentials:
    assert options.tls_cert is not None
    assert options.tls_key is not None
    key, cert = read_file(options.tls_key, "tls_key"), read_file(options.tls_cert, "tls_cert")
    authority = read_file(options.client_ca, "client_ca") if options.client_ca else None
    return grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=authority, require_client_auth=authority is not None
    )


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Asks for a token where the inference service does not itself: health and reflection."""

    def __init__(self, tokens: Tokens, *, open_health: bool) -> None:
        self._tokens, self._open_health = tokens, open_health

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        service = details.method.rpartition("/")[0].lstrip("/")
        handler = await continuation(details)
        is_open = service == SERVICE or (service == _HEALTH_SERVICE and self._open_health)
        if handler is None or is_open:
            return handler
        try:
            self._tokens.check(dict(details.invocation_metadata or ()).get("authorization"))
        except RequestError as error:
            return _refusing(handler, error)
        return handler


def _refusing(handler: Any, error: RequestError) -> Any:
    async def refuse(_asked: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode[error.fault.code], str(error))

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(refuse, handler.request_deserializer, handler.response_serializer)
