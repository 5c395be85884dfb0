"""Servers in processes of their own, and a generator of load that counts their CPU time."""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL = "model"
INFER = "/inference.GRPCInferenceService/ModelInfer"
WARM_S = 1.0
START_S = 120.0
KINDS = {"uint8": "UINT8", "float32": "FP32", "int64": "INT64"}

Arrays = dict[str, NDArray[Any]]
#: Sends the request and returns the answer's head (of HTTP) and body.
Ask = Callable[[], Awaitable[tuple[bytes, bytes]]]


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    process: subprocess.Popen[bytes]
    ports: dict[str, int]  # by transport


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the generator sends where, and for how long; `pid` is whose CPU time counts."""

    transport: str
    port: int
    request: bytes
    in_flight: int
    seconds: float
    most: int
    pid: int


def workers(count: int) -> ProcessPoolExecutor:
    """Return processes that know nothing of this one."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a process of its own, whose threads end with it."""
    with workers(1) as pool:
        return pool.submit(function, *arguments).result()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at."""
    found = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in found]
    for one in found:
        one.close()
    return ports


def own_command(path: Path, ports: dict[str, int], *options: object) -> list[str]:
    """Return how our server is started."""
    return [
        sys.executable, "-m", "tame_deploy", "serve-engine", f"{MODEL}={path}",
        "--backend", "onnxruntime", "--http-port", str(ports["http"]),
        "--grpc-port", str(ports["grpc"]), "--log-level", "warning", *map(str, options),
    ]  # fmt: skip


@contextmanager
def started(command: Callable[[dict[str, int]], list[str]], log: Path) -> Iterator[Server]:
    """Yield a server on free ports, once its model answers; end it with all that it started."""
    ports = dict(zip(("http", "grpc"), free_ports(2), strict=True))
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command(ports), stdout=stream, stderr=stream, cwd=log.parent, start_new_session=True
        )
    try:
        _wait_until_ready(process, ports["http"], log)
        yield Server(process, ports)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):  # not yet
            url = f"http://127.0.0.1:{port}/v2/models/{MODEL}/ready"
            if urllib.request.urlopen(url, timeout=5).status == 200:
                return
        time.sleep(0.1)
    said = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise RuntimeError(f"the server did not start: {' / '.join(said)[-400:]}")


def http_request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return the bytes of a POST."""
    told = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def requests_of(feeds: Arrays, outputs: list[str]) -> dict[str, bytes]:
    """Return the bytes of a request by transport: HTTP whole, gRPC as its message."""
    from tame_deploy.serving.grpc.schema import message

    shown = [(n, KINDS[a.dtype.name], list(a.shape), a.tobytes()) for n, a in feeds.items()]
    told = {
        "inputs": [{"name": name, "datatype": kind, "shape": shape,
                    "parameters": {"binary_data_size": len(raw)}}
                   for name, kind, shape, raw in shown],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
    }  # fmt: skip
    head = json.dumps(told, separators=(",", ":")).encode()
    body = b"".join([head, *(raw for *_, raw in shown)])
    headers = {"Inference-Header-Content-Length": str(len(head))}
    http = http_request(f"/v2/models/{MODEL}/infer", body, headers)
    request = message("ModelInferRequest")(model_name=MODEL)
    for name, kind, shape, raw in shown:
        request.inputs.add(name=name, datatype=kind, shape=shape)
        request.raw_input_contents.append(raw)
    for name in outputs:
        request.outputs.add(name=name)
    return {"http": http, "grpc": request.SerializeToString()}


def whole_answer(found: bytes) -> tuple[bytes, bytes] | None:
    """Return head and body of an HTTP answer once all of it is there; chunks are joined."""
    head, edge, body = found.partition(b"\r\n\r\n")
    size = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if not edge or (len(body) < int(size[1]) if size else not body.endswith(b"\r\n0\r\n\r\n")):
        return None
    parts, place = [body] if size else [], 0
    while not size:
        line = body.index(b"\r\n", place)
        length = int(body[place:line], 16)
        if not length:
            break
        parts.append(body[line + 2 : line + 2 + length])
        place = line + length + 4
    return head, b"".join(parts)


class HttpConnection(asyncio.Protocol):
    """Asks over one HTTP connection, one request at a time, and waits for whole answers.

    `sent` is when all of the last request was given to the system.
    """

    def __init__(self) -> None:
        self.sent, self.closed, self._found = 0.0, False, bytearray()
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(0)

    def resume_writing(self) -> None:
        self.sent = time.perf_counter()

    def send(self, request: bytes) -> None:
        """Send bytes."""
        self.sent = math.inf
        self._transport.write(request)
        if not self._transport.get_write_buffer_size():
            self.sent = time.perf_counter()

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Return the head and the body of the answer.

        Raises:
            ConnectionError: if the server hangs up; "half an answer" if in the middle of one.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self.send(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._found += data
        found = whole_answer(bytes(self._found))
        if found is None or self._answer is None:
            return
        self._found.clear()
        if b"\r\nconnection: close" in found[0].lower():
            self.close()
        if not self._answer.done():
            self._answer.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            words = "half an answer" if self._found else str(exc or "the server hung up")
            self._answer.set_exception(ConnectionError(words))

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        self._transport.close()


def ports_of(arrays: Arrays) -> list[tuple[str, str, list[int]]]:
    """Return name, datatype and shape without the batch; the number of classes may vary."""
    return [
        (name, array.dtype.name, [-1 if size == 1 else size for size in array.shape[1:]])
        for name, array in arrays.items()
    ]


def wire_bytes(feeds: Arrays, outputs: list[str]) -> dict[str, dict[str, int]]:
    """Return the size of a request by transport, with its picture as uint8 and as float32."""
    found: dict[str, dict[str, int]] = {}
    for kind in ("uint8", "float32"):
        images = np.zeros(feeds["images"].shape, kind)
        for transport, request in requests_of({**feeds, "images": images}, outputs).items():
            found.setdefault(transport, {})[kind] = len(request)
    return found


def generate(load: Load) -> dict[str, Any]:
    """Keep so many requests in flight; return what a second held, and the first answer."""
    return asyncio.run(_generate(load))


async def _open(load: Load) -> list[Ask]:
    """Connect, as often as requests are in flight for HTTP, and once for gRPC."""
    if load.transport == "grpc":
        import grpc

        settings = [("grpc.max_receive_message_length", -1)]
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{load.port}", settings)
        call = channel.unary_unary(INFER)  # bytes in, bytes out

        async def ask_grpc() -> tuple[bytes, bytes]:
            return b"", await call(load.request)

        return [ask_grpc] * load.in_flight

    async def ask_http(connection: HttpConnection) -> tuple[bytes, bytes]:
        head, body = await connection.ask(load.request)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"answered {head[:80]!r} {body!r:.200}")
        return head, body

    asks: list[Ask] = []
    for _ in range(load.in_flight):
        made = asyncio.get_running_loop().create_connection
        _, connection = await made(HttpConnection, "127.0.0.1", load.port)
        asks.append(partial(ask_http, connection))
    return asks


async def _generate(load: Load) -> dict[str, Any]:
    over, asks = False, await _open(load)
    milliseconds: list[float] = []
    first = await asks[0]()

    async def keep_asking(ask: Ask) -> None:
        while not over:
            start = time.perf_counter()
            body = (await ask())[1]
            milliseconds.append((time.perf_counter() - start) * 1e3)
            if len(body) != len(first[1]):
                raise RuntimeError(f"an answer has {len(body)} bytes, the first {len(first[1])}")

    tasks = [asyncio.ensure_future(keep_asking(ask)) for ask in asks]
    await asyncio.sleep(min(WARM_S, load.seconds / 2))
    before, own, start = tree_cpu_s(load.pid), time.process_time(), time.perf_counter()
    milliseconds.clear()
    while time.perf_counter() - start < load.seconds and len(milliseconds) < load.most:
        await asyncio.sleep(0.02)
    took, used = time.perf_counter() - start, tree_cpu_s(load.pid) - before
    own, kept, over = time.process_time() - own, list(milliseconds), True
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    p50, p99 = np.quantile(kept, (0.5, 0.99)).tolist()
    return {
        "first": first, "requests": len(kept), "per_s": len(kept) / took,
        "per_cpu_s": len(kept) / max(used, 0.01), "p50_ms": p50, "p99_ms": p99,
        "server_cores": used / took, "generator_cores": own / took,
    }  # fmt: skip


def tree_cpu_s(root: int) -> float:
    """Return the CPU seconds of a process and all that it started, the ended ones too."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it just ended
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    found, left = 0, [root]
    while left:
        pid = left.pop()
        found += ticks.get(pid, 0)
        left += [child for child, parent in parents.items() if parent == pid]
    return found / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the resident memory of one process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def decoded(transport: str, first: tuple[bytes, bytes]) -> Arrays:
    """Return the tensors of an answer."""
    from tame_deploy.serving.grpc.schema import message

    kinds = {kind: np.dtype(name) for name, kind in KINDS.items()}
    head, body = first
    if transport == "grpc":
        answer = message("ModelInferResponse").FromString(body)
        parts = zip(answer.outputs, answer.raw_output_contents, strict=True)
        return {
            one.name: np.frombuffer(raw, kinds[one.datatype]).reshape(list(one.shape))
            for one, raw in parts
        }
    size = re.search(rb"\r\ninference-header-content-length: *(\d+)", head, re.IGNORECASE)
    place = int(size[1]) if size else len(body)
    found = {}
    for one in json.loads(body[:place])["outputs"]:
        kind, raw_size = kinds[one["datatype"]], one.get("parameters", {}).get("binary_data_size")
        raw = body[place : place + (raw_size or 0)]
        place += raw_size or 0
        array = np.array(one["data"], kind) if raw_size is None else np.frombuffer(raw, kind)
        found[one["name"]] = array.reshape(one["shape"])
    return found
