"""Shared fixtures of the tests that drive libtame."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cpp.build import built
from tests.cpp.pictures import Jobs


@pytest.fixture(scope="package", autouse=True)
def python_of_the_tests_on_the_path() -> Iterator[None]:
    """Have libtame find the inference libraries of the Python that runs the tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """Return jobs for one run of the program, or skip the test."""
    built("tame-picture")
    return Jobs(tmp_path)
