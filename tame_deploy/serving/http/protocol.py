"""uvicorn's protocol with the bounds that it does not have by itself."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tame_deploy.serving.faults import Fault
from tame_deploy.serving.http.receiving import Receiver
from tame_deploy.serving.logs import access, request_id, usable_id
from tame_deploy.serving.statistics import Metrics

__all__ = ["CONNECTION", "LARGE", "Protocol"]

#: Where a request's scope has the connection that it came over.
CONNECTION = "tame_deploy.connection"
#: Bytes that a body still has, from where on it is left to its request to say where they go.
LARGE = 64 * 1024

#: Bytes of a request line with its headers, and of what else is neither of a body nor an end.
_MOST_OF_HEAD = 64 * 1024
_HEAD_TOO_LARGE = 431
#: Requests that wait for the answers before theirs; a client that sends more waits to be read.
_MOST_AHEAD = 128
_END_OF_HEAD = b"\r\n\r\n"
#: Of a body in chunks, what is parsed at least at a time.
_PIECE = 1024
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

    And it closes connections whose client says that it sends no more, without the answer. Requests
    that are sent ahead of their answers are parsed one by one, and left unparsed and unread beyond
    a number. A connection is always waited for by one of these: a head's timer, a request's own
    time, the timer of keeping it alive, or that of an answer that is to be taken.
    """

    head_timeout_s = 30.0
    answer_timeout_s = 60.0
    most_connections = 1000
    metrics: Metrics
    receiver: Receiver

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        transport.set_write_buffer_limits(high=1, low=0)  # so one hears when an answer is taken
        self._head_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._head_size = 0  # of what is parsed
        self._idle_size = 0  # of what came since the last head, piece of a body, or end
        self._body_left = 0  # of a body whose length was told
        self._unparsed = b""  # while so many wait
        self._is_over = False  # nothing more is parsed
        self._answering: Any = None  # the request whose turn it is; `cycle` is the newest
        self._refusal: Callable[[], None] | None = None  # comes behind the answers
        if len(self.connections) > self.most_connections:
            words = "too many connections; try again later"
            self._refuse(Fault.UNAVAILABLE.status, words, b"retry-after: 1\r\n")
        else:
            self._wait_for_head()

    @property
    def is_last(self) -> bool:
        """Whether no request that was received waits behind the one whose turn it is."""
        return not self.pipeline and not self._unparsed

    @property
    def body_left(self) -> int:
        """Bytes to come of the body of the request whose turn it is, if their number was told.

        0 also where requests behind it came: then its body is there.
        """
        return self._body_left if self.cycle is self._answering else 0

    @property
    def is_lost(self) -> bool:
        """Whether the request whose turn it is gets no answer any more, or not all of it."""
        return self._answering is not None and self._answering.disconnected

    def give_up(self) -> None:
        """End the connection at once, whatever is unanswered."""
        self._tell_lost()
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._is_over:
            self._unset_keepalive_if_required()
            self._unparsed += data
            self._parse()

    def _parse(self) -> None:
        """Parse what was received until it ends, or too many requests wait for their turn."""
        data, place = self._unparsed, 0
        view = memoryview(data)
        while place < len(data) and len(self.pipeline) < _MOST_AHEAD and not self._is_over:
            end = self._end_of_piece(data, place)
            if self._body_left:
                self.on_body(data[place:end])
                self._end_body()
            else:
                self._feed(view[place:end])
            place = end
        self._unparsed = b"" if self._is_over else data[place:]
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()  # line ends before a request are no request yet

    def _end_of_piece(self, data: bytes, place: int) -> int:
        """Return the end of what is parsed next, so that few requests begin or end before it."""
        if self._body_left:
            return min(place + self._body_left, len(data))
        in_chunks = self.cycle is not None and self.cycle.more_body
        found = data.find(_END_OF_HEAD, place + (_PIECE if in_chunks else 0))
        return len(data) if found < 0 else found + len(_END_OF_HEAD)

    def _feed(self, piece: memoryview) -> None:
        self._idle_size += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._is_over = True  # it is answered as if it had not been asked, and is the last
        except httptools.HttpParserCallbackError:
            self._refuse(Fault.INVALID.status, "the request is not valid HTTP")
        except httptools.HttpParserError as error:
            self._refuse(Fault.INVALID.status, f"the request is not valid HTTP: {error!s:.200}")
        if self._idle_size > _MOST_OF_HEAD:
            self._refuse_head()

    def body_came(self, size: int) -> None:
        """Note that so much of a body came, which went elsewhere."""
        self._idle_size = 0
        self._body_left -= size
        self._end_body()

    def _end_body(self) -> None:
        """End a body whose length was told, if it is there: the parser does not see these."""
        if not self._body_left:
            self.parser = _new_parser(self)
            self.on_message_complete()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
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
        if self.parser.should_upgrade() and _has_body(self.headers):
            words = "an Upgrade beside a body is not taken; with curl, leave out --http2"
            self._refuse(Fault.INVALID.status, words)
            raise _RefusedError
        self._forget_head_timer()
        super().on_headers_complete()
        self._body_left = int(dict(self.headers).get(b"content-length", b"0"))
        if not self.pipeline:
            self._answering = self.cycle
        if self.parser.should_upgrade():  # which is not done, but httptools reads no further
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._idle_size = 0
        told, self._body_left = self._body_left, max(0, self._body_left - len(body))
        request = self.cycle
        if not told or request.body or request.response_complete:
            super().on_body(body)
            return
        request.body = body  # type: ignore[assignment]  # uvicorn would copy it in, and out again
        if len(body) > HIGH_WATER_LIMIT or self._body_left > LARGE:
            self.flow.pause_reading()
        request.message_event.set()

    def on_message_complete(self) -> None:
        self._idle_size = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        following = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if following is not None:
            self._answering = following
            self._parse()
        elif self._refusal is not None:
            self._refusal()

    def shutdown(self) -> None:
        """Close, but not before what was received is answered."""
        if not self._unparsed:  # otherwise who answers the last of it closes
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        # A client that takes its answer no faster is gone, or wants us to hold it.
        self._answer_timer = self.loop.call_later(self.answer_timeout_s, self.give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_answer_timer()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Return whether to keep the connection: its client sends no more, but may read on.

        TLS knows no such half: who ends it is gone.
        """
        if self._refusal is not None and self.scheme != "https":
            return True
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
            self.give_up()
            return
        alone = not self.pipeline and not self.cycle.response_started
        if not sent and alone and self.cycle.scope["http_version"] == "1.1":
            self.transport.write(_INTERIM)
            sent = True
        self.loop.call_later(_PROBE_S, self._probe_half_closed, sent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head_timer()
        self._forget_answer_timer()
        self._tell_lost()
        self._unparsed = b""
        super().connection_lost(exc)

    def _tell_lost(self) -> None:
        """Tell the request whose turn it is; uvicorn tells none but the newest."""
        request = self._answering
        if request is not None and not request.response_complete:
            request.disconnected = True
            request.message_event.set()

    def _wait_for_head(self) -> None:
        if not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._give_up_head)

    def _give_up_head(self) -> None:
        if self.flow.read_paused:
            self._wait_for_head()  # it may be there
        elif self._idle_size:
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
        """End a connection for what never comes to the application, with an answer like its own.

        That comes behind the answers to the requests before.
        """
        if self._is_over or self.transport.is_closing():
            return
        self._is_over = True
        self._forget_head_timer()
        if self.pipeline and self.cycle.more_body:  # what is refused belongs to this one
            self.pipeline.popleft()
        self._refusal = partial(self._end, status, words, more)
        request = self._answering
        if request is None or request.response_complete or request.more_body:
            self._refusal()

    def _end(self, status: int, words: str, more: bytes) -> None:
        request = self._answering
        token = request_id.set(usable_id(""))
        body = json.dumps({"error": words}).encode()
        if request is None or request.response_complete or not request.response_started:
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n"
            named = b"x-request-id: %b\r\n\r\n" % request_id.get().encode()
            self.transport.write(STATUS_LINE[status] + head % len(body) + more + named + body)
        self.transport.close()
        self.metrics.responses.labels("http", str(status)).inc()
        client = self.client[0] if self.client else ""
        access(transport="http", method="-", path="-", status=status, ms=0.0, client=client,
               size=len(body), error=words)  # fmt: skip
        request_id.reset(token)


def _new_parser(protocol: Protocol) -> httptools.HttpRequestParser:
    """Return a parser as uvicorn makes it."""
    parser = httptools.HttpRequestParser(protocol)
    with suppress(AttributeError):  # httptools before 0.6.3
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    told = dict(headers)
    return b"transfer-encoding" in told or told.get(b"content-length", b"0") != b"0"
