"""Lower precision beside the plain recipes: fidelity of the maps, and speed, in one run.

    python benchmarks/quantization.py SHARED      # the real SqueezeNet, its head, 500 pictures

Every variant is calibrated on the same 128 pictures and judged on the same others. "plain" rows are
ONNX Runtime's own tools: `quantize_static` as it comes, the options that its documentation gives
for TensorRT, and `convert_float_to_float16`. Speed is this machine's, on ONNX Runtime, and only
where the graph is meant for it. ResNet-50 has random weights: its speed alone is measured.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from machine import machine_facts, write_results
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from rich.console import Console

from tame_deploy.artifact.directory import Artifact
from tame_deploy.calibration.observing.choice import (
    Choice,
    PicturesToChooseFrom,
    choose_pictures,
    evaluation_set,
    prepared,
)
from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.quantize import quantize_artifact
from tame_deploy.calibration.report.speed import time_against_float32
from tame_deploy.data.sources import PictureSource, open_pictures
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.metrics.evaluation_set import EvaluationSet, NormalisedPredictions
from tame_deploy.metrics.fidelity import Floor, measure_fidelity
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.network import HeadRequest, build_network

COUNT = 128
#: For the trials of each variant.
BUDGET_S = 80.0
TENSORRT = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
}
#: Our rows: what is asked of `tame-deploy quantize`.
OURS: dict[str, dict[str, Any]] = {
    "cpu int8": {"floor": Floor(0.94, 0.94, 0.996)},
    "cpu int8, no layers excluded": {"recovery": ("equalize", "ranges", "bias")},
    "cpu int8, floor of 0.96": {"floor": Floor(0.96, 0.96, 0.998)},
    "cpu int8, no recovery": {"recovery": ()},
    "tensorrt int8": {"target": "tensorrt", "floor": Floor(0.93, 0.90, 0.985)},
    "tensorrt int8, no layers excluded": {
        "target": "tensorrt",
        "recovery": ("equalize", "ranges", "bias"),
    },
    "tensorrt int8+fp16": {
        "target": "tensorrt",
        "precision": "int8+fp16",
        "recovery": ("equalize", "bias"),
    },
    "tensorrt fp16": {"target": "tensorrt", "precision": "fp16"},
}


class Reader(CalibrationDataReader):
    """Feeds the calibration pictures to ONNX Runtime's tool."""

    def __init__(self, pixels: np.ndarray[Any, Any]) -> None:
        self.left = iter(pixels)

    def get_next(self) -> dict[str, Any] | None:
        pixels = next(self.left, None)
        if pixels is None:
            return None
        return {"images": pixels[None], "class_ids": np.full((1, 1), -1, np.int64)}


def export(backbone: str, shared: Path | None, folder: Path) -> Artifact:
    weights = str(shared / "data/squeezenet1_1-imagenet.safetensors") if shared else "random"
    head = str(shared / "data/squeezenet1_1-head.safetensors") if shared else "random"
    loaded = load_backbone(BackboneRequest(backbone, weights))
    layers = ("features.7", "features.10", "features.12") if shared else None
    network = build_network(loaded, HeadRequest(head), layers)
    return export_artifact(network, folder, ExportOptions())


def plain_static(artifact: Artifact, pixels: Any, path: Path, target: str) -> bytes:
    kinds = {"cpu": QuantType.QUInt8, "tensorrt": QuantType.QInt8}
    quantize_static(
        artifact.model,
        path,
        Reader(pixels),
        per_channel=True,
        activation_type=kinds[target],
        weight_type=QuantType.QInt8,
        extra_options=TENSORRT if target == "tensorrt" else None,
    )
    return path.read_bytes()


def plain_half(artifact: Artifact) -> bytes:
    model = onnx.shape_inference.infer_shapes(onnx.load(artifact.model))
    tail = [node.name for node in model.graph.node if node.name.startswith(("tail/", "shape/"))]
    found = OnnxModel(convert_float_to_float16(model, keep_io_types=True, node_block_list=tail))
    found.topological_sort()
    return bytes(found.model.SerializeToString())


def judge(pictures: EvaluationSet, expected: NormalisedPredictions, model: bytes) -> dict[str, Any]:
    found = pictures.predict_graph(model, expected.class_ids)
    report = measure_fidelity(expected, found, pictures.names, pictures.labels, (224, 224))
    return {
        "top1": report.top1,
        "agreement": report.top1_agreement,
        "pearson_mean": report.pearson_mean,
        "pearson_5th": report.pearson_5th,
        "iou_15": report.iou_15,
        "iou_50": report.iou_50,
    }


def speed(pictures: EvaluationSet, before: bytes, after: bytes) -> dict[str, float]:
    return {
        f"speedup_batch_{batch}": time_against_float32(pictures, before, after, batch)["speedup"]
        for batch in (1, 8)
    }


def squeezenet(shared: Path, folder: Path, say: Any) -> dict[str, Any]:
    artifact = export("squeezenet1_1", shared, folder / "squeezenet")
    listed = PictureSource(
        str(shared / "data/imagenet-sample.csv"), str(shared / "data/imagenet-sample")
    )
    pictures = open_pictures(listed, 1000, artifact.read_labels())
    source = PicturesToChooseFrom(pictures, "imagenet-sample", artifact.manifest.image)
    own, _ = choose_pictures(source, COUNT, 0)
    chosen: Choice | None = None
    rows: dict[str, Any] = {}
    models: dict[str, bytes] = {}
    for name, asked in OURS.items():
        say(f"ours: {name}")
        options = QuantizeOptions(
            calibration_size=COUNT, allow_low_fidelity=True, budget_s=BUDGET_S, **asked
        )
        made = quantize_artifact(artifact, source, folder / "made", options, overwrite=True)
        chosen = made.record.held_out
        models[name] = made.artifact.model.read_bytes()
        search = made.record.search
        rows[name] = {
            "kept_share": search.excluded_share,
            "curve": [
                {"kept_share": p.excluded_share, "iou_15": p.score.iou15, "agreement": p.score.top1}
                for p in search.curve
            ],
            "curve_speedups": made.record.speedups,
        }
    assert chosen is not None
    pixels = prepared(source, own)
    for target in ("cpu", "tensorrt"):
        say(f"plain: {target}")
        models[f"plain {target} int8"] = plain_static(artifact, pixels, folder / "q.onnx", target)
    models["plain fp16"] = plain_half(artifact)
    held_out = evaluation_set(artifact.manifest, source, chosen)
    original = artifact.model.read_bytes()
    expected = held_out.predict_graph(original)
    rows["fp32"] = {}
    for name, model in {"fp32": original, **models}.items():
        say(f"judging {name}")
        rows.setdefault(name, {}).update(judge(held_out, expected, model))
        if "cpu" in name:
            rows[name] |= speed(held_out, original, model)
    return {"judged": len(chosen), "calibrated": COUNT, "variants": rows}


def resnet(shared: Path, folder: Path) -> dict[str, float]:
    artifact = export("resnet50", None, folder / "resnet50")
    pictures = open_pictures(PictureSource(str(shared / "data/imagenet-sample")), 1000)
    source = PicturesToChooseFrom(pictures, "imagenet-sample", artifact.manifest.image)
    options = QuantizeOptions(
        calibration_size=16,
        held_out_size=32,
        recovery=("equalize",),
        budget_s=0,
        allow_low_fidelity=True,
    )
    made = quantize_artifact(artifact, source, folder / "resnet50-int8", options)
    return {f"speedup_batch_{k}": v["speedup"] for k, v in made.record.times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="folder with data/ (see CONTRIBUTING.md)")
    shared = parser.parse_args().shared
    logging.getLogger().setLevel(logging.ERROR)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "machine": machine_facts("tame-deploy", "onnxruntime", "onnx", "numpy"),
            "resnet50": resnet(shared, Path(folder)),
        }
        console.print(results["resnet50"])
        results["squeezenet1_1"] = squeezenet(shared, Path(folder), console.print)
    console.print(str(show_and_write(results)))


def show_and_write(results: dict[str, Any]) -> Path:
    path = write_results("quantization", results)
    for name, row in results["squeezenet1_1"]["variants"].items():
        shown = {key: round(value, 4) for key, value in row.items() if isinstance(value, float)}
        Console(width=200).print(name, shown)
    return path


if __name__ == "__main__":
    main()
