"""Where libtame was built, for the tests that drive it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
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


@cache
def why_not_buildable() -> str | None:
    """Return what this machine lacks for building libtame, in one line; None if nothing."""
    if shutil.which("cmake") is None:
        return "cmake is not installed"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["cmake", "-S", CPP, "-B", folder], capture_output=True, text=True, check=False
        )
    if done.returncode == 0:
        return None
    said = " ".join(done.stderr.split())
    named = re.search(r"libtame needs .*?(?=;|$)", said)
    return named[0] if named else f"cmake cannot configure libtame: {said:.200}"


def find_inference_libraries_of_this_python(patched: pytest.MonkeyPatch) -> None:
    """Have libtame look where the Python that runs the tests keeps its packages."""
    patched.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def need_a_build() -> None:
    """Skip the test where libtame cannot be built."""
    if reason := why_not_buildable():
        pytest.skip(reason)
