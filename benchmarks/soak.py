"""Thousands of mixed requests to one server: every answer is compared, its memory is watched.

    python benchmarks/soak.py                      # 30,000 requests
    python benchmarks/soak.py --term               # SIGTERM under load, a few times
    python benchmarks/soak.py --smoke              # either of them short, nothing written

The requests go to the demo over HTTP and gRPC, in any order: one to eight pictures, as tensors or
as files, one to three classes, raw or as JSON, packed, streamed. One in fifty is wrong in some way
and must be refused as it should; as many are broken off, and as many connections are made anew.
Good answers are held to what the runtime says of the same pictures. With --term, every request
that was sent whole before the signal must be answered; later ones may be refused, never half
answered. Exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from machine import RESULTS, machine_facts, write_results
from rich.console import Console
from serving_load import INFER, HttpConnection, Server, fresh, own_command, resident_mb, started
from soak_requests import (
    Reference,
    Request,
    bad_requests,
    export_demo,
    fault_of,
    make_request,
    run_reference,
)

SHARE = 0.02  # of bad requests, of broken ones, and of connections that are made anew
PARTS, WARM_PARTS = 20, 2  # memory is judged by parts of the requests
GROWTH = 0.05
POOL = 400
WAIT_S = 60.0
#: How long before the signal a gRPC request must have begun: when all was sent, it does not say.
MARGIN_S = 0.25
STREAM = INFER.replace("ModelInfer", "ModelStreamInfer")


@dataclass
class Tally:
    """How many requests ended how, and what was wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, request: Request, fault: str) -> None:
        """Count an answer; `fault` is what is wrong with it."""
        self.kinds[request.kind] += 1
        good = "right" if request.expected is not None else "refused as expected"
        self.counts["wrong" if fault else good] += 1
        if fault:
            self.wrong.append(f"{request.kind}: {fault}"[:300])


class Client:
    """One connection of HTTP and one of gRPC, made anew when told to."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = ports
        self.http: HttpConnection | None = None
        self._channel: Any = None

    async def connect(self) -> HttpConnection:
        """Return the open HTTP connection, or a new one."""
        if self.http is None or self.http.closed:
            loop = asyncio.get_running_loop()
            _, self.http = await loop.create_connection(
                HttpConnection, "127.0.0.1", self._ports["http"]
            )
        return self.http

    @property
    def channel(self) -> Any:
        """The open channel, or a new one, with a connection of its own."""
        if self._channel is None:
            settings = [("grpc.use_local_subchannel_pool", 1),
                        ("grpc.max_receive_message_length", -1)]  # fmt: skip
            target = f"127.0.0.1:{self._ports['grpc']}"
            self._channel = grpc.aio.insecure_channel(target, settings)
        return self._channel

    async def hang_up(self) -> None:
        """Close both."""
        if self.http is not None:
            self.http.close()
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def send(self, request: Request) -> str:
        """Send a request, and return what is wrong with the answer; nothing if it is right."""
        if request.transport == "http":
            return await self._send_http(request)
        try:
            if request.transport == "stream":
                return await self._stream(request)
            body = await self.channel.unary_unary(INFER)(request.data, timeout=WAIT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ConnectionError(error.details()) from None
            told = f"{error.code().name} {error.details()}; expected {request.status}"
            return "" if error.code().name == request.status else told
        return fault_of(request, b"", body)

    async def _send_http(self, request: Request) -> str:
        head, body = await (await self.connect()).ask(request.data)
        status = head.split(b" ", 2)[1].decode()
        if status != request.status:
            return f"status {status} {body[:150]!r}; expected {request.status}"
        return "" if request.expected is None else fault_of(request, head, body)

    async def _stream(self, request: Request) -> str:
        """Send the same three times in one stream."""
        from tame_deploy.serving.grpc.schema import message

        call = self.channel.stream_stream(STREAM)(iter([request.data] * 3), timeout=WAIT_S)
        faults = []
        async for found in call:
            one = message("ModelStreamInferResponse").FromString(found)
            body = one.infer_response.SerializeToString()
            faults.append(one.error_message or fault_of(request, b"", body))
        return "; ".join(filter(None, faults)) if len(faults) == 3 else f"{len(faults)} of 3 came"

    async def break_off(self, request: Request, after_s: float, whole: bool) -> None:
        """Send it and go away, in the middle of the request or before its answer."""
        if request.transport == "http":
            connection = await self.connect()
            data = request.data
            connection.send(data if whole else data[: len(data) // 2])
            await asyncio.sleep(after_s)
            connection.close()
            return
        call = self.channel.unary_unary(INFER)(request.data)
        await asyncio.sleep(after_s if whole else 0)
        call.cancel()
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await call


# The soak


class Soak:
    """Workers that share a number of requests, and a watch on the server's memory."""

    def __init__(self, server: Server, reference: Reference, options: argparse.Namespace) -> None:
        self.tally, self._server, self._options = Tally(), server, options
        draw = random.Random(options.seed)
        self._good = [make_request(reference, draw) for _ in range(POOL)]
        self._bad = bad_requests(reference)
        self._sent, self._end = 0, time.monotonic() + options.limit_s
        self.memory: list[tuple[int, float]] = []

    async def run(self) -> None:
        """Send all requests, or as many as there is time for."""
        watch = asyncio.ensure_future(self._watch())
        await asyncio.gather(*(self._work(number) for number in range(self._options.workers)))
        watch.cancel()
        self.tally.counts["asked"] = self._sent

    async def _watch(self) -> None:
        while True:
            self.memory.append((self._sent, resident_mb(self._server.process.pid)))
            await asyncio.sleep(0.25)

    async def _work(self, number: int) -> None:
        draw = random.Random(f"{self._options.seed} {number}")
        client = Client(self._server.ports)
        while self._sent < self._options.requests and time.monotonic() < self._end:
            self._sent += 1
            await self._one(client, draw)
            if draw.random() < SHARE:
                await client.hang_up()
                self.tally.counts["reconnects"] += 1
        await client.hang_up()

    async def _one(self, client: Client, draw: random.Random) -> None:
        request = draw.choice(self._good)
        if draw.random() < SHARE:
            await client.break_off(request, draw.uniform(0, 0.03), draw.random() < 0.6)
            self.tally.counts["cancelled"] += 1
            return
        if draw.random() < SHARE:
            request = draw.choice(self._bad)
        try:
            fault = await asyncio.wait_for(client.send(request), WAIT_S)
        except Exception as error:
            fault = f"no answer: {error!r}"
            await client.hang_up()
        self.tally.note(request, fault)


def judged_memory(memory: list[tuple[int, float]], requests: int) -> dict[str, Any]:
    """Return how the memory went: medians of each twentieth of the requests, and extremes after.

    The bodies that are on their way at a moment make single samples jump; medians do not. The
    second twentieth ends the warm-up.
    """
    parts: dict[int, list[float]] = {}
    for sent, mb in memory:
        parts.setdefault(min(PARTS - 1, sent * PARTS // requests), []).append(mb)
    course = [statistics.median(parts[part]) for part in sorted(parts)]
    warm, rest = course[WARM_PARTS - 1], course[WARM_PARTS:]
    later = [mb for part, values in parts.items() if part >= WARM_PARTS for mb in values]
    return {
        "after_warm_up_mb": warm, "at_the_end_mb": rest[-1], "growth": max(rest) / warm - 1,
        "met": max(rest) <= warm * (1 + GROWTH), "least_mb": min(later), "most_mb": max(later),
        "course_mb": course,
    }  # fmt: skip


def soak(
    path: Path, reference: Reference, options: argparse.Namespace, *, console: Console
) -> dict[str, Any]:
    """Send everything, and tell what came of it."""
    start = time.perf_counter()
    with started(
        lambda ports: own_command(path, ports, "--threads", 1), path.parent / "log"
    ) as one:
        work = Soak(one, reference, options)
        asyncio.run(work.run())
        lived = one.process.poll() is None
    said = (path.parent / "log").read_text(errors="replace")
    counts, memory = work.tally.counts, judged_memory(work.memory, options.requests)
    for name in ("asked", "right", "refused as expected", "cancelled", "reconnects", "wrong"):
        console.print(f"{name:>20}: {counts[name]}")
    for words in work.tally.wrong[:20]:
        console.print(f"wrong: {words}", markup=False)
    console.print(
        f"resident memory, medians: {memory['after_warm_up_mb']:.0f} MB after the warm-up, "
        f"{memory['growth']:+.1%} at most, {memory['at_the_end_mb']:.0f} MB at the end; single "
        f"samples {memory['least_mb']:.0f} to {memory['most_mb']:.0f} MB"
    )
    console.print(f"  {' '.join(f'{mb:.0f}' for mb in memory['course_mb'])}")
    errors = [line for line in said.splitlines() if "Traceback" in line or " error " in line]
    console.print(f"the server's log has {len(said.splitlines())} lines, {len(errors)} of errors")
    finished = counts["asked"] >= options.requests
    settled = memory["met"] or options.smoke  # which ends before the memory has settled
    good = not counts["wrong"] and settled and lived and finished and not errors
    return {
        "requests": options.requests, "counts": dict(counts), "kinds": dict(work.tally.kinds),
        "wrong": work.tally.wrong[:100], "memory": memory, "errors_in_log": errors[:20],
        "seconds": time.perf_counter() - start, "good": good,
    }  # fmt: skip


# SIGTERM under load


@dataclass
class Sent:
    """A request of the last moments: when it was sent whole, and what came of it."""

    transport: str
    sent: float
    end: str  # right, refused, or what is wrong


async def send_until_refused(client: Client, requests: list[Request], all_sent: list[Sent]) -> None:
    """Send one after another, until the server takes no more."""
    for request in random.choices(requests, k=10_000):
        start = time.perf_counter()
        try:
            end = await asyncio.wait_for(client.send(request), WAIT_S) or "right"
        except ConnectionError as error:
            end = "half an answer" if "half" in str(error) else "refused"
        except Exception as error:
            end = f"no answer: {error!r}"
        if end.startswith(("status 503", "UNAVAILABLE")):
            end = "refused"
        when = start + MARGIN_S
        if request.transport == "http":  # where no connection was made, nothing was sent
            when = client.http.sent if client.http and client.http.sent >= start else math.inf
        all_sent.append(Sent(request.transport, when, end))
        if end != "right":
            break
    await client.hang_up()


async def end_under_load(
    server: Server, requests: list[Request], options: argparse.Namespace
) -> tuple[list[Sent], float, float]:
    """Return the requests, when the signal was sent, and how long the server lived on."""
    sent: list[Sent] = []
    tasks = []
    for transport in ("http", "grpc"):
        chosen = [one for one in requests if one.transport == transport]
        for _ in range(options.workers):
            client = Client(server.ports)
            tasks.append(asyncio.ensure_future(send_until_refused(client, chosen, sent)))
    await asyncio.sleep(random.uniform(1.5, 2.5))
    moment = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    await asyncio.to_thread(server.process.wait, options.drain_s + 60)
    lived = time.perf_counter() - moment
    await asyncio.gather(*tasks)
    return sent, moment, lived


def end_once(path: Path, reference: Reference, options: argparse.Namespace) -> dict[str, Any]:
    """Start a server, end it under load, and judge what came of the requests."""
    draw = random.Random(options.seed)
    many = [make_request(reference, draw, rows=8) for _ in range(60)]
    requests = [one for one in many if one.kind.endswith("tensors") and "json" not in one.kind]
    command: Callable[[dict[str, int]], list[str]] = lambda ports: own_command(  # noqa: E731
        path, ports, "--threads", 1, "--drain-s", options.drain_s
    )
    with started(command, path.parent / "log") as server:
        sent, moment, lived = asyncio.run(end_under_load(server, requests, options))
        status = server.process.returncode
    counts: Counter[str] = Counter()
    wrong = []
    for one in sent:
        before = "before" if one.sent < moment else "after"
        known = one.end if one.end in ("right", "refused") else "wrong"
        counts[f"{one.transport} {before}: {known}"] += 1
        if known == "wrong" or (before == "before" and known == "refused"):
            wrong.append(f"{one.transport}, sent {one.sent - moment:+.3f} s: {one.end}"[:300])
    waiting = sum(one.sent < moment for one in sent)
    good = not wrong and status == 0 and lived <= options.drain_s + 1
    return {"counts": dict(sorted(counts.items())), "sent_before": waiting, "wrong": wrong,
            "lived_s": lived, "exit_status": status, "good": good}  # fmt: skip


def term(
    path: Path, reference: Reference, options: argparse.Namespace, *, console: Console
) -> dict[str, Any]:
    """End servers under load, some times."""
    rounds = []
    for _ in range(options.rounds):
        rounds.append(end_once(path, reference, options))
        told = ", ".join(f"{name} {count}" for name, count in rounds[-1]["counts"].items())
        console.print(f"ended {rounds[-1]['lived_s']:.2f} s after the signal with "
                      f"{rounds[-1]['exit_status']}: {told}")  # fmt: skip
        for words in rounds[-1]["wrong"][:10]:
            console.print(f"wrong: {words}", markup=False)
    return {"rounds": rounds, "drain_s": options.drain_s, "good": all(r["good"] for r in rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--workers", type=int, default=10, help="requests at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=1800, help="time for all requests")
    parser.add_argument("--term", action="store_true", help="SIGTERM under load instead")
    parser.add_argument("--rounds", type=int, default=5, help="of --term")
    parser.add_argument("--drain-s", type=float, default=10, help="of --term")
    parser.add_argument("--no-write", action="store_true", help="show the results, keep none")
    parser.add_argument("--smoke", action="store_true", help="little of it, nothing written")
    options = parser.parse_args()
    if options.smoke:
        options.requests, options.rounds = 300, 1
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        path = fresh(export_demo, Path(folder) / "demo")
        reference = fresh(run_reference, path)
        found = (term if options.term else soak)(path, reference, options, console=console)
    console.print("[green]all is well[/]" if found["good"] else "[red]something is wrong[/]")
    if not (options.smoke or options.no_write):
        kept = RESULTS / "soak.json"
        before = json.loads(kept.read_text()) if kept.exists() else {}
        facts = machine_facts("tame-deploy", "onnxruntime", "uvicorn", "grpcio")
        results = {**before, "term" if options.term else "soak": {"machine": facts, **found}}
        console.print(str(write_results("soak", results)))
    raise SystemExit(0 if found["good"] else 1)


if __name__ == "__main__":
    main()
