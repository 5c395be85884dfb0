"""What a training step costs: class rows gathered, against every class's map, against the bound.

    python benchmarks/training.py           # resnet50, batch 16; a GPU is used if there is one

Three steps on the same pictures, weights and loss, each in a process of its own, in turns:
`plain` computes every class's map at full width, as the published code does, and masks through
the backbone as it is; `ours` is what `tame-deploy train` does; `bound` is ours without any head:
the backbone twice and one backward pass through it, which no way of computing maps can avoid.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from machine import machine_facts, write_results
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.head import resize_map
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.training.losses import LossConfig, map_losses
from tame_deploy.training.step import MaskedStep

MODES = ("plain", "ours", "bound")


def make_step(mode: str, backbone: str, device: torch.device) -> tuple[MaskedStep, Any]:
    """Return a step, and the function that takes pixels and gives its loss terms."""
    network = build_network(
        load_backbone(BackboneRequest(backbone, "random")), HeadRequest("random")
    )
    head = network.head.requires_grad_(True).train().to(device)
    step = MaskedStep(network, LossConfig())
    if mode == "plain":
        step.masked_backbone = network.backbone.module
        head.class_maps = lambda features, class_ids: head(features)[:, class_ids]
    step.to(device)

    def bound(pixels: Tensor) -> Any:
        images = pixels.float() / 255
        _, labels = step.look(images)
        maps = torch.full((len(pixels), 1, 28, 28), 0.5, device=device, requires_grad=True)
        masked = step.classify(images * resize_map(maps, step.size))
        return map_losses(step.config, maps, masked, labels)

    return step, bound if mode == "bound" else lambda pixels: step.losses(pixels)[0]


def child(options: argparse.Namespace) -> None:
    """Time steps of one mode and print what was seen as JSON."""
    torch.set_flush_denormal(True)
    torch.backends.cudnn.allow_tf32 = False  # else a GPU rounds the two forms differently
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step, losses = make_step(options.child, options.backbone, device)
    generator = torch.Generator().manual_seed(0)
    size = (options.batch, 3, *step.size)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).to(device)
    times, terms = [], []
    for _ in range(options.steps + 1):
        step.network.head.zero_grad()
        start = time.perf_counter()
        found = losses(pixels)
        found.total.backward()
        terms = [float(term.detach()) for term in found]  # waits for a GPU, too
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    # The process's peak includes torch itself, which all three carry alike.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": times[1:], "terms": terms, "peak_bytes": peak}))


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run every mode in turn, several rounds."""
    found: dict[str, dict[str, Any]] = {mode: {"seconds": [], "peaks": []} for mode in MODES}
    for turn in range(options.rounds):
        for mode in MODES if turn % 2 == 0 else reversed(MODES):
            command = [sys.executable, __file__, "--child", mode, "--backbone", options.backbone,
                       "--batch", str(options.batch), "--steps", str(options.steps)]  # fmt: skip
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            run = json.loads(output.strip().splitlines()[-1])
            found[mode]["seconds"] += run["seconds"]
            found[mode]["peaks"].append(run["peak_bytes"])
            found[mode]["terms"] = run["terms"]
    return found


def summarise(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return medians, and ratios between the modes."""
    seconds = {mode: statistics.median(run["seconds"]) for mode, run in found.items()}
    peaks = {mode: statistics.median(run["peaks"]) / 1e9 for mode, run in found.items()}
    plain, ours = found["plain"]["terms"][0], found["ours"]["terms"][0]
    return {
        "seconds_a_step": seconds,
        "peak_gb": peaks,
        "plain_over_ours_time": seconds["plain"] / seconds["ours"],
        "ours_over_plain_peak": peaks["ours"] / peaks["plain"],
        "ours_over_bound_time": seconds["ours"] / seconds["bound"],
        "ours_over_bound_peak": peaks["ours"] / peaks["bound"],
        "plain_over_bound_time": seconds["plain"] / seconds["bound"],
        "loss_terms": {mode: found[mode]["terms"] for mode in ("plain", "ours")},
        "relative_loss_difference": abs(plain - ours) / plain,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="timed, a process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    summary = summarise(measure(options))
    facts = machine_facts("tame-deploy", "torch")
    name = "training"
    if torch.cuda.is_available():
        name = "training-gpu"
        facts["gpu"] = torch.cuda.get_device_name()
    settings = {"backbone": options.backbone, "batch": options.batch,
                "threads": len(os.sched_getaffinity(0))}  # fmt: skip
    path = write_results(name, {"machine": facts, **settings, **summary})
    table = Table("", *MODES, "plain / ours", "ours / bound")
    times, peaks = summary["seconds_a_step"], summary["peak_gb"]
    table.add_row("seconds a step", *(f"{times[mode]:.2f}" for mode in MODES),
                  f"{summary['plain_over_ours_time']:.2f}",
                  f"{summary['ours_over_bound_time']:.2f}")  # fmt: skip
    table.add_row("peak memory, GB", *(f"{peaks[mode]:.2f}" for mode in MODES),
                  f"{1 / summary['ours_over_plain_peak']:.2f}",
                  f"{summary['ours_over_bound_peak']:.2f}")  # fmt: skip
    console = Console()
    console.print(table)
    difference = summary["relative_loss_difference"]
    console.print(f"relative difference of the losses: {difference:.1e}; {path}")


if __name__ == "__main__":
    main()
