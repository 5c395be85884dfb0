"""Bytes of a connection, received where they belong: the rest of a large body where it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tame_deploy.serving.faults import RequestError

if TYPE_CHECKING:
    from tame_deploy.serving.http.protocol import Protocol

__all__ = ["Receiver"]

#: Everything but the rest of a large body comes through here, one connection after another.
_SHARED = memoryview(bytearray(64 * 1024))


@dataclass
class _Filling:
    """A body that is received: where the rest of it goes, and whether all of it came."""

    room: memoryview
    hold: Callable[[int], None]
    whole: asyncio.Future[bool]


class Receiver(asyncio.BufferedProtocol):
    """What a transport talks to. It passes all on to `protocol`, but for bodies that fill memory.

    In pieces, a body is copied by each that it passes through, and each piece wakes the request.
    """

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._filling: _Filling | None = None
        protocol.receiver = self

    async def fill(self, room: memoryview, hold: Callable[[int], None]) -> bool:
        """Receive the rest of the body of the request whose turn it is, which `room` is as long as.

        Whatever ends this early, the request gets in pieces what still comes.

        Args:
            room: where to.
            hold: is told of every byte that came.

        Returns:
            Whether all of it came; if not, the client went away.

        Raises:
            RequestError: what `hold` raises.
        """
        whole: asyncio.Future[bool] = self._protocol.loop.create_future()
        self._filling = _Filling(room, hold, whole)
        self._protocol.flow.resume_reading()
        try:
            return await whole
        finally:
            self._filling = None

    @property
    def _open(self) -> _Filling | None:
        filling = self._filling
        return None if filling is None or filling.whole.done() else filling

    def get_buffer(self, _sizehint: int) -> memoryview:
        filling = self._open
        return _SHARED if filling is None else filling.room

    def buffer_updated(self, nbytes: int) -> None:
        filling = self._open
        if filling is None:
            self._protocol.data_received(bytes(_SHARED[:nbytes]))
            return
        filling.room = filling.room[nbytes:]
        self._protocol.body_came(nbytes)
        try:
            filling.hold(nbytes)
        except RequestError as error:
            filling.whole.set_exception(error)
            return
        if not filling.room:
            filling.whole.set_result(True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        filling = self._open
        if filling is not None:
            filling.whole.set_result(False)
        self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
