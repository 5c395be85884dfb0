"""What OpenVINO's bfloat16 does to maps, and what it gains over ONNX Runtime's float32.

    python benchmarks/bfloat16.py SHARED      # the real SqueezeNet, its head, 256 pictures

Judged as `tame-deploy verify --backend openvino --precision bf16 --images` does, by the floor that
a quantized graph is held to. Timed in turns, each round opening every backend anew.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_facts, write_results
from quantization import export
from rich.console import Console

from tame_deploy.artifact.directory import Artifact
from tame_deploy.calibration.observing.choice import (
    PicturesToChooseFrom,
    choose_pictures,
    evaluation_set,
)
from tame_deploy.data.sources import PictureSource, open_pictures
from tame_deploy.engine.verify import verify_backend
from tame_deploy.metrics.evaluation_set import EvaluationSet
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.selection.selection import open_backend

CONTESTANTS: dict[str, tuple[str, Any]] = {
    "onnxruntime fp32": ("onnxruntime", None),
    "openvino fp32": ("openvino", "fp32"),
    "openvino bf16": ("openvino", "bf16"),
}
ROUNDS, SECONDS = 7, 2.0


def held_out(artifact: Artifact, shared: Path, count: int) -> EvaluationSet:
    """Return pictures to measure fidelity on."""
    data = shared / "data"
    listed = PictureSource(str(data / "imagenet-sample.csv"), str(data / "imagenet-sample"))
    pictures = open_pictures(listed, 1000, artifact.read_labels())
    source = PicturesToChooseFrom(pictures, "imagenet-sample", artifact.manifest.image)
    chosen, _ = choose_pictures(source, count, 0)
    return evaluation_set(artifact.manifest, source, chosen)


def milliseconds(artifact: Artifact, name: str, batch: int) -> float:
    """Return the median of one call, on a backend opened for it."""
    backend_name, precision = CONTESTANTS[name]
    options = BackendOptions(threads=len(os.sched_getaffinity(0)), precision=precision)
    spec = artifact.manifest.image
    rng = np.random.default_rng(0)
    feeds = {
        "images": rng.integers(0, 256, spec.input_shape(batch), np.uint8),
        "class_ids": np.full((batch, 1), -1, np.int64),
    }
    times = []
    with open_backend(artifact, backend_name, options) as backend:
        for _ in range(3):
            backend.run(feeds)
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            start = time.perf_counter()
            backend.run(feeds)
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def speeds(artifact: Artifact, rounds: int) -> dict[str, Any]:
    """Return how many times faster than the first each is, by batch size."""
    found: dict[str, Any] = {}
    for batch in (1, 8):
        times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
        for _ in range(rounds):
            for name in random.sample(list(CONTESTANTS), len(CONTESTANTS)):
                times[name].append(milliseconds(artifact, name, batch))
        first = times[next(iter(CONTESTANTS))]
        for name, values in times.items():
            ratios = [a / b for a, b in zip(first, values, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            row = {"speedup": middle, "quartiles": [low, high], "ms": statistics.median(values)}
            found.setdefault(name, {})[f"batch_{batch}"] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared", type=Path, help="folder with data/ (see CONTRIBUTING.md)")
    parser.add_argument("--judge", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-write", action="store_true", help="show the results, keep none")
    options = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        artifact = export("squeezenet1_1", options.shared, Path(folder) / "squeezenet")
        pictures = held_out(artifact, options.shared, options.judge)
        bf16: Any = BackendOptions(precision="bf16")
        with open_backend(artifact, "openvino", bf16) as backend:
            verdict = verify_backend(
                artifact, backend, [1], arithmetic="bf16", held_out=(pictures, artifact)
            )
        verdict.check()
        fidelity = asdict(verdict.fidelity["1"])
        found = speeds(artifact, options.rounds)
    for key in ("top1_agreement", "pearson_mean", "pearson_5th", "iou_15", "iou_50"):
        console.print(f"{key}: {fidelity[key]:.4f}")
    for name, row in found.items():
        console.print(name, {batch: round(one["speedup"], 2) for batch, one in row.items()})
    if not options.no_write:
        facts = machine_facts("tame-deploy", "onnxruntime", "openvino")
        results = {"machine": facts, "backbone": "squeezenet1_1", "floor": asdict(verdict.floor),
                   "fidelity": fidelity, "backends": found}  # fmt: skip
        console.print(str(write_results("bfloat16", results)))


if __name__ == "__main__":
    main()
