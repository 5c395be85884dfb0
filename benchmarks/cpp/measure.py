"""libtame beside the Python runtime: what each adds to ONNX Runtime, and how fast pictures are.

    python benchmarks/cpp/measure.py               # demo and ResNet-50; needs cmake and a compiler

One run builds libtame as it is shipped and takes turns between the two. What is added to the
backend's own run is told call by call, by timing it from inside: in C++ by a library that stands
before ONNX Runtime's, in Python by a function before the session's. ResNet-50's weights are random:
this is about speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnxruntime
from machine import machine_facts, write_results
from peers import make_artifact, settle
from reading import draw_files
from rich.console import Console
from rich.table import Table

from tame_deploy.picture.preprocess import load_image, prepare, prepare_batch
from tame_deploy.runtime.explain.explainer import Explainer
from tame_deploy.runtime.explain.load import load

HERE = Path(__file__).resolve().parent
LIBRARY = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
FIRST = (
    "import sys, tame_deploy;"
    "tame_deploy.load(sys.argv[1], backend='onnxruntime').explain(sys.argv[2])"
)


class Program:
    """The measuring program, built anew."""

    def __init__(self, folder: Path) -> None:
        build = ["cmake", "--build", str(folder), "--parallel", "--target", "measure",
                 "timed_onnxruntime"]  # fmt: skip
        configure = ["cmake", "-S", str(HERE), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"]
        for command in (configure, build):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self.path = folder / "measure"
        self._timed = folder / "libtimed_onnxruntime.so"

    def run(self, *arguments: object) -> dict[str, Any]:
        library = self._timed if arguments[0] == "overhead" else LIBRARY
        env = {
            **os.environ,
            "TAME_ONNXRUNTIME_LIBRARY": str(library),
            "TIMED_ONNXRUNTIME": str(LIBRARY),
        }
        command = [str(self.path), *map(str, arguments)]
        found: dict[str, Any] = json.loads(subprocess.check_output(command, env=env))
        return found


def timed(calls: int, work: Callable[[], object]) -> float:
    """Return the median of seconds, after some calls to warm up."""
    seconds = []
    for call in range(-min(20, calls), calls):
        start = time.perf_counter()
        work()
        if call >= 0:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def python_overhead(explainer: Explainer, picture: Any, calls: int) -> float:
    """Return the seconds that the Python runtime adds to a prepared batch of one."""
    spec = explainer.artifact.manifest.image
    pixels = np.asarray(prepare(picture, spec))[None]
    backend: Any = explainer.backend
    session, inside = backend._session, [0.0]

    class Timed:
        def run(self, *arguments: Any) -> Any:
            start = time.perf_counter()
            found = session.run(*arguments)
            inside[0] = time.perf_counter() - start
            return found

    own = []
    backend._session = Timed()
    for _ in range(calls):
        start = time.perf_counter()
        explainer._explain_prepared([picture], pixels, explainer.predictor.class_ids(1))
        own.append(time.perf_counter() - start - inside[0])
    backend._session = session
    return statistics.median(own)


def python_seconds(artifact: Path, picture: Any, calls: int) -> dict[str, float]:
    """Return the Python runtime's times for the same."""
    array = np.asarray(picture)
    with load(artifact, backend="onnxruntime") as explainer:
        spec = explainer.artifact.manifest.image
        return {
            "python_own_s": python_overhead(explainer, picture, calls),
            "python_explain_s": timed(calls, lambda: explainer.explain(array)),
            "python_prepare_s": timed(calls, lambda: prepare_batch([load_image(array)], spec)),
        }


def process_seconds(command: list[str], env: dict[str, str], times: int) -> float:
    """Return the median time of a process, from start to end."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=env)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measure(program: Program, artifact: Path, picture: Path, options: Any) -> dict[str, Any]:
    """Measure one artifact in rounds that take turns."""
    decoded = load_image(picture)
    calls = options.calls
    found: dict[str, list[float]] = {}

    def note(**values: float) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(value)

    for _ in range(options.rounds):
        cpp = program.run("overhead", artifact, calls)
        note(cpp_own_s=cpp["own_s"]["median"], cpp_share=cpp["share"]["median"])
        note(cpp_prepare_s=program.run("prepare", artifact, picture, calls)["median"])
        note(cpp_explain_s=program.run("explain", artifact, picture, calls)["median"])
        note(**python_seconds(artifact, decoded, calls))
        settle()
        env = {**os.environ, "TAME_ONNXRUNTIME_LIBRARY": str(LIBRARY)}
        first = [str(program.path), "first", str(artifact), str(picture)]
        started = [sys.executable, "-c", FIRST, str(artifact), str(picture)]
        note(
            cpp_first_s=process_seconds(first, env, 5),
            python_first_s=process_seconds(started, env, 3),
        )
    result: dict[str, Any] = {name: statistics.median(values) for name, values in found.items()}
    for name in ("own", "prepare", "explain", "first"):
        result[f"python_over_cpp_{name}"] = result[f"python_{name}_s"] / result[f"cpp_{name}_s"]
    return result


def show(results: dict[str, dict[str, Any]]) -> None:
    table = Table(title="median of rounds, batch 1")
    for title in ("model", "what", "libtame", "Python", "Python / libtame"):
        table.add_column(title, justify="left" if title in ("model", "what") else "right")
    words = {
        "own": "added to the backend's run",
        "prepare": "resize and crop 500x375",
        "explain": "pixels to explanation",
        "first": "process start to end, one JPEG",
    }
    for model, found in results.items():
        for name, what in words.items():
            cells = [f"{found[f'{side}_{name}_s'] * 1e3:.3f} ms" for side in ("cpp", "python")]
            table.add_row(model, what, *cells, f"{found[f'python_over_cpp_{name}']:.2f}")
        table.add_row(model, "share of the backend's run", f"{found['cpp_share']:.2%}", "", "")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = Program(folder / "build")
        picture = draw_files(folder, 1)[0]
        results = {
            backbone: measure(program, make_artifact(backbone, folder / backbone), picture, options)
            for backbone in ("demo", "resnet50")
        }
    show(results)
    facts = machine_facts("tame-deploy", "onnxruntime", "numpy", "pillow")
    shared = {"rounds": options.rounds, "calls": options.calls, "picture": "500x375, drawn, q90"}
    path = write_results("cpp", {"machine": facts, **shared, "models": results})
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
