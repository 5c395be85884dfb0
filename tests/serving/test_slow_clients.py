"""Clients whose bodies are slow or endless: the server ends each of them, and serves the others."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.serving.clients import TOKEN
from tests.serving.http_probes import EXPLAIN, INFER
from tests.serving.raw_http import head, read_answer, whole
from tests.serving.running import eventually

_MIB = 2**20
#: Much more than the server's patience; whom it does not end would stay for ever.
FOR_EVER_S = 60
#: Less than what TLS has by itself.
_PATIENT_S = 25
_TOKEN = {"authorization": f"Bearer {TOKEN}"}
_DROP_S = 0.05

#: Requests that are answered before their body is there, or that wait for it: with their status.
PATHS = {
    "no-token": ("POST", INFER, {}, 401),
    "no-token-explain": ("POST", EXPLAIN, {}, 401),
    "no-token-index": ("POST", "/v2/repository/index", {}, 401),
    "unknown-path": ("POST", "/nowhere", _TOKEN, 404),
    "unknown-path-no-token": ("POST", "/nowhere", {}, 401),
    "unknown-model": ("POST", "/v2/models/other/infer", _TOKEN, 404),
    "wrong-method": ("PUT", INFER, _TOKEN, 405),
    "unimplemented": ("POST", "/v2/logging", _TOKEN, 501),
    "health": ("GET", "/v2/health/live", {}, 200),
    "metrics": ("GET", "/metrics", {}, 200),
    "page": ("GET", "/", {}, 200),
    "infer": ("POST", INFER, _TOKEN, None),
    "explain": ("POST", EXPLAIN, _TOKEN, None),
    "index": ("POST", "/v2/repository/index", _TOKEN, None),
}


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass(frozen=True)
class Way:
    """How a body comes: its headers, how it begins, and what follows again and again."""

    headers: dict[str, object]
    first: bytes = b""
    more: bytes = b""
    pause_s: float = 0.0
    reads: bool = True


_LENGTH, _CHUNKED = {"content-length": _MIB}, {"transfer-encoding": "chunked"}
_ENDLESS = {"content-length": 10**15}
WAYS = {
    "drop-by-drop": Way(_LENGTH, more=b"x", pause_s=_DROP_S),
    "never-comes": Way(_LENGTH),
    "never-comes-as-announced": Way({**_LENGTH, "expect": "100-continue"}),
    "endless": Way(_ENDLESS, more=bytes(_MIB // 4)),
    "endless-and-never-read": Way(_ENDLESS, more=bytes(_MIB // 4), reads=False),
    "chunk-by-chunk": Way(_CHUNKED, more=_chunk(b"x"), pause_s=_DROP_S),
    "endless-chunks": Way(_CHUNKED, more=_chunk(bytes(_MIB // 4))),
    "endless-chunk-size": Way(_CHUNKED, first=b"1;", more=b"x" * 1000),
    "endless-trailers": Way(_CHUNKED, first=b"0\r\n", more=b"x-a: b\r\n" * 1000),
    "trailers-drop-by-drop": Way(_CHUNKED, first=b"0\r\n", more=b"x-a: b\r\n", pause_s=_DROP_S),
}

#: What is no body, but takes the place of one.
NO_BODIES = ("endless-chunk-size", "endless-trailers")


@dataclass(frozen=True)
class Outcome:
    """Whether the server ended a connection, and the status that it answered, if one was read."""

    ended: bool
    status: int | None


def _status(received: bytes) -> int | None:
    """Return the status of an answer, past interim ones."""
    for line in received.split(b"\r\n"):
        if line.startswith(b"HTTP/1.1 ") and not line.startswith(b"HTTP/1.1 100"):
            return int(line.split()[1])
    return None


def _slow(address: tuple[str, int], path: str, way: Way) -> Outcome:
    """Send a request in a slow way until the server ends it."""
    method, target, headers, _ = PATHS[path]
    received, over = b"", time.monotonic() + FOR_EVER_S
    unsent = head(method, target, {**headers, **way.headers}) + way.first
    with socket.create_connection(address, 10) as connection:
        connection.setblocking(False)
        while time.monotonic() < over:
            try:
                readable, writable, _ = select.select([connection], [connection], [], _DROP_S)
                if readable and way.reads:
                    found = connection.recv(65536)
                    received += found
                    if not found:
                        return Outcome(True, _status(received))
                if unsent and writable:
                    unsent = unsent[connection.send(unsent) :]
            except ConnectionError:
                return Outcome(True, _status(received))
            if not unsent:
                unsent = way.more
                time.sleep(way.pause_s if way.more else _DROP_S)
    return Outcome(False, _status(received))


@pytest.fixture(scope="module")
def patient_for_a_second(serve, token_file):
    """A server with little patience, but places for all that this module asks it at a time."""
    options = ("--token-file", token_file, "--max-body-mb", 2, "--body-timeout-s", 1, "--no-grpc")
    return serve(*options, "--max-connections", 2 * len(PATHS) * len(WAYS))


@pytest.fixture(scope="module")
def outcomes(patient_for_a_second) -> Callable[[str, str], Outcome]:
    """Let all slow clients come at once; another client must be served all the while."""
    server = patient_for_a_second
    cases = [(path, way) for path in PATHS for way in WAYS]
    with ThreadPoolExecutor(len(cases)) as pool:
        running = {
            case: pool.submit(_slow, server.address, case[0], WAYS[case[1]]) for case in cases
        }
        while not all(one.done() for one in running.values()):
            found = httpx.get(f"{server.http}/v2/health/live", timeout=FOR_EVER_S)
            assert found.status_code == 200
            time.sleep(0.1)
    return lambda path, way: running[path, way].result()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", PATHS)
def test_a_slow_body_ends_with_its_connection(outcomes, path, way):
    found = outcomes(path, way)
    assert found.ended
    expected = PATHS[path][3]
    # What is no body may be refused as that first, and its answer lost while its client sends on.
    if expected is not None and found.status is not None:
        assert found.status in (expected, 431 if way in NO_BODIES else expected)


def test_slow_clients_without_a_token_keep_nobody_out(serve, token_file):
    server = serve("--token-file", token_file, "--max-connections", 4, "--no-grpc")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            one = stack.enter_context(socket.create_connection(server.address, 10))
            one.sendall(head("POST", INFER, {"content-length": _MIB}) + b"x")
        eventually(lambda: _is_live(server), "a place", FOR_EVER_S)


def _is_live(server) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{server.http}/v2/health/live").status_code == 200
    return False


@pytest.fixture(scope="module")
def encrypted(serve, certificates, token_file):
    """A server with TLS, little patience and few places."""
    return serve("--tls-cert", certificates["cert"], "--tls-key", certificates["key"],
                 "--token-file", token_file, "--body-timeout-s", 1, "--max-connections", 2,
                 "--no-grpc")  # fmt: skip


@pytest.mark.parametrize(("path", "status"), [(INFER, 401), ("/nowhere", 401)])
def test_a_slow_body_over_tls_ends_with_its_connection(encrypted, certificates, path, status):
    context = ssl.create_default_context(cafile=certificates["ca"])
    with (
        socket.create_connection(encrypted.address, FOR_EVER_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(head("POST", path, {"content-length": _MIB}))
        answer = read_answer(connection)
        assert answer is not None
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert _is_ended(connection)


def test_who_does_not_take_leave_of_tls_keeps_no_place(encrypted, certificates):
    context = ssl.create_default_context(cafile=certificates["ca"])
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            plain = stack.enter_context(socket.create_connection(encrypted.address, FOR_EVER_S))
            one = context.wrap_socket(plain, server_hostname="localhost")
            stack.enter_context(one).sendall(head("POST", INFER, {"content-length": _MIB}))

        def has_a_place() -> bool:
            with contextlib.suppress(httpx.TransportError):
                found = httpx.get(f"{encrypted.http}/v2/health/live", verify=context)
                return found.status_code == 200
            return False

        eventually(has_a_place, "a place", _PATIENT_S)


def test_who_does_not_begin_tls_is_given_up(encrypted):
    with socket.create_connection(encrypted.address, _PATIENT_S) as connection:
        assert _is_ended(connection)


def test_who_sends_a_whole_body_without_reading_gets_the_early_answer(guarded):
    with socket.create_connection(guarded.address, FOR_EVER_S) as connection:
        connection.sendall(whole("POST", INFER, bytes(4 * _MIB)))
        answer = read_answer(connection)
    assert answer is not None
    assert answer.status == 401
    assert answer.headers["connection"] == "close"


def test_an_error_that_read_the_body_keeps_the_connection(server):
    with socket.create_connection(server.address, FOR_EVER_S) as connection:
        for _ in range(2):
            connection.sendall(whole("POST", INFER, b"{}"))
            answer = read_answer(connection)
            assert answer is not None
            assert answer.status == 400
            assert "connection" not in answer.headers


@pytest.mark.parametrize(
    "more",
    [b"\r\n", b"G", b"GET / HTTP/1.1\r\nx-a: b\r\n"],
    ids=["line-ends", "a-letter", "a-head"],
)
def test_who_goes_on_with_half_a_request_after_an_answer_is_given_up(impatient, more):
    with socket.create_connection(impatient.address, FOR_EVER_S) as connection:
        connection.sendall(head("GET", "/v2/health/live", {}))
        first = read_answer(connection)
        assert first is not None
        assert first.status == 200
        connection.sendall(more)
        assert _is_ended(connection)


def _is_ended(connection: socket.socket) -> bool:
    """Whether the server ends a connection, and not the test's patience."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True
