"""Shared fixtures of the tests that drive libtame."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cpp.build import built
from tests.cpp.pictures import Jobs


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """Return jobs for one run of the program, or skip the test."""
    built("tame-picture")
    return Jobs(tmp_path)
