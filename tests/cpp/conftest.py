"""Shared fixtures of the tests that drive libtame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cpp.build import built, find_inference_libraries_of_this_python
from tests.cpp.pictures import Jobs


@pytest.fixture(scope="package", autouse=True)
def python_of_the_tests_on_the_path() -> Iterator[None]:
    """Have libtame find the inference libraries of the Python that runs the tests."""
    with pytest.MonkeyPatch.context() as patched:
        find_inference_libraries_of_this_python(patched)
        yield


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """Return jobs for one run of the program, or skip the test."""
    built("tame-picture")
    return Jobs(tmp_path)
