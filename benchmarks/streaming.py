"""What `Explainer.stream` keeps of the model's own throughput, from JPEG files.

    python benchmarks/streaming.py                 # ResNet-50, drawn pictures of 500x375
    python benchmarks/streaming.py --images DIR    # JPEG files of your own

A round runs the same files twice on each backend, in an order that changes: as batches that were
prepared before (the model's own throughput), and through the stream, which reads, resizes, explains
and cuts up the answers. Weights are random: this is about speed.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_facts, write_results
from peers import OURS, make_artifact, settle
from reading import QUALITY, SIZE, draw_files
from rich.console import Console
from rich.table import Table

from tame_deploy.errors import BackendError
from tame_deploy.picture.preprocess import load_image, prepare_batch
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.explain.explainer import Explainer
from tame_deploy.runtime.explain.load import load


def own_run(explainer: Explainer, paths: list[Path], batch: int) -> Callable[[], None]:
    """Return the model alone on what is ready in memory."""
    spec = explainer.artifact.manifest.image
    pixels = prepare_batch([load_image(path) for path in paths], spec)
    likeliest = np.full((len(paths), 1), -1, np.int64)

    def run() -> None:
        for start in range(0, len(paths), batch):
            rows = slice(start, start + batch)
            explainer.backend.run({"images": pixels[rows], "class_ids": likeliest[rows]})

    return run


def stream_run(explainer: Explainer, paths: list[Path], batch: int) -> Callable[[], None]:
    """Return the whole way from files to explanations."""

    def run() -> None:
        count = sum(1 for _ in explainer.stream(paths, batch_size=batch))
        assert count == len(paths)

    return run


def seconds_of(run: Callable[[], None]) -> float:
    """Return how long a run takes, once nothing else of this process runs."""
    settle()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(explainer: Explainer, paths: list[Path], options: argparse.Namespace) -> dict[str, Any]:
    """Return pictures a second of both, and the share that is kept, by rounds."""
    runs = {
        "model": own_run(explainer, paths, options.batch),
        "stream": stream_run(explainer, paths, options.batch),
    }
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name in random.sample(list(runs), len(runs)):
            times[name].append(seconds_of(runs[name]))
    kept = [own / whole for own, whole in zip(times["model"], times["stream"], strict=True)]
    low, middle, high = statistics.quantiles(kept, n=4)
    rates = {
        f"{name}_pictures_per_s": len(paths) / statistics.median(values)
        for name, values in times.items()
    }
    return {**rates, "kept": middle, "quartiles": [low, high]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--images", type=Path, help="a folder of JPEG files")
    parser.add_argument("--count", type=int, default=96, help="how many pictures")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-write", action="store_true", help="show the results, keep none")
    parser.add_argument("--smoke", action="store_true", help="the demo's network, nothing written")
    options = parser.parse_args()
    if options.smoke:
        options.backbone, options.count, options.rounds = "demo", 16, 3
    threads = len(os.sched_getaffinity(0))
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        artifact = make_artifact(options.backbone, Path(folder) / "artifact")
        if options.images is None:
            paths = draw_files(Path(folder), options.count)
        else:
            paths = sorted(options.images.glob("*.jp*g"))[: options.count]
        for name, (backend, precision) in OURS.items():
            chosen: Any = BackendOptions(threads=threads, precision=precision)  # type: ignore[arg-type]
            try:
                with load(artifact, backend=backend, options=chosen) as explainer:
                    rows[name.removeprefix("tame-deploy ")] = measure(explainer, paths, options)
            except BackendError as error:  # no bfloat16 here, or not installed
                rows[name.removeprefix("tame-deploy ")] = {"left_out": str(error)}
    show(rows, options, len(paths))


def show(rows: dict[str, Any], options: argparse.Namespace, pictures: int) -> None:
    """Print the table, and keep it."""
    console = Console(width=120)
    title = f"{options.backbone}, {pictures} pictures, batch {options.batch}"
    table = Table("backend", "model, pictures/s", "stream, pictures/s", "kept", title=title)
    for name, row in rows.items():
        if "left_out" in row:
            console.print(f"left out: {name}: {row['left_out']}")
            continue
        low, high = row["quartiles"]
        rates = (f"{row[f'{kind}_pictures_per_s']:.1f}" for kind in ("model", "stream"))
        table.add_row(name, *rates, f"{row['kept']:.1%} ({low:.1%} to {high:.1%})")
    console.print(table)
    facts = machine_facts("tame-deploy", "onnxruntime", "openvino", "pillow")
    console.print(facts["processor"])
    if not (options.smoke or options.no_write):
        source = "own files" if options.images else f"drawn, {SIZE[0]}x{SIZE[1]}, q{QUALITY}"
        results = {
            "machine": facts, "backbone": options.backbone, "weights": "random: speed only",
            "pictures": pictures, "source": source, "batch": options.batch,
            "rounds": options.rounds, "backends": rows,
        }  # fmt: skip
        console.print(str(write_results("streaming", results)))


if __name__ == "__main__":
    main()
