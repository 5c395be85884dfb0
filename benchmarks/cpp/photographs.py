"""Large photographs through libtame's `explain` and Python's `stream`: one thread, and several.

    python benchmarks/cpp/photographs.py     # 32 JPEG files of 12 megapixels; the demo's network

The files are in memory, so this is decoding, resizing and explaining. Each round runs all of them
on each side with each number of threads, in an order that changes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from machine import machine_facts, write_results
from measure import Program
from peers import make_artifact, settle
from PIL import Image
from rich.console import Console
from rich.table import Table

from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.explain.load import load

SIZE, QUALITY = (4000, 3000), 90


def draw_photograph(path: Path, seed: int) -> Path:
    """Save noise of every scale, as photographs have it: coarse is strong, fine is faint."""
    generator = np.random.default_rng(seed)
    picture = np.full((SIZE[1], SIZE[0], 3), 128, np.float32)
    for cells, strength in ((4, 60), (16, 40), (64, 25), (256, 14), (1000, 7), (4000, 3)):
        shape = (max(cells * SIZE[1] // SIZE[0], 2), cells, 3)
        noise = Image.fromarray(generator.integers(0, 256, shape, np.uint8))
        spread = np.asarray(noise.resize(SIZE, Image.Resampling.BICUBIC), np.float32)
        picture += (spread - 128) * (strength / 74)
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
    return path


def cpp_seconds(program: Program, artifact: Path, paths: list[Path], threads: int) -> float:
    """Return the time of one call of libtame for all files."""
    seconds: float = program.run("files", artifact, threads, *paths)["median"]
    return seconds


def python_seconds(artifact: Path, paths: list[Path], threads: int) -> float:
    """Return the time of Python's stream over the same bytes, after one pass to warm up."""
    files = [path.read_bytes() for path in paths]
    chosen: Any = BackendOptions(threads=threads)
    with load(artifact, backend="onnxruntime", options=chosen) as explainer:
        for _ in range(2):
            settle()
            start = time.perf_counter()
            count = sum(1 for _ in explainer.stream(files, workers=threads))
            seconds = time.perf_counter() - start
            assert count == len(files)
    return seconds


def measure(program: Program, artifact: Path, paths: list[Path], options: Any) -> dict[str, Any]:
    """Return the median seconds of each side by its threads, and what the threads are worth."""
    runs = [(side, threads) for side in ("cpp", "python") for threads in (1, options.threads)]
    seconds: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
    for _ in range(options.rounds):
        for side, threads in random.sample(runs, len(runs)):
            if side == "cpp":
                found = cpp_seconds(program, artifact, paths, threads)
            else:
                found = python_seconds(artifact, paths, threads)
            seconds[side, threads].append(found)
    result: dict[str, Any] = {}
    for side in ("cpp", "python"):
        one, several = (statistics.median(seconds[side, count]) for count in (1, options.threads))
        ratios = [
            a / b for a, b in zip(seconds[side, 1], seconds[side, options.threads], strict=True)
        ]
        result[side] = {
            "one_thread_s": one,
            "several_threads_s": several,
            "gain": statistics.median(ratios),
            "gains": [min(ratios), max(ratios)],
        }
    return result


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the table."""
    title = f"{options.count} JPEG files of {SIZE[0]}x{SIZE[1]}, the demo's network, batch 8"
    table = Table("", "1 thread", f"{options.threads} threads", "gain", title=title)
    for side, name in (("cpp", "libtame, explain"), ("python", "Python, stream")):
        row = found[side]
        rates = (options.count / row[f"{kind}_s"] for kind in ("one_thread", "several_threads"))
        low, high = row["gains"]
        gain = f"{row['gain']:.2f}x ({low:.2f} to {high:.2f})"
        table.add_row(name, *(f"{rate:.1f} pictures/s" for rate in rates), gain)
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of JPEG files of your own")
    parser.add_argument("--count", type=int, default=32, help="how many pictures")
    parser.add_argument("--threads", type=int, default=2, help="beside one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-write", action="store_true", help="show the results, keep none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.images is None:
            paths = [draw_photograph(folder / f"{n:03}.jpg", n) for n in range(options.count)]
        else:
            paths = sorted(options.images.glob("*.jp*g"))[: options.count]
            options.count = len(paths)
        artifact = make_artifact("demo", folder / "artifact")
        found = measure(Program(folder / "build"), artifact, paths, options)
        size = statistics.mean(path.stat().st_size for path in paths)
    show(found, options)
    if options.no_write:
        return
    facts = machine_facts("tame-deploy", "onnxruntime", "numpy", "pillow")
    source = "own files" if options.images else f"drawn, {SIZE[0]}x{SIZE[1]}, q{QUALITY}"
    shared = {"pictures": options.count, "source": source, "mean_bytes": round(size)}
    results = {"machine": facts, **shared, "threads": options.threads, "rounds": options.rounds}
    print(f"wrote {write_results('cpp_photographs', {**results, **found})}")


if __name__ == "__main__":
    main()
