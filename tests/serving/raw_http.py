"""HTTP by hand, so that requests can be wrong in ways that no library allows."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def head(method: str, path: str, headers: Mapping[str, object]) -> bytes:
    """Return a request line and headers; nothing is added, and nothing checked."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def whole(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, object] | None = None
) -> bytes:
    """Return a request with its length."""
    return head(method, path, {"content-length": len(body), **(headers or {})}) + body


def exchange(
    address: tuple[str, int],
    *parts: bytes,
    half_close: bool = False,
    timeout_s: float = 10,
) -> Answer | None:
    """Send bytes as they are, and return the answer, or None where the server only closes."""
    with socket.create_connection(address, timeout_s) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # the answer may be there all the same
        return read_answer(connection)


class _Kept(io.BufferedReader):
    """A connection's bytes, kept from one answer to the next."""

    def makefile(self, *_: object) -> _Kept:
        return self

    def close(self) -> None:
        pass  # which whoever has read an answer would do


def read_answers(connection: socket.socket, most: int | None = None) -> list[Answer]:
    """Return so many answers, or all until the server ends the connection."""
    found: list[Answer] = []
    kept = _Kept(socket.SocketIO(connection, "r"))
    while len(found) != most and (answer := read_answer(kept)) is not None:
        found.append(answer)
    return found


def read_answer(connection: socket.socket | _Kept) -> Answer | None:
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    except (ConnectionError, http.client.BadStatusLine):
        return None
    finally:
        response.close()
