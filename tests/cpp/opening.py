"""The program that opens artifacts in C++, and what it says."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cpp.build import built_program


def told(message: str) -> tuple[str, str]:
    """Return what both languages say of a fault: its place, and what was expected there.

    What was found is shown in each language's own way, and parsers of JSON have their own words.
    """
    message = message.partition(" valid JSON: ")[0]
    place = re.split(r" is | are | has | holds | names |: |; ", message, maxsplit=1)[0]
    return place, message.rpartition("; expected ")[2] if "; expected " in message else ""


def open_all(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Open artifacts; a crash or a hang fails."""
    run = subprocess.run(
        [built_program("tame-open"), *paths], capture_output=True, check=True, timeout=60
    )
    return [json.loads(line) for line in run.stdout.splitlines()]


class ManifestReader:
    """Reads manifests in one process; a context manager."""

    def __enter__(self) -> ManifestReader:
        self._process = subprocess.Popen(
            [built_program("tame-open"), "--manifests"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def read(self, text: str) -> dict[str, Any]:
        """Return the identity and facts of a manifest, or a status and its message."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(text).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0
