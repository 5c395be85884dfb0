"""The examples run, as their first lines say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path("examples/serving").absolute()
PICTURE = Path("tame_deploy/data/pictures/ring-1.png").absolute()


def run(folder, *command):
    done = subprocess.run(
        [*map(str, command)], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "explained.png").read_bytes().startswith(b"\x89PNG")
    return done.stdout


def test_with_curl(server, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    assert '"name":"ring"' in run(tmp_path, "sh", EXAMPLES / "explain.sh", PICTURE, server.http)


def test_with_tritonclient(server, tmp_path):
    pytest.importorskip("tritonclient.grpc")
    said = run(tmp_path, sys.executable, EXAMPLES / "explain_triton.py", PICTURE, server.grpc)
    assert said.startswith("ring (class 5)")
    assert "maps (1, 2, 32, 32) of classes [5 0]" in said


def test_with_cpp(server, tmp_path):
    needed = ("cmake", "g++", "protoc", "grpc_cpp_plugin", "pkg-config")
    if any(shutil.which(program) is None for program in needed):
        pytest.skip(f"needs {', '.join(needed)} and libgrpc++-dev")
    # Its own and the generated sources in one: the headers of gRPC take longer than all of them.
    made = ["-S", EXAMPLES / "cpp", "-B", tmp_path, "-DCMAKE_UNITY_BUILD=ON"]
    for command in (made, ["--build", tmp_path]):
        subprocess.run(["cmake", *map(str, command)], check=True, capture_output=True, timeout=250)
    assert ":5:ring" in run(tmp_path, tmp_path / "explain", PICTURE, server.grpc)
