"""What is costly to make and only read: the first test process that needs it makes it for all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder of this test run; `make` fills the path that it is given.

    Processes of one run share it, so whoever wants to change what is in it works on a copy.
    """
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each process has a folder of its own below that of the run
    place = shared / "made-once"
    place.mkdir(exist_ok=True)
    with FileLock(place / f"{name}.lock"):
        if not (place / name).exists():
            partial = place / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # of a first try that failed
            make(partial)
            partial.rename(place / name)
    return place / name
