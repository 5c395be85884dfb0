"""Reading bodies within their limits, packed or not."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope

from tame_deploy.serving.deadlines import within
from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.http.negotiation import weights
from tame_deploy.serving.http.protocol import CONNECTION, LARGE

__all__ = ["best_encoding", "discard_rest", "is_unread", "memory_for", "pack", "read_body"]

#: Where a request's scope notes that its body was read to the end.
_READ = "tame_deploy.body_was_read"
#: What a client that was answered early may still send, so that it comes to read the answer: a
#: connection that is closed on data that nobody read is reset, answer and all.
_MOST_DISCARDED, _DISCARD_S = 8 * 2**20, 2.0

#: zlib's window bits: 16 more for gzip. What clients call deflate has zlib's header.
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_FAST = 1
#: Of numbers in memory: a cache line.
_ALIGNMENT = 64


async def read_body(
    request: Request,
    *,
    limit: int,
    timeout_s: float,
    hold: Callable[[int], None],
    aligned: int = 0,
) -> bytes | memoryview:
    """Return a request's whole body, unpacked.

    Args:
        request: whose.
        limit: of its bytes, packed or unpacked.
        timeout_s: for it to arrive.
        hold: is told of every byte that is kept.
        aligned: the byte of a large body that should lie as numbers do.

    Raises:
        RequestError: if it is larger than `limit` bytes packed or unpacked, does not arrive in
            time, or is not what its encoding says.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)
    encoding = request.headers.get("content-encoding", "identity").strip().lower() or "identity"
    if encoding != "identity" and encoding not in _WINDOWS:
        raise RequestError(
            f"content-encoding is {encoding:.40}; expected gzip or deflate", Fault.UNKNOWN_ENCODING
        )
    try:
        body = await within(_read(request, limit, hold, aligned), timeout_s)
    except asyncio.TimeoutError:
        raise RequestError(f"the body took over {timeout_s:g} s", Fault.SLOW) from None
    if encoding == "identity":
        return body
    found = await asyncio.to_thread(_unpack, body, encoding, limit)
    hold(len(found))
    return found


async def _read(
    request: Request, limit: int, hold: Callable[[int], None], aligned: int
) -> bytes | memoryview:
    connection = request.scope[CONNECTION]
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        event = await request.receive()
        if event["type"] == "http.disconnect":
            raise _gone()
        part, more = event["body"], event["more_body"]
        if not part:
            continue  # the last one is empty, and joining would copy the others
        parts.append(part)
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        hold(len(part))
        if connection.body_left > LARGE:
            return await _receive_rest(request, parts, hold, aligned)
    request.scope[_READ] = True
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _receive_rest(
    request: Request, parts: list[bytes], hold: Callable[[int], None], aligned: int
) -> memoryview:
    """Return a large body, of which `parts` came; what still comes is copied by nobody."""
    connection, size = request.scope[CONNECTION], sum(map(len, parts))
    body = memory_for(size + connection.body_left, aligned=aligned)
    body[:size] = b"".join(parts)
    if not await connection.receiver.fill(body[size:], hold):
        raise _gone()
    request.scope[_READ] = True
    return body


def memory_for(size: int, *, aligned: int) -> memoryview:
    """Return memory for `size` bytes, of which `aligned` lies as numbers should.

    It is not cleared: what a client only announces takes no memory.
    """
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -(memory.ctypes.data + aligned) % _ALIGNMENT
    return memory[start : start + size].data


def is_unread(scope: Scope, headers: Headers) -> bool:
    """Whether a request has a body that was not read to its end."""
    if _READ in scope:
        return False
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def discard_rest(receive: Receive) -> None:
    """Read on and keep nothing, until the body ends or the client goes, but not much or long."""
    with suppress(asyncio.TimeoutError):
        await within(_discard(receive), _DISCARD_S)


async def _discard(receive: Receive) -> None:
    size, more = 0, True
    while more and size < _MOST_DISCARDED:
        event = await receive()
        size += len(event.get("body", b""))
        more = event.get("more_body", False)


def _gone() -> RequestError:
    return RequestError("the client went away", Fault.CANCELLED)


def _too_large(limit: int) -> RequestError:
    return RequestError(f"the body is larger than {limit} bytes", Fault.TOO_LARGE)


def _unpack(body: bytes | memoryview, encoding: str, limit: int) -> bytes:
    unpacker = zlib.decompressobj(_WINDOWS[encoding])
    try:
        found = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise RequestError(f"the body is not {encoding}") from None
    if len(found) > limit:
        raise _too_large(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(f"the body is cut off, or goes on after the end of its {encoding}")
    return found


def best_encoding(accepted: str) -> str | None:
    """Return what to pack an answer with: what Accept-Encoding wants most; None for nothing."""
    if not accepted:
        return None
    told = weights(accepted)
    best = max(_WINDOWS, key=lambda name: told.get(name, 0.0))  # the first of equals
    wanted = told.get(best, 0.0)
    return best if wanted and wanted >= told.get("identity", 0.0) else None


def pack(body: bytes, encoding: str) -> bytes:
    """Return a packed body."""
    if encoding == "gzip":
        return gzip.compress(body, _FAST, mtime=0)
    return zlib.compress(body, _FAST)
