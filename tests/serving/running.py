"""A real server in a process of its own, as users start it."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

_T = TypeVar("_T")

#: One thread, and a backend that is chosen: measuring both of the CPU's takes seconds.
PLAIN = ("--backend", "onnxruntime", "--threads", 1)


def eventually(check: Callable[[], _T], why: object = "", timeout_s: float = 20) -> _T:
    """Return what `check` returns once that is true; `why` is said if it never is."""
    end = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < end, f"{why} did not come in {timeout_s} s"
        time.sleep(0.02)
    return found


@dataclass(kw_only=True)
class Running:
    """Where a server listens, and what it said."""

    process: subprocess.Popen[bytes]
    log: Path
    http: str  # http://127.0.0.1:PORT
    grpc: str | None  # 127.0.0.1:PORT

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of HTTP, for sockets."""
        host, port = self.http.rpartition("//")[2].rsplit(":", 1)
        return host, int(port)

    def metric(self, sample: str) -> float:
        """Return the value of a sample, such as `tame_batch_pictures_count{model="demo"}`, or 0."""
        for line in httpx.get(f"{self.http}/metrics").text.splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    @property
    def accepted(self) -> float:
        """How many requests have no answer yet."""
        return self.metric('tame_requests_accepted{model="demo"}')

    @property
    def resident_mib(self) -> float:
        statm = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(statm[1]) * resource.getpagesize() / 2**20

    @property
    def peak_mib(self) -> float:
        """The most memory that was resident so far."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            pytest.skip("needs /proc")
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024

    def wait_until_said(self, words: str, timeout_s: float = 20) -> None:
        """Wait for words of the log, which may be written after the answer."""
        eventually(lambda: words in self.said, words, timeout_s)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextmanager
def running(
    folder: Path, *arguments: object, env: dict[str, str] | None = None, start_s: float = 60
):
    """Yield a server on free ports; `folder` takes its log."""
    log = folder / "server.log"
    ports = ["--http-port", "0"] + ([] if "--no-grpc" in arguments else ["--grpc-port", "0"])
    command = [sys.executable, "-m", "tame_deploy", "serve-engine", *ports, *map(str, arguments)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, **(env or {})}
        )
    try:
        yield eventually(lambda: _listening(process, log), "the server", start_s)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listening(process: subprocess.Popen[bytes], log: Path) -> Running | None:
    """Return where a server listens, if it says so by now."""
    said = log.read_text(errors="replace")
    told = re.search(r'"addresses": \{"http": "([^"]+)", "grpc": (?:null|"([^"]+)")', said)
    if told:
        grpc = told[2] and told[2].rpartition("//")[2]
        return Running(process=process, log=log, http=told[1], grpc=grpc)
    page = re.search(r"HTTP +(https?://\S+?)/v2", said)
    if page and "try " in said:
        grpc = re.search(r"gRPC +grpcs?://(\S+)/", said)
        return Running(process=process, log=log, http=page[1], grpc=grpc and grpc[1])
    if process.poll() is not None:
        raise AssertionError(f"the server ended with {process.returncode}: {said}")
    return None
