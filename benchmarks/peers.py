"""What a picture's explanation costs: the fused artifact beside other ways to explain, in one run.

    python benchmarks/peers.py                     # resnet50 and vgg16, batch 1; most of an hour
    python benchmarks/peers.py --slow-rounds 0     # without Score-CAM and RISE: minutes
    python benchmarks/peers.py --smoke             # the demo's network, nothing written

Weights are random (the demo's are not): this is about speed, and says nothing of maps. Every
method gets the same prepared pictures and, for free, the class to explain. PyTorch runs as its
libraries run it, eagerly, with gradients for the picture only. RISE is this project's own, over
the plain PyTorch classifier; grad-cam has none, and Captum has Grad-CAM alone of these.

OpenVINO XAI 1.1.0 pins openvino-dev 2024.4 and numpy 1: pip takes OpenVINO back with it. So put it
where it does no harm: `pip install --no-deps openvino-xai` in an environment that is for this.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fusion import Plain, Reference
from machine import machine_facts, write_results
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tame_deploy.artifact.directory import Artifact, open_artifact
from tame_deploy.data.shapes import draw_picture
from tame_deploy.errors import BackendError
from tame_deploy.evaluation.baselines import make_baseline
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.selection.selection import open_backend

PICTURES = 8
LEAST_ROUNDS = 8
OURS = {
    "tame-deploy onnxruntime": ("onnxruntime", None),
    "tame-deploy openvino": ("openvino", "fp32"),
    "tame-deploy openvino bf16": ("openvino", "bf16"),
}
OURS_FP32 = tuple(OURS)[:2]
OURS_BF16 = tuple(OURS)[2]
TAME = "TAME in PyTorch, as published"
CAMS = ("grad-cam", "grad-cam++", "score-cam")
SLOW = ("score-cam (grad-cam)", "rise")

#: Explains the picture with a number.
Explain = Callable[[int], Any]


@dataclass
class Contest:
    """The pictures, who explains them, and who could not take part, and why."""

    network: ExplainedNetwork
    pixels: NDArray[np.uint8]  # (N, H, W, 3)
    class_ids: NDArray[np.int64]  # (N)
    peers: dict[str, Explain] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def make_network(backbone: str) -> ExplainedNetwork:
    """Return a network with random weights, equal in every process; the demo's are bundled."""
    kind = "default" if backbone == "demo" else "random"
    return build_network(load_backbone(BackboneRequest(backbone, kind)), HeadRequest(kind))


def make_artifact(backbone: str, folder: Path) -> Path:
    """Export a backbone, for a process of its own."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return export_artifact(make_network(backbone), folder, ExportOptions()).path


def make_contest(backbone: str) -> Contest:
    """Return the pictures and what the classifier takes them for."""
    network = make_network(backbone)
    side = network.backbone.image.height
    pixels = np.stack([np.asarray(draw_picture(seed, side)[0]) for seed in range(PICTURES)])
    with torch.inference_mode():
        logits = Plain(network).eval()(torch.from_numpy(pixels))
    return Contest(network, pixels, logits.argmax(1).numpy())


def add_ours(contest: Contest, artifact: Artifact, threads: int, stack: ExitStack) -> None:
    """Enter the artifact on each backend."""

    def add(name: str, backend_name: Any, precision: Any) -> None:
        options = BackendOptions(threads=threads, precision=precision)
        backend = stack.enter_context(open_backend(artifact, backend_name, options))
        likeliest = np.full((1, 1), -1, np.int64)
        contest.peers[name] = lambda i: backend.run(
            {"images": contest.pixels[i : i + 1], "class_ids": likeliest}
        )

    for name, (backend_name, precision) in OURS.items():
        try:
            add(name, backend_name, precision)
        except BackendError as error:  # no bfloat16 here, or not installed
            contest.left_out[name] = str(error)


def add_published(contest: Contest) -> None:
    """Enter the head as published: all branches upsampled, every class's map."""
    reference = Reference(contest.network).eval()
    images = torch.from_numpy(contest.pixels)

    def explain(i: int) -> Any:
        with torch.inference_mode():
            return reference(images[i : i + 1])

    contest.peers[TAME] = explain


class PlainClassifier:
    """The classifier alone in PyTorch, as RISE asks it."""

    def __init__(self, network: ExplainedNetwork) -> None:
        self._plain = Plain(network).eval()

    def probabilities(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities (B, C) of pictures (B, H, W, 3) in [0, 1]."""
        with torch.inference_mode():
            logits = self._plain(torch.from_numpy(pixels * np.float32(255)))
            probabilities: NDArray[np.float32] = logits.softmax(1).numpy()
            return probabilities


def add_baselines(contest: Contest, rise_masks: int, slow: bool) -> None:
    """Enter the methods of grad-cam, and RISE."""
    model: Any = PlainClassifier(contest.network)
    floats = contest.pixels.astype(np.float32) / 255

    def add(name: str, title: str) -> None:
        method = make_baseline(name, model, contest.network, rise_masks=rise_masks)
        contest.peers[title] = lambda i: method.explain(
            floats[i : i + 1], contest.class_ids[i : i + 1]
        )

    for name in CAMS:
        if slow or f"{name} (grad-cam)" not in SLOW:
            add(name, f"{name} (grad-cam)")
    if slow:
        add("rise", "rise")


def add_captum(contest: Contest) -> None:
    """Enter Captum's Grad-CAM; it stops at the layer, where grad-cam goes back to the picture."""
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        contest.left_out["grad-cam (captum)"] = f"not installed: {error}"
        return
    network = contest.network
    plain = Plain(network).eval()
    layer = network.backbone.module.get_submodule(network.features[-1].layer)
    method = LayerGradCam(network.backbone.module, layer)
    with torch.no_grad():
        images = plain.preprocess(torch.from_numpy(contest.pixels))

    def explain(i: int) -> Any:
        image = images[i : i + 1].detach().requires_grad_()  # the weights are frozen
        return method.attribute(image, int(contest.class_ids[i]), relu_attributions=True)

    contest.peers["grad-cam (captum)"] = explain


def add_openvino_xai(contest: Contest, threads: int) -> None:
    """Enter OpenVINO XAI's ReciproCAM, inserted into the plain classifier, at both precisions."""
    try:
        import openvino

        if not hasattr(openvino, "runtime"):
            # What it imports was only another name, which OpenVINO 2026 dropped.
            openvino.runtime = sys.modules["openvino.runtime"] = openvino
        from openvino_xai.common.parameters import Method, Task
        from openvino_xai.explainer.explainer import Explainer, ExplainMode
    except Exception as error:  # whatever an old package meets in a new one
        contest.left_out["ReciproCAM (openvino-xai)"] = f"not installed: {error}"
        return
    logging.getLogger("openvino_xai").setLevel(logging.WARNING)
    plain, example = Plain(contest.network).eval(), torch.from_numpy(contest.pixels[:1])
    with torch.no_grad():
        model = openvino.convert_model(plain, example_input=example, input=list(example.shape))

    def add(title: str, precision: str) -> None:
        explainer = Explainer(model, Task.CLASSIFICATION, explain_mode=ExplainMode.WHITEBOX,
                              explain_method=Method.RECIPROCAM)  # fmt: skip
        # It takes no settings, and would take bfloat16 by itself where the CPU has it.
        settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": threads}  # fmt: skip
        method = explainer.method
        method._model_compiled = openvino.Core().compile_model(method._model, "CPU", settings)
        contest.peers[title] = lambda i: explainer(
            contest.pixels[i : i + 1], [int(contest.class_ids[i])], resize=False, colormap=False
        )

    add("ReciproCAM (openvino-xai)", "f32")
    if OURS_BF16 in contest.peers:
        add("ReciproCAM (openvino-xai) bf16", "bf16")


def settle(limit_s: float = 1.0) -> None:
    """Wait until no thread of this process runs.

    All sessions stay open, so that each is warm; but ONNX Runtime's threads spin for some 40 ms
    after a call, and OpenMP's for a few, on the cores that the next method needs.
    """
    deadline = time.perf_counter() + limit_s
    while time.perf_counter() < deadline:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(0.01)
        if time.process_time() - used < 0.1 * (time.perf_counter() - start):
            return


def timed(explain: Explain, picture: int, *, warm: bool) -> float:
    """Return milliseconds; a call before brings threads and caches back, unless it takes long."""
    settle()
    if warm:
        explain(picture)
    start = time.perf_counter()
    explain(picture)
    return (time.perf_counter() - start) * 1e3


def measure(
    peers: dict[str, Explain], seconds: float, slow_rounds: int
) -> dict[str, dict[int, float]]:
    """Return milliseconds by name and round; a round is one picture through all, in any order."""
    fast = [name for name in peers if name not in SLOW]
    slow = [name for name in peers if name in SLOW]
    for name in fast:
        peers[name](0)
    start = time.perf_counter()
    for name in fast:
        timed(peers[name], 0, warm=True)
    rounds = max(LEAST_ROUNDS, slow_rounds, round(seconds / (time.perf_counter() - start)))
    slow_ones = {int((k + 0.5) * rounds / slow_rounds) for k in range(slow_rounds)}
    times: dict[str, dict[int, float]] = {name: {} for name in peers}
    for number in range(rounds):
        running = fast + (slow if number in slow_ones else [])
        for name in random.sample(running, len(running)):
            times[name][number] = timed(peers[name], number % PICTURES, warm=name in fast)
    return times


def spread(values: list[float]) -> dict[str, Any]:
    """Return the median and the quartiles, or of a few values all."""
    if len(values) < LEAST_ROUNDS:
        return {"median": statistics.median(values), "all": values}
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "quartiles": [low, high]}


def summarise(times: dict[str, dict[int, float]]) -> dict[str, Any]:
    """Return milliseconds and ratios to ours, in float32 and in bfloat16.

    Ratios are of the same picture in the same round; of what takes minutes, to ours' median, as
    the one call of ours beside it may have met a noisy moment.
    """
    medians = {name: statistics.median(values.values()) for name, values in times.items()}
    best = min((name for name in OURS_FP32 if name in times), key=lambda name: medians[name])
    rows = {}
    for name, values in times.items():
        row: dict[str, Any] = {"rounds": len(values), "ms": spread(list(values.values()))}
        for key, ours in {"over_ours": best, "over_ours_bf16": OURS_BF16}.items():
            if ours in times:
                beside = {} if name in SLOW else times[ours]
                row[key] = spread([v / beside.get(r, medians[ours]) for r, v in values.items()])
        rows[name] = row
    return {"ours": best, "methods": rows}


def map_differences(contest: Contest) -> dict[str, float]:
    """Return how far our maps are from the published head's at most, over all pictures."""
    published = [contest.peers[TAME](i)[1].numpy() for i in range(PICTURES)]
    return {
        name: max(
            float(np.abs(contest.peers[name](i)["maps"] - published[i]).max())
            for i in range(PICTURES)
        )
        for name in OURS
        if name in contest.peers
    }


def compete(backbone: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run all methods on a backbone."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        # In a process of its own, whose threads end with it.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as exporter:
            path = exporter.submit(make_artifact, backbone, Path(folder) / "artifact").result()
        contest = make_contest(backbone)
        add_ours(contest, open_artifact(path), options.threads, stack)
        add_published(contest)
        add_baselines(contest, options.rise_masks, slow=options.slow_rounds > 0)
        add_captum(contest)
        add_openvino_xai(contest, options.threads)
        differences = map_differences(contest)
        found = summarise(measure(contest.peers, options.seconds, options.slow_rounds))
        return {
            "backbone": backbone, **found, "left_out": contest.left_out,
            "map_difference_to_published": differences,
        }  # fmt: skip


def as_table(run: dict[str, Any]) -> Table:
    """Return the run for the screen."""
    table = Table(
        "method",
        "ms",
        "/ ours",
        "/ ours bf16",
        "rounds",
        title=run["backbone"],
        caption="* ours in float32: the faster; in brackets quartiles, or least and most",
    )

    def cell(row: dict[str, Any], key: str) -> str:
        if key not in row:
            return ""
        values = row[key].get("quartiles") or row[key]["all"]
        return f"{row[key]['median']:.2f} ({min(values):.2f} to {max(values):.2f})"

    for name, row in run["methods"].items():
        title = f"{name} *" if name == run["ours"] else name
        cells = (cell(row, key) for key in ("over_ours", "over_ours_bf16"))
        table.add_row(title, f"{row['ms']['median']:.1f}", *cells, str(row["rounds"]))
    return table


def installed(*names: str) -> list[str]:
    """Return those distributions that are there."""
    return [n for n in names if any(importlib.metadata.distributions(name=n))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "vgg16"])
    parser.add_argument("--seconds", type=float, default=120, help="a backbone, less the slow")
    parser.add_argument("--slow-rounds", type=int, default=2, help="of Score-CAM and RISE")
    parser.add_argument("--rise-masks", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-write", action="store_true", help="show the results, keep none")
    parser.add_argument("--smoke", action="store_true", help="the demo's network, a few rounds")
    options = parser.parse_args()
    if options.smoke:
        options.backbones, options.seconds, options.rise_masks = ["demo"], 1, 64
    torch.set_num_threads(options.threads)
    console = Console(width=120)
    runs = []
    for backbone in options.backbones:
        run = compete(backbone, options)
        runs.append(run)
        console.print(as_table(run))
        for name, off in run["map_difference_to_published"].items():
            console.print(f"{name}: its maps are within {off:.1e} of the published head's")
        for name, why in run["left_out"].items():
            console.print(f"left out: {name}: {why}")
    names = ("torch", "onnxruntime", "openvino", "grad-cam", "captum", "openvino-xai")
    facts = machine_facts("tame-deploy", *installed(*names))
    settings = {"threads": options.threads, "batch": 1, "rise_masks": options.rise_masks}
    console.print(f"{facts['processor']}, {options.threads} threads")
    if not (options.smoke or options.no_write):
        results = {"machine": facts, **settings, "weights": "random: speed only", "runs": runs}
        console.print(str(write_results("peers", results)))


if __name__ == "__main__":
    main()
