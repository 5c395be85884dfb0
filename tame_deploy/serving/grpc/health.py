"""grpc.health.v1: whether requests are answered, for those who ask and those who watch."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["Health"]

_Answer = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Tells all who watch of every change.

    The servicer of grpcio-health-checking forgets all watchers of a service when one of them
    leaves, and a watcher that does not read may hold up the next change.
    """

    def __init__(self) -> None:
        self._states: dict[str, int] = {}
        self._changed = asyncio.Event()

    def set(self, service: str, state: int) -> None:
        """Say a service's state from now on."""
        self._states[service] = state
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 -- gRPC's name
        """Answer with the state of a service."""
        state = self._states.get(request.service)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return _Answer(status=state)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 -- gRPC's name
        """Answer with the state of a service, and again whenever it is another one."""
        told = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, _Answer.SERVICE_UNKNOWN)
            if state != told:
                await context.write(_Answer(status=state))
                told = state
            await changed.wait()
