"""Where the head's time goes, node by node, in the fused graph: ONNX Runtime's own profile.

    python benchmarks/head.py              # resnet50 and vgg16, batch 1 and 8, a minute

Nodes are called after the part they are of: `backbone`, `branches` (a convolution and its
activation for each layer) and `tail` (class rows, their products, resizes, sum and min-max).
Medians over runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from machine import machine_facts, write_results
from peers import make_artifact
from rich.console import Console

from tame_deploy.artifact.directory import open_artifact

RUNS = {1: 40, 8: 12}
PARTS = ("preprocess", "backbone", "branches", "tail")


def parts_of(model: Path) -> Callable[[str], str]:
    """Return what tells the part of a node; ONNX Runtime calls some after what they give out."""
    graph = onnx.load(model, load_external_data=False).graph
    parts = {output: node.name.partition("/")[0] for node in graph.node for output in node.output}

    def part_of(name: str) -> str:
        return parts.get(name.removesuffix("_nchwc"), name.partition("/")[0])

    return part_of


def profile(model: Path, shape: tuple[int, ...], runs: int, folder: str) -> dict[str, Any]:
    """Return milliseconds by part of the graph, and the tail's dearest nodes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.enable_profiling = True
    options.profile_file_prefix = f"{folder}/profile"
    session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    feeds = {"images": images, "class_ids": np.full((len(images), 1), -1, np.int64)}
    for _ in range(runs):
        session.run(None, feeds)
    times = defaultdict(list)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e3)
    medians = {name: statistics.median(found) for name, found in times.items()}
    part_of = parts_of(model)
    parts = {
        part: sum(ms for name, ms in medians.items() if part_of(name) == part) for part in PARTS
    }
    parts["shapes and reorders"] = sum(medians.values()) - sum(parts.values())
    tail = {name: ms for name, ms in medians.items() if part_of(name) == "tail"}
    dearest = dict(sorted(tail.items(), key=lambda item: -item[1])[:5])
    return {"ms": parts, "dearest_of_tail": dearest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "vgg16"])
    parser.add_argument("--no-write", action="store_true", help="show the results, keep none")
    options = parser.parse_args()
    console = Console(width=120, highlight=False)
    runs = []
    for backbone in options.backbones:
        with tempfile.TemporaryDirectory() as folder:
            artifact = open_artifact(make_artifact(backbone, Path(folder) / "artifact"))
            for batch, count in RUNS.items():
                shape: Any = artifact.manifest.image.input_shape(batch)
                found = profile(artifact.model, shape, count, folder)
                whole = sum(found["ms"].values())
                shares = {part: f"{ms / whole:.2%}" for part, ms in found["ms"].items()}
                console.print(f"{backbone}, batch {batch}, {whole:.1f} ms: {shares}")
                runs.append({"backbone": backbone, "batch": batch, **found})
    if not options.no_write:
        facts = machine_facts("tame-deploy", "onnxruntime")
        console.print(str(write_results("head", {"machine": facts, "runs": runs})))


if __name__ == "__main__":
    main()
