"""How narrow a head's branches may be: quality on real networks against the price of the map.

    python benchmarks/narrow.py --quality       # an hour on two cores; needs CONTRIBUTING's data
    python benchmarks/narrow.py --cost          # ten minutes
    python benchmarks/narrow.py --draw          # the curve and the documents' tables

Quality: every width is trained alike, by the default recipe, from where CAM ends, on 300
photographs, and scored on 200 others, beside CAM without training, the CAM family and noise. Cost:
ResNet-50 and VGG-16 with random weights, interleaved with the plain classifier, on ONNX Runtime and
OpenVINO.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fusion import Plain, export_plainly, measure
from machine import RESULTS, machine_facts, write_results
from method_comparison import SCORES
from real_heads import REAL, differences, held_out, recipe_of, train_real_head
from rich.console import Console

from tame_deploy.evaluation.baselines import make_baseline
from tame_deploy.evaluation.evaluate import evaluate
from tame_deploy.evaluation.result import Evaluation
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.metrics.evaluated_model import evaluated_network
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.head_start import cam_network
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.training.train_head import build_recipe_network

#: Rows of the table: a share of each layer's channels; the full width has the published skip.
WIDTHS = {"full": None, "C/2": "1/2", "C/4": "1/4", "C/8": "1/8", "C/16": "1/16"}
BASELINES = ("grad-cam", "grad-cam++", "layercam", "random")
RIVALS = ("full", "cam", *BASELINES[:3])
KEPT = Path("build/narrow")


def score(network: ExplainedNetwork, pictures: Any, baseline: str | None = None) -> Evaluation:
    """Return AD and IC of a network's own maps, or of a baseline's."""
    with evaluated_network(TorchBackend(network)) as model:
        method = None if baseline is None else make_baseline(baseline, model, network)
        return evaluate(model, pictures, SCORES, method=method)


def qualities(name: str, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the scores of every width and baseline on a real network."""
    pictures, found = held_out(options.pictures), {}
    for label in options.widths:
        recipe = recipe_of(name, KEPT, options.epochs, {"model.width": WIDTHS[label]})
        head = train_real_head(recipe, _run(name, label), say)
        backbone = build_recipe_network(recipe).backbone
        network = build_network(backbone, HeadRequest(str(head)))
        found[label] = score(network, pictures)
        say(f"{name} {label}: {_line(found[label])}")
    found["cam"] = score(cam_network(network), pictures)
    say(f"{name} cam: {_line(found['cam'])}")
    for baseline in BASELINES:
        found[baseline] = score(network, pictures, baseline)
        say(f"{name} {baseline}: {_line(found[baseline])}")
    return {
        "pictures": len(pictures),
        "epochs": options.epochs,
        "runs": {label: _run_facts(_run(name, label)) for label in options.widths},
        "scores": {label: _scores(one) for label, one in found.items()},
        "differences": {
            label: {
                rival: differences(found[label], found[rival])
                for rival in RIVALS
                if rival != label and rival in found
            }
            for label in options.widths
        },
    }


def _run(name: str, label: str) -> Path:
    return KEPT / name / label.replace("/", "-")


def _run_facts(folder: Path) -> dict[str, float]:
    """Return steps and seconds of a run, as it noted them: a kept one takes no time again."""
    with (folder / "metrics.csv").open(newline="") as file:
        *_, last = csv.DictReader(file)
    return {"steps": int(last["step"]), "seconds": round(float(last["seconds"]))}


def _scores(found: Evaluation) -> dict[str, list[float]]:
    return {
        name: [round(value, 2) for value in (one.mean, one.low, one.high)]
        for name, one in found.estimates().items()
        if name.startswith(("average_drop", "increase"))
    }


def _line(found: Evaluation) -> str:
    return ", ".join(f"{name} {mean:.1f}" for name, (mean, _, _) in _scores(found).items())


def onnxruntime_runner(path: Path, pixels: np.ndarray[Any, Any], threads: int) -> Callable[[], Any]:
    """Return a function that runs a graph once on ONNX Runtime."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    # Idle threads of a session would spin, and slow its rivals down.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), settings, ["CPUExecutionProvider"])
    feeds: dict[str, Any] = {"images": pixels}
    if len(session.get_inputs()) == 2:
        feeds["class_ids"] = np.full((len(pixels), 1), -1, np.int64)
    return lambda: session.run(None, feeds)


def openvino_runner(path: Path, pixels: np.ndarray[Any, Any], threads: int) -> Callable[[], Any]:
    """Return a function that runs a graph once on OpenVINO, in float32."""
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32",
             "PERFORMANCE_HINT": "LATENCY"}  # fmt: skip
    compiled = core.compile_model(core.read_model(path), "CPU", hints)
    request = compiled.create_infer_request()
    feeds: dict[str, Any] = {"images": pixels}
    if len(compiled.inputs) == 2:
        feeds["class_ids"] = np.full((len(pixels), 1), -1, np.int64)
    return lambda: request.infer(feeds)


RUNNERS = {"onnxruntime": onnxruntime_runner, "openvino": openvino_runner}


def costs(
    name: str, options: argparse.Namespace, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return fused over plain of every width, by backend and batch."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        graphs = _graphs(name, Path(folder), options.widths)
        say(f"{name}: exported {', '.join(graphs)}")
        for backend, make in RUNNERS.items():
            for batch in (1, 8):
                pixels = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), np.uint8)
                runners = {n: make(path, pixels, options.threads) for n, path in graphs.items()}
                once = sum(measure(runners, 1)[n][-1] for n in runners) / 1e3
                times = measure(runners, max(8, round(options.seconds / once)))
                for label in graphs:
                    ratios = np.divide(times[label], times["plain"])
                    low, middle, high = np.percentile(ratios, [25, 50, 75]).round(4).tolist()
                    rows.append(
                        {"backbone": name, "backend": backend, "batch": batch, "width": label,
                         "fused_over_plain": middle, "quartiles": [low, high],
                         "rounds": len(ratios)}
                    )  # fmt: skip
                    say(f"{name} {backend} batch {batch} {label}: {middle:.3f}")
    return rows


def _graphs(name: str, folder: Path, widths: list[str]) -> dict[str, Path]:
    backbone = load_backbone(BackboneRequest(name, "random"))
    paths = {"plain": folder / "plain.onnx"}
    requests = {label: HeadRequest("random", width=WIDTHS[label]) for label in widths}
    requests["cam"] = HeadRequest("cam")  # ReciproCAM, of VGG-16
    requests["p-tame"] = HeadRequest("random", auxiliary="resnet18", auxiliary_weights="random")
    for label, request in requests.items():
        network = build_network(backbone, request)
        if not paths["plain"].exists():
            example = torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
            export_plainly(Plain(network), example, paths["plain"])
        artifact = export_artifact(network, folder / label.replace("/", "-"), ExportOptions())
        paths[label] = artifact.model
    return paths


def _joined(before: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of earlier runs with those of this one in their place, in one order."""
    places = ("backbone", "backend", "batch", "width")
    found = {tuple(row[place] for place in places): row for row in before.get("rows", [])}
    found |= {tuple(row[place] for place in places): row for row in rows}
    order = ["plain", *WIDTHS, "cam", "p-tame"]
    return sorted(
        found.values(),
        key=lambda row: (row["backbone"], row["backend"], row["batch"], order.index(row["width"])),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part in ("quality", "cost", "draw"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--networks", nargs="+", default=list(REAL))
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "vgg16"])
    parser.add_argument("--widths", nargs="+", default=list(WIDTHS), choices=list(WIDTHS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30, help="of each backend and batch")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    console = Console(width=160, highlight=False)
    path = RESULTS / "narrow.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    facts = machine_facts("tame-deploy", "torch", "onnxruntime", "openvino", "grad-cam")
    if options.quality:
        for name in options.networks:
            found = qualities(name, options, console.print) | {"machine": facts}
            results = json.loads(path.read_text()) if path.is_file() else {}  # others run beside
            results.setdefault("quality", {})[name] = found
            write_results("narrow", results)
    if options.cost:
        rows = [row for name in options.backbones for row in costs(name, options, console.print)]
        rows = _joined(results.get("cost", {}), rows)
        results["cost"] = {"machine": facts, "threads": options.threads, "rows": rows}
        write_results("narrow", results)
    if options.draw:
        from narrow_curve import draw_curve
        from narrow_tables import filled

        console.print(str(draw_curve(results)))
        for name in ("README.md", "docs/training.md"):
            page = RESULTS.parents[1] / name
            page.write_text(filled(page.read_text(), results))


if __name__ == "__main__":
    main()
