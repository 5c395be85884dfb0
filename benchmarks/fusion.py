"""What an explanation costs: plain backbone, fused graph and the reference's graph in one run.

    python benchmarks/fusion.py                    # resnet50 and vgg16, batch 1 and 8

All three take the same uint8 pictures and run on ONNX Runtime with the same threads, interleaved:
every round times each graph once, in an order that changes, so that a noisy moment hits all. The
reference's graph computes what the published code does: every branch upsampled, every class's map,
one kept. Weights are random; they do not change the speed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from machine import machine_facts, write_results
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.onnx_graph import quiet_exporter
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.fused import Finish, Preprocess
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network


class Plain(nn.Module):
    """The classifier alone."""

    def __init__(self, network: ExplainedNetwork) -> None:
        super().__init__()
        self.preprocess = Preprocess(network.backbone.image)
        self.classify = network.backbone.module

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.preprocess(images))


class Reference(nn.Module):
    """The head as published: all branches upsampled, all class maps, the predicted one kept."""

    def __init__(self, network: ExplainedNetwork) -> None:
        super().__init__()
        self.preprocess = Preprocess(network.backbone.image)
        self.network = network
        self.finish = Finish("minmax")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, maps = self.network(self.preprocess(images))
        chosen = logits.argmax(1)[:, None, None, None].expand(-1, 1, *maps.shape[2:])
        return logits, self.finish(maps.gather(1, chosen))


def export_plainly(module: nn.Module, example: Tensor, path: Path) -> None:
    """Export a module with the same exporter and optimizer as the fused graph."""
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            opset_version=18,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)


def make_graphs(backbone: str, folder: Path) -> dict[str, Path]:
    """Export the three graphs of a backbone."""
    loaded = load_backbone(BackboneRequest(backbone, "random"))
    network = build_network(loaded, HeadRequest("random"))
    image = loaded.image
    example = torch.zeros(2, image.height, image.width, 3, dtype=torch.uint8)
    paths = {name: folder / f"{name}.onnx" for name in ("plain", "reference")}
    export_plainly(Plain(network), example, paths["plain"])
    export_plainly(Reference(network), example, paths["reference"])
    artifact = export_artifact(network, folder / "fused", ExportOptions())
    return {"plain": paths["plain"], "fused": artifact.model, "reference": paths["reference"]}


def runner(path: Path, pixels: np.ndarray) -> Callable[[], Any]:
    """Return a function that runs the graph once."""
    options = ort.SessionOptions()
    # One pool for all: idle threads of a session spin, and would slow its rivals down.
    options.use_per_session_threads = False
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {"images": pixels}
    if len(session.get_inputs()) == 2:
        feeds["class_ids"] = np.full((len(pixels), 1), -1, np.int64)
    return lambda: session.run(None, feeds)


def measure(runners: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds a call, a list per graph, one entry a round."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        run()
    for _ in range(rounds):
        for name in random.sample(list(runners), len(runners)):
            start = time.perf_counter()
            runners[name]()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def summarise(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians and ratios of medians, with the quartiles of the rounds' own ratios."""
    median = {name: statistics.median(values) for name, values in times.items()}

    def ratio(above: str, below: str) -> dict[str, float]:
        rounds = [a / b for a, b in zip(times[above], times[below], strict=True)]
        low, _, high = statistics.quantiles(rounds, n=4)
        return {"ratio": median[above] / median[below], "quartiles": [low, high]}

    return {
        "median_ms": median,
        "fused_over_plain": ratio("fused", "plain"),
        "reference_over_plain": ratio("reference", "plain"),
        "reference_over_fused": ratio("reference", "fused"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "vgg16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=40, help="for each backbone and batch")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    ort.set_global_thread_pool_sizes(options.threads, 1)
    table = Table("backbone", "batch", "plain ms", "fused ms", "reference ms",
                  "fused / plain", "reference / fused")  # fmt: skip
    measured = []
    for backbone in options.backbones:
        with tempfile.TemporaryDirectory() as folder:
            # In a process of its own: the check at the end of an export needs a pool of its own.
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as exporter:
                graphs = exporter.submit(make_graphs, backbone, Path(folder)).result()
            for batch in options.batches:
                generator = np.random.default_rng(0)
                pixels = generator.integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
                runners = {n: runner(p, pixels) for n, p in graphs.items()}
                once = sum(measure(runners, 2)[name][-1] for name in runners) / 1e3
                rounds = max(8, round(options.seconds / once))
                row = summarise(measure(runners, rounds))
                measured.append({"backbone": backbone, "batch": batch, "rounds": rounds, **row})
                cells = [f"{value:.1f}" for value in row["median_ms"].values()]
                for key in ("fused_over_plain", "reference_over_fused"):
                    low, high = row[key]["quartiles"]
                    cells.append(f"{row[key]['ratio']:.3f} ({low:.2f} to {high:.2f})")
                table.add_row(backbone, str(batch), *cells)
    facts = machine_facts("tame-deploy", "torch", "onnxruntime", "onnx")
    path = write_results("fusion", {"machine": facts, "threads": options.threads, "runs": measured})
    console = Console()
    console.print(table)
    console.print(f"{facts['processor']}, {options.threads} threads; {path}")


if __name__ == "__main__":
    main()
