"""What strangers get: the command, the wheel, the install tree, and projects that find libtame."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tame_deploy
from tame_deploy.cli.app import app
from tests.cpp.build import CPP, built

PICTURE = Path(__file__).parents[1] / "golden" / "pictures" / "wide.jpg"
CONSUMER = CPP / "examples" / "consumer"


def run(*command: object, **kwargs) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **kwargs
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["cpp", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_prints_a_directory_alone():
    assert (Path(said("--cmake-dir").strip()) / "tameConfig.cmake").is_file()
    assert (Path(said("--include-dir").strip()) / "tame" / "tame.hpp").is_file()
    assert (Path(said("--source-dir").strip()) / "CMakeLists.txt").is_file()


def test_the_command_says_what_to_do():
    text = said()
    assert "find_package(tame 0.1 REQUIRED)" in text
    assert "export TAME_ONNXRUNTIME_LIBRARY=" in text


def test_of_two_directories_neither_is_printed():
    assert CliRunner().invoke(app, ["cpp", "--cmake-dir", "--include-dir"]).exit_code == 2


def test_the_versions_are_one():
    header = (CPP / "include/tame/tame.h").read_text()
    parts = [re.search(rf"TAME_VERSION_{p} (\d+)", header)[1] for p in ("MAJOR", "MINOR", "PATCH")]
    project = re.search(r"project\(tame VERSION ([\d.]+)", (CPP / "CMakeLists.txt").read_text())
    assert ".".join(parts) == project[1] == tame_deploy.__version__


def test_the_wheel_carries_what_is_needed_to_build(tmp_path):
    pytest.importorskip("hatchling")
    from hatchling.builders.wheel import WheelBuilder

    wheel = next(
        WheelBuilder(str(CPP.parent)).build(directory=str(tmp_path), versions=["standard"])
    )
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in ("CMakeLists.txt", "cmake/from-source/tameConfig.cmake", "include/tame/tame.h",
                   "src/api/opening.cpp", "examples/consumer/main.cpp"):  # fmt: skip
        assert f"tame_deploy/cpp/{wanted}" in names
    assert not any("/cpp/tests/" in name or "/cpp/fuzz/" in name for name in names)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return an install tree that was moved after it was installed."""
    build = built()
    folder = tmp_path_factory.mktemp("installed")
    run("cmake", "--install", build, "--prefix", folder / "first")
    return Path(shutil.move(folder / "first", folder / "moved"))


def test_nothing_but_the_c_functions_is_seen(installed):
    library = next(installed.glob("lib*/libtame.so"))
    names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()]
    header = (CPP / "include/tame/tame.h").read_text()
    declared = re.findall(r"^TAME_API .*?\b(tame_\w+)\(", header, re.MULTILINE)
    assert sorted(names) == sorted(declared)


def python_says(artifact: Path) -> tuple[str, Image.Image]:
    with tame_deploy.load(artifact, backend="onnxruntime") as explainer:
        found = explainer.explain(PICTURE)
    best = found.top(0)[0]
    return f"{best.name} {best.probability:.4f}\n", found.overlay(0)


def test_a_strangers_project_is_built_against_it(installed, demo_export, tmp_path):
    run("cmake", "-S", CONSUMER, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={installed}",
        "-DCMAKE_CXX_FLAGS=-O0")  # fmt: skip
    run("cmake", "--build", tmp_path)
    words, overlay = python_says(demo_export)
    shown = tmp_path / "overlay.ppm"
    assert run(tmp_path / "consumer", demo_export, PICTURE, shown) == words
    assert run(tmp_path / "consumer-c", demo_export, PICTURE) == words
    apart = np.asarray(Image.open(shown)).astype(int) - np.asarray(overlay)
    assert np.abs(apart).max() <= 1
    failed = subprocess.run([tmp_path / "consumer", tmp_path, PICTURE, shown],
                            capture_output=True, text=True, check=False)  # fmt: skip
    assert failed.returncode == 1
    assert failed.stderr.startswith("ManifestError: ")


def test_pkg_config_finds_it(installed, demo_export, tmp_path):
    folder = next(installed.glob("lib*/pkgconfig"))
    flags = run("pkg-config", "--cflags", "--libs", "tame", env={"PKG_CONFIG_PATH": str(folder),
                "PATH": "/usr/bin:/bin"}).split()  # fmt: skip
    program = tmp_path / "program"
    run("cc", "-std=c99", CONSUMER / "main.c", *flags, f"-Wl,-rpath,{folder.parent}", "-o", program)
    assert run(program, demo_export, PICTURE) == python_says(demo_export)[0]


def example_of(header: str, suffix: str) -> str:
    """Return the program that the comment on top of a header shows."""
    lines = (CPP / "include/tame" / header).read_text().splitlines()
    marks = (" *     ", "//     ")
    return "\n".join(line[7:] for line in lines[:40] if line.startswith(marks))


@pytest.mark.parametrize(
    ("header", "suffix", "compiler"),
    [("tame.h", "c", ["cc", "-std=c99"]), ("tame.hpp", "cpp", ["c++", "-std=c++17"])],
)
def test_the_headers_own_examples_run(installed, demo_export, tmp_path, header, suffix, compiler):
    source = tmp_path / f"example.{suffix}"
    source.write_text(example_of(header, suffix))
    library = next(installed.glob("lib*/libtame.so")).parent
    flags = [f"-I{installed}/include", f"-L{library}", "-ltame", f"-Wl,-rpath,{library}"]
    run(*compiler, "-Wall", "-Wextra", "-Werror", source, *flags, "-o", tmp_path / "example")
    (tmp_path / "build").mkdir()
    (tmp_path / "build/demo").symlink_to(demo_export)
    ring = Path(tame_deploy.__file__).parent / "data/pictures/ring-1.png"
    shutil.copy(ring, tmp_path / "ring.png")
    printed = run(tmp_path / "example", cwd=tmp_path)
    known = ["ring "] if suffix == "cpp" else (demo_export / "labels.txt").read_text().splitlines()
    assert printed.startswith(tuple(known))
