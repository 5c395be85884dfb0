"""`cpp`: where libtame's sources are, and how a C or C++ project takes them."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from tame_deploy.cli.screen import console
from tame_deploy.errors import MissingExtraError

#: What `cpp` and `doctor` say of libtame until its plugin has run on a GPU.
EXPERIMENTAL = "its TensorRT plugin is experimental: it has not run on a GPU yet"
#: What libtame is built with, and Debian's packages that have it.
_TOOLS = {"cmake": "cmake", "c++": "g++"}
_LIBRARIES = "nlohmann-json3-dev nettle-dev libjpeg-dev libpng-dev"
#: The variable that names a backend's library, and where its Python package has it.
_BACKENDS = {
    "TAME_ONNXRUNTIME_LIBRARY": ("onnxruntime", "capi/libonnxruntime.so*"),
    "TAME_OPENVINO_LIBRARY": ("openvino", "libs/libopenvino_c.so*"),
}


def cpp(
    cmake_dir: Annotated[
        bool, typer.Option("--cmake-dir", help="Print the directory for CMake's tame_DIR.")
    ] = False,
    include_dir: Annotated[
        bool, typer.Option("--include-dir", help="Print the directory of the headers.")
    ] = False,
    source_dir: Annotated[
        bool, typer.Option("--source-dir", help="Print the directory of the sources.")
    ] = False,
) -> None:
    """Say where libtame is, the runtime for C and C++, and how to build with it.

    Its TensorRT plugin is experimental: it has not run on a GPU yet.
    """
    asked = [cmake_dir, include_dir, source_dir]
    if sum(asked) > 1:
        raise typer.BadParameter("found several of --cmake-dir, --include-dir and --source-dir")
    sources = find_sources()
    if not any(asked):
        _explain(sources)
        return
    folder = "cmake/from-source" if cmake_dir else "include" if include_dir else "."
    print(sources / folder)  # alone on its line, for scripts


def find_sources() -> Path:
    """Return the directory of libtame's sources: in the package, or beside it in a clone.

    Raises:
        MissingExtraError: if they are in neither.
    """
    package = Path(__file__).resolve().parents[1]
    for place in (package / "cpp", package.parent / "cpp"):
        if (place / "CMakeLists.txt").is_file():
            return place
    raise MissingExtraError(
        f"this installation has no C++ sources: found none in {package / 'cpp'}. "
        "Install tame-deploy again from a wheel, or take a clone"
    )


def _explain(sources: Path) -> None:
    def line(title: str, text: str) -> None:
        console.print(f"{title:10} {text}", soft_wrap=True, highlight=False, markup=False)

    line("libtame", str(sources))
    line("in CMake", "find_package(tame 0.1 REQUIRED) and tame::tame, configured with")
    line("", '-Dtame_DIR="$(tame-deploy cpp --cmake-dir)"')
    line("install", f"cmake -S {shlex.quote(str(sources))} -B build/libtame")
    line("", "cmake --build build/libtame --parallel")
    line("", "cmake --install build/libtame --prefix PREFIX")
    tools = {tool: shutil.which(tool) for tool in _TOOLS}
    line("tools", ", ".join(f"{tool}: {place or 'not found'}" for tool, place in tools.items()))
    needed = [_TOOLS[tool] for tool, place in tools.items() if place is None]
    line("needs", f"apt-get install {' '.join([*needed, _LIBRARIES])}   (Debian, Ubuntu)")
    found = {name: _library(*where) for name, where in _BACKENDS.items()}
    for variable, library in found.items():
        if library is not None:
            line("runs on", f"export {variable}={shlex.quote(str(library))}")
    if not any(found.values()):
        line("runs on", "nothing yet: pip install 'tame-deploy[cpu]'")
    line("GPUs", EXPERIMENTAL)


def _library(module: str, pattern: str) -> Path | None:
    """Return the shared library that a Python package brings, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob(pattern))), None)
