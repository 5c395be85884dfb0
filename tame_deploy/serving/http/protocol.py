"""uvicorn's protocol with the bounds that it does not have by itself."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tame_deploy.serving.faults import Fault
from tame_deploy.serving.logs import access, request_id, usable_id
from tame_deploy.serving.statistics import Metrics

__all__ = ["Protocol"]

#: Bytes of a request line with its headers, and of what else is neither of a body nor an end.
_MOST_OF_HEAD = 64 * 1024
_HEAD_TOO_LARGE = 431
#: Requests that one client may have sent ahead of their answers.
_MOST_AHEAD = 128
#: An answer that comes sooner needs no proof that its half-closed client is still there.
_PROBE_S = 0.1
_INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


class _RefusedError(Exception):
    """Ends the parsing of what was refused."""


class _Flow(FlowControl):
    """uvicorn's, which by itself reads on while requests wait for their turn, without a bound."""

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class Protocol(HttpToolsProtocol):
    """uvicorn's, which by itself waits for ever for a whole head, and for answers to be read.

    And it closes connections whose client says that it sends no more, without the answer. A
    connection is always waited for by one of these: a head's timer, a request's own time, the timer
    of keeping it alive, or that of an answer that is to be taken.
    """

    head_timeout_s = 30.0
    answer_timeout_s = 60.0
    most_connections = 1000
    metrics: Metrics

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        transport.set_write_buffer_limits(high=1, low=0)  # so one hears when an answer is taken
        self._head_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._head_size = 0  # of what is parsed
        self._idle_size = 0  # of what came since the last head, piece of a body, or end
        if len(self.connections) > self.most_connections:
            words = "too many connections; try again later"
            self._refuse(Fault.UNAVAILABLE.status, words, b"retry-after: 1\r\n")
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        if self.cycle is not None and self.parser.should_upgrade():
            return
        self._unset_keepalive_if_required()
        self._idle_size += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # it is answered as if it had not been asked, and the connection ends
        except httptools.HttpParserCallbackError:
            self._refuse(Fault.INVALID.status, "the request is not valid HTTP")
        except httptools.HttpParserError as error:
            self._refuse(Fault.INVALID.status, f"the request is not valid HTTP: {error!s:.200}")
        if self._idle_size > _MOST_OF_HEAD:
            self._refuse_head()
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()  # line ends before a request are no request yet

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_size = 0
        if self._head_timer is None:
            self._wait_for_head()

    def on_url(self, url: bytes) -> None:
        self._head_size += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if self._head_size > _MOST_OF_HEAD:
            self._refuse_head()
            raise _RefusedError
        if self._head_timer is not None:  # behind a body they are trailers, which nobody needs
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._idle_size = 0
        if self._head_size > _MOST_OF_HEAD:
            self._refuse_head()
            raise _RefusedError
        if len(self.pipeline) >= _MOST_AHEAD:
            self._refuse(Fault.UNAVAILABLE.status, "too many requests ahead of their answers")
            raise _RefusedError
        if self.parser.should_upgrade() and _has_body(self.headers):
            words = "an Upgrade beside a body is not taken; with curl, leave out --http2"
            self._refuse(Fault.INVALID.status, words)
            raise _RefusedError
        self._forget_head_timer()
        super().on_headers_complete()
        if self.parser.should_upgrade():  # which is not done, but httptools reads no further
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._idle_size = 0
        request = self.cycle
        if request.body or request.response_complete:
            super().on_body(body)
            return
        request.body = body  # type: ignore[assignment]  # uvicorn would copy it in, and out again
        if len(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        request.message_event.set()

    def on_message_complete(self) -> None:
        self._idle_size = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        # A client that takes its answer no faster is gone, or wants us to hold it.
        self._answer_timer = self.loop.call_later(self.answer_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_answer_timer()

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
        self._forget_head_timer()
        self._forget_answer_timer()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._give_up_head)

    def _give_up_head(self) -> None:
        if self._idle_size:
            words = f"the request's head took over {self.head_timeout_s:g} s"
            self._refuse(Fault.SLOW.status, words)
        else:
            self.transport.abort()  # it never said anything

    def _forget_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _forget_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _refuse_head(self) -> None:
        words = f"the request's head is larger than {_MOST_OF_HEAD} bytes"
        self._refuse(_HEAD_TOO_LARGE, words)

    def _refuse(self, status: int, words: str, more: bytes = b"") -> None:
        """End a connection for what never comes to the application, with an answer like its own."""
        if self.transport.is_closing():
            return
        token = request_id.set(usable_id(""))
        body = json.dumps({"error": words}).encode()
        if self._may_answer():
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n"
            named = b"x-request-id: %b\r\n\r\n" % request_id.get().encode()
            self.transport.write(STATUS_LINE[status] + head % len(body) + more + named + body)
        self.transport.close()
        self.metrics.responses.labels("http", str(status)).inc()
        client = self.client[0] if self.client else ""
        access(transport="http", method="-", path="-", status=status, ms=0.0, client=client,
               size=len(body), error=words)  # fmt: skip
        request_id.reset(token)

    def _may_answer(self) -> bool:
        """Whether an answer now would not be taken for that of a request before."""
        request = self.cycle  # the newest
        if request is None or request.response_complete:
            return True
        return request.more_body and not request.response_started and not self.pipeline


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    told = dict(headers)
    return b"transfer-encoding" in told or told.get(b"content-length", b"0") != b"0"
