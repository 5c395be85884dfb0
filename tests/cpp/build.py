"""Where libtame was built, for the tests that drive it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CPP = Path(__file__).parents[2] / "cpp"
#: `make cpp` builds there.
BUILD = Path(os.environ.get("TAME_CPP_BUILD", CPP.parent / "build" / "cpp"))


def built(program: str = "libtame.so") -> Path:
    """Return the build folder, or skip the test."""
    if shutil.which("cmake") is None or not next(BUILD.rglob(program), None):
        pytest.skip(f"needs {program} in {BUILD} (make cpp)")
    return BUILD


def built_program(name: str) -> Path:
    """Return a program of the build, or skip the test."""
    return next(built(name).rglob(name))
