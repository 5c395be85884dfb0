"""What strangers get: the command, the wheel, the install tree, and projects that find libtame."""

from __future__ import annotations

import os
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
from tame_deploy.cli import cpp
from tame_deploy.cli.app import app
from tame_deploy.errors import MissingExtraError
from tests.cpp.build import CPP, built, need_a_build

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
    assert "TensorRT plugin is experimental: it has not run on a GPU yet" in text
    assert "experimental" in said("--help")


def test_of_two_directories_neither_is_printed():
    assert CliRunner().invoke(app, ["cpp", "--cmake-dir", "--include-dir"]).exit_code == 2


def test_the_command_names_what_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(cpp, "_BACKENDS", {"TAME_X_LIBRARY": ("no_such_module", "*")})
    text = said()
    assert "cmake: not found, c++: not found" in text
    assert "apt-get install cmake g++ nlohmann-json3-dev" in text
    assert "pip install 'tame-deploy[cpu]'" in text


def test_an_installation_without_sources_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(cpp, "__file__", str(tmp_path / "tame_deploy" / "cli" / "cpp.py"))
    with pytest.raises(MissingExtraError, match=r"found none in .*cpp\. Install tame-deploy again"):
        cpp.find_sources()


def test_the_versions_are_one():
    header = (CPP / "include/tame/tame.h").read_text()
    parts = [re.search(rf"TAME_VERSION_{p} (\d+)", header)[1] for p in ("MAJOR", "MINOR", "PATCH")]
    project = re.search(r"project\(tame VERSION ([\d.]+)", (CPP / "CMakeLists.txt").read_text())
    assert ".".join(parts) == project[1] == tame_deploy.__version__


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    wheel = next(WheelBuilder(str(CPP.parent)).build(directory=str(folder), versions=["standard"]))
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_carries_what_is_needed_to_build(unpacked_wheel):
    carried = unpacked_wheel / "tame_deploy" / "cpp"
    for wanted in ("CMakeLists.txt", "cmake/from-source/tameConfig.cmake", "include/tame/tame.h",
                   "src/api/opening.cpp", "examples/consumer/main.cpp"):  # fmt: skip
        assert (carried / wanted).is_file()
    assert not (carried / "tests").exists()
    assert not (carried / "fuzz").exists()
    assert not (unpacked_wheel / "cpp").exists()


@pytest.mark.parametrize(
    ("project", "arguments"),
    [(CPP, []), (CONSUMER, [f"-Dtame_DIR={CPP / 'cmake' / 'from-source'}"])],
)
def test_missing_libraries_are_named_with_their_packages(project, arguments, tmp_path):
    need_a_build()
    without = [f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON" for name in ("Nettle", "PNG")]
    done = subprocess.run(["cmake", "-S", project, "-B", tmp_path, *arguments, *without],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode != 0
    said_at_once = " ".join(done.stderr.split())
    assert re.search(r"libtame needs .*Nettle.*PNG.*apt-get install .*nettle-dev libpng-dev",
                     said_at_once)  # fmt: skip


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
    best = found[0].top()[0]
    return f"{best.name} {best.probability:.4f}\n", found[0].overlay()


def build_consumer(folder: Path, *arguments: str) -> Path:
    # Where ccache is the launcher, it knows the sources again in the next run's temporary folder.
    env = {**os.environ, "CCACHE_BASEDIR": str(folder.parents[1]), "CCACHE_NOHASHDIR": "1"}
    if shutil.which("clang++"):  # another compiler than that of `make cpp`, and twice as fast
        env |= {"CC": "clang", "CXX": "clang++"}
    run("cmake", "-S", CONSUMER, "-B", folder, "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0",
        *arguments, env=env)  # fmt: skip
    run("cmake", "--build", folder, "--parallel", "2", env=env)
    return folder


def test_a_strangers_project_is_built_against_it(installed, demo_export, tmp_path):
    build_consumer(tmp_path, f"-DCMAKE_PREFIX_PATH={installed}")
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


def test_it_is_found_where_it_was_built(demo_export, tmp_path):
    folder = build_consumer(tmp_path, f"-Dtame_DIR={built()}")
    assert run(folder / "consumer-c", demo_export, PICTURE) == python_says(demo_export)[0]


def test_another_minor_version_is_not_taken(installed, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(p LANGUAGES C)\n"
        "foreach(v 0.0 0.1 0.1.0 0.1.1 0.2 1.0)\n  find_package(tame ${v} QUIET PATHS ${PLACE})\n"
        '  message("${v} ${tame_FOUND}")\n  unset(tame_DIR CACHE)\nendforeach()\n'
    )
    config = next(installed.glob("lib*/cmake/tame"))
    for place in (config, CPP / "cmake" / "from-source"):
        command = ["cmake", "-S", project, "-B", tmp_path / place.name, f"-DPLACE={place}"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        taken = re.findall(r"^([\d.]+) (?:1|TRUE)$", found, re.MULTILINE)
        assert taken == ["0.1", "0.1.0"], found


@pytest.mark.timeout(600)
def test_a_strangers_project_builds_it_from_the_wheel(unpacked_wheel, demo_export, tmp_path):
    need_a_build()
    place = unpacked_wheel / "tame_deploy" / "cpp" / "cmake" / "from-source"
    build_consumer(tmp_path, f"-DCMAKE_PREFIX_PATH={place}")
    cache = (tmp_path / "CMakeCache.txt").read_text()
    assert "BUILD_SHARED_LIBS" not in cache, "the project's own affair"
    assert not (tmp_path / "CPackConfig.cmake").exists()
    assert not list(tmp_path.rglob("libtame.so*"))
    words, _ = python_says(demo_export)
    assert run(tmp_path / "consumer", demo_export, PICTURE, tmp_path / "shown.ppm") == words
    assert run(tmp_path / "consumer-c", demo_export, PICTURE) == words


@pytest.mark.skipif(
    not all(map(shutil.which, ("dpkg-shlibdeps", "file"))), reason="needs dpkg-dev and file"
)
def test_debian_packages_hold_what_debian_expects(demo_export, tmp_path):
    run("cpack", "-G", "DEB", "-B", tmp_path, cwd=built())
    version = tame_deploy.__version__
    fields = {}
    for name in ("libtame0.1", "libtame-dev"):
        package = next(tmp_path.glob(f"{name}_{version}-1_*.deb"))
        fields[name] = run("dpkg-deb", "--field", package)
        run("dpkg", "--extract", package, tmp_path / "root")
    assert f"\nDepends: libtame0.1 (= {version}-1)\n" in fields["libtame-dev"]
    assert re.search(r"\nDepends: .*libc6 .*libpng16", fields["libtame0.1"])
    for name in fields:
        documents = tmp_path / "root/usr/share/doc" / name
        assert {file.name for file in documents.iterdir()} == {"changelog.Debian.gz", "copyright"}
    folder = next((tmp_path / "root/usr/lib").glob("*-linux-*"), tmp_path / "root/usr/lib")
    assert {file.name for file in folder.iterdir()} == {
        "cmake", "libtame.so", "libtame.so.0.1", f"libtame.so.{version}", "pkgconfig",
    }  # fmt: skip
    program = compile_by_pkg_config(folder / "pkgconfig", tmp_path)
    assert run(program, demo_export, PICTURE) == python_says(demo_export)[0]


def compile_by_pkg_config(folder: Path, place: Path) -> Path:
    # Of other libraries' files, it sees none: a shared library brings its own.
    alone = {"PKG_CONFIG_LIBDIR": str(folder), "PATH": os.environ["PATH"]}
    flags = run("pkg-config", "--cflags", "--libs", "tame", env=alone).split()
    program = place / "program"
    run("cc", "-std=c99", CONSUMER / "main.c", *flags, f"-Wl,-rpath,{folder.parent}", "-o", program)
    return program


def test_pkg_config_finds_it(installed, demo_export, tmp_path):
    program = compile_by_pkg_config(next(installed.glob("lib*/pkgconfig")), tmp_path)
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
