"""A real server in a process of its own, as users start it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
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

    def wait_until_said(self, words: str, timeout_s: float = 20) -> None:
        """Wait for words of the log, which may be written after the answer."""
        end = time.monotonic() + timeout_s
        while words not in self.said:
            assert time.monotonic() < end, f"{words!r} was not said: {self.said}"
            time.sleep(0.02)

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
        yield _wait_until_ready(process, log, start_s)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path, start_s: float) -> Running:
    end = time.monotonic() + start_s
    while time.monotonic() < end:
        said = log.read_text(errors="replace")
        told = re.search(r'"addresses": \{"http": "([^"]+)", "grpc": (?:null|"([^"]+)")', said)
        if told:
            return Running(process, log, told[1], told[2] and told[2].rpartition("//")[2])
        page = re.search(r"HTTP +(https?://\S+?)/v2", said)
        if page and "try " in said:
            grpc = re.search(r"gRPC +grpcs?://(\S+)/", said)
            return Running(process, log, page[1], grpc and grpc[1])
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}: {said}")
        time.sleep(0.05)
    raise AssertionError(f"the server is not ready after {start_s} s: {log.read_text()}")
