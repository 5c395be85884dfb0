"""Lower precision beside the plain recipes: fidelity of the maps, and speed, in one run.

    python benchmarks/quantization.py SHARED      # real networks, 500 pictures
    python benchmarks/quantization.py SHARED --networks squeezenet1_1 --smoke

Every variant is calibrated on the same 128 pictures and judged on the same others. "plain" rows are
ONNX Runtime's own tools: `quantize_static` as it comes and with `reduce_range`, the options that
its documentation gives for TensorRT, and `convert_float_to_float16`. Graphs for CPUs are judged on
few of the pictures in exact arithmetic as well, and in that of processors without VNNI, whose sums
saturate. Speed is this machine's, on ONNX Runtime, and only where the graph is meant for it.
EfficientNet-Lite0 has a random head, and in another row that of `lite0_head.py`, which takes ten
minutes to train. The networks of `untrained.py` are random altogether and show speed, and what of a
network runs on integers.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from crops import photographs
from lite0_head import trained_head
from machine import RESULTS, machine_facts, write_results
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from rich.console import Console
from untrained import UNTRAINED, quantize_untrained

from tame_deploy.artifact.directory import Artifact
from tame_deploy.calibration.arithmetic.integer_layers import overflowing_layers
from tame_deploy.calibration.arithmetic.reference import ReferenceBackend
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
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.metrics.evaluation_set import EvaluationSet, NormalisedPredictions
from tame_deploy.metrics.fidelity import Floor, measure_fidelity
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network
from tame_deploy.runtime.backends.vnni import saturates


class Size(NamedTuple):
    """How many pictures calibrate, judge, and are run in both arithmetics; seconds for trials.

    `variants` are those of ours.
    """

    calibrated: int
    held_out: int
    referred: int
    budget_s: float
    batches: tuple[int, ...]
    variants: tuple[str, ...]


LITE0: dict[str, Any] = {
    "backbone": "efficientnet_lite:efficientnet_lite0",
    "weights": "efficientnet_lite0-imagenet.safetensors",
    "layers": ("blocks.2", "blocks.4", "blocks.6"),
    "image": {"image_size": (224, 224), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    # A network that is hard on eight bits: what is asked of it takes a longer search. An IoU of
    # 0.92 is to be held on other pictures than those that the search sees.
    "floor": Floor(0.95, 0.925, 0.98),
    "size": {
        "budget_s": 300.0,
        "referred": 24,
        "variants": ("cpu int8", "cpu int8, no recovery"),
    },
}
NETWORKS: dict[str, dict[str, Any]] = {
    "squeezenet1_1": {
        "backbone": "squeezenet1_1",
        "weights": "squeezenet1_1-imagenet.safetensors",
        "head": "squeezenet1_1-head.safetensors",
        "layers": ("features.7", "features.10", "features.12"),
    },
    "efficientnet_lite0": LITE0,
    "efficientnet_lite0_trained": LITE0 | {"head": "trained"},
}
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
    "cpu int8, no layers excluded": {"recovery": ("rounding", "equalize", "ranges", "bias")},
    "cpu int8, floor of 0.96": {"floor": Floor(0.96, 0.96, 0.998)},
    "cpu int8, no recovery": {"recovery": ()},
    "cpu-vnni int8": {"target": "cpu-vnni", "floor": Floor(0.94, 0.94, 0.996)},
    "cpu-vnni int8, no recovery": {"target": "cpu-vnni", "recovery": ()},
    "tensorrt int8": {"target": "tensorrt", "floor": Floor(0.93, 0.90, 0.985)},
    "tensorrt int8, no layers excluded": {
        "target": "tensorrt",
        "recovery": ("rounding", "equalize", "ranges", "bias"),
    },
    "tensorrt int8+fp16": {
        "target": "tensorrt",
        "precision": "int8+fp16",
        "recovery": ("rounding", "equalize", "bias"),
    },
    "tensorrt fp16": {"target": "tensorrt", "precision": "fp16"},
}
WHOLE = Size(128, 1000, 64, 60.0, (1, 8), tuple(OURS))
SMOKE = Size(16, 32, 4, 0.0, (1,), ("cpu int8, no recovery", "cpu-vnni int8, no recovery"))


class Reader(CalibrationDataReader):
    """Feeds the calibration pictures to ONNX Runtime's tool."""

    def __init__(self, pixels: np.ndarray[Any, Any]) -> None:
        self.left = iter(pixels)

    def get_next(self) -> dict[str, Any] | None:
        pixels = next(self.left, None)
        if pixels is None:
            return None
        return {"images": pixels[None], "class_ids": np.full((1, 1), -1, np.int64)}


def explained_network(network: dict[str, Any], shared: Path, say: Any) -> ExplainedNetwork:
    request = BackboneRequest(
        network["backbone"],
        str(shared / "data" / network["weights"]),
        labels="imagenet",
        **network.get("image", {}),
    )
    head = network.get("head", "random")
    if head == "trained":
        head = str(trained_head(network, shared, say))
    elif head != "random":
        head = str(shared / "data" / head)
    return build_network(load_backbone(request), HeadRequest(head), network.get("layers"))


def plain_static(
    artifact: Artifact, pixels: Any, path: Path, target: str, reduce_range: bool = False
) -> bytes:
    kinds = {"cpu": QuantType.QUInt8, "tensorrt": QuantType.QInt8}
    quantize_static(
        artifact.model,
        path,
        Reader(pixels),
        per_channel=True,
        reduce_range=reduce_range,
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
    return shown(pictures, expected, pictures.predict_graph(model, expected.class_ids))


def shown(
    pictures: EvaluationSet, expected: NormalisedPredictions, found: NormalisedPredictions
) -> dict[str, Any]:
    report = measure_fidelity(expected, found, pictures.names, pictures.labels, (224, 224))
    return {
        "top1": report.top1,
        "agreement": report.top1_agreement,
        "pearson_mean": report.pearson_mean,
        "pearson_5th": report.pearson_5th,
        "iou_15": report.iou_15,
        "iou_50": report.iou_50,
    }


def in_both(
    pictures: EvaluationSet, expected: NormalisedPredictions, model: bytes, count: int
) -> dict[str, Any]:
    """Return fidelity on the first pictures in exact arithmetic, and where sums saturate."""
    rows = np.arange(min(count, len(pictures.pixels)))
    few = replace(
        pictures,
        pixels=pictures.pixels[rows],
        names=pictures.names[: len(rows)],
        labels=pictures.labels[: len(rows)],
    )
    specs = pictures.manifest.inputs, pictures.manifest.outputs
    graph = onnx.load_from_string(model)
    found: dict[str, Any] = {"pictures": len(rows), "may_saturate": len(overflowing_layers(graph))}
    for arithmetic in ("exact", "saturating"):
        with ReferenceBackend(graph, *specs, arithmetic) as backend:
            predictions = few.predict(backend, expected.class_ids[rows])
        found[arithmetic] = shown(few, expected.rows(rows), predictions)
    return found


def speed(
    pictures: EvaluationSet, before: bytes, after: bytes, batches: tuple[int, ...]
) -> dict[str, float]:
    return {
        f"speedup_batch_{batch}": time_against_float32(pictures, before, after, batch)["speedup"]
        for batch in batches
    }


def compared(name: str, shared: Path, folder: Path, size: Size, say: Any) -> dict[str, Any]:
    """Return the rows of one network with real weights."""
    own = NETWORKS[name]
    network = explained_network(own, shared, say)
    artifact = export_artifact(network, folder / name, ExportOptions())
    if size is WHOLE:
        size = size._replace(**own.get("size", {}))
    source = PicturesToChooseFrom(photographs(shared), "imagenet-sample", artifact.manifest.image)
    rows, models, chosen = ours(
        artifact, source, folder / "made", size, say, floor=own.get("floor")
    )
    pixels = prepared(source, choose_pictures(source, size.calibrated, 0)[0])
    for target, reduced in (("cpu", False), ("cpu", True), ("tensorrt", False)):
        row = f"plain {target} int8{', reduced range' if reduced else ''}"
        say(row)
        models[row] = plain_static(artifact, pixels, folder / "q.onnx", target, reduced)
    models["plain fp16"] = plain_half(artifact)
    held_out = evaluation_set(artifact.manifest, source, chosen)
    original = artifact.model.read_bytes()
    expected = held_out.predict_graph(original)
    rows["fp32"] = {}
    for row, model in {"fp32": original, **models}.items():
        say(f"judging {row}")
        rows.setdefault(row, {}).update(judge(held_out, expected, model))
        if "cpu" in row:
            rows[row]["arithmetic"] = in_both(held_out, expected, model, size.referred)
            rows[row] |= speed(held_out, original, model, size.batches)
    return {"judged": len(chosen), "calibrated": size.calibrated, "variants": rows}


def ours(
    artifact: Artifact,
    source: PicturesToChooseFrom,
    output: Path,
    size: Size,
    say: Any,
    floor: Floor | None,
) -> tuple[dict[str, Any], dict[str, bytes], Choice]:
    """Return what our variants cost, their graphs, and the pictures that they were held to."""
    rows: dict[str, Any] = {}
    models: dict[str, bytes] = {}
    for name in size.variants:
        asked = OURS[name]
        if asked.get("target") == "cpu-vnni" and saturates():
            say(f"left out, because this processor has no VNNI: {name}")
            continue
        say(f"ours: {name}")
        options = QuantizeOptions(
            calibration_size=size.calibrated,
            held_out_size=size.held_out,
            allow_low_fidelity=True,
            budget_s=size.budget_s,
            **asked | ({} if floor is None else {"floor": floor}),
        )
        made = quantize_artifact(artifact, source, output, options, overwrite=True)
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
    return rows, models, made.record.held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, help="folder with data/ (see CONTRIBUTING.md)")
    every = [*NETWORKS, *UNTRAINED]
    parser.add_argument("--networks", nargs="+", choices=every, default=every)
    parser.add_argument(
        "--smoke", action="store_true", help="few pictures and no trials: only that it works"
    )
    asked = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    console = Console(width=200)
    size = SMOKE if asked.smoke else WHOLE
    results = begun_results()
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.networks:
            if name in UNTRAINED:
                photographs = asked.shared / "data/imagenet-sample"
                results[name] = quantize_untrained(name, photographs, Path(folder), console.print)
            else:
                results[name] = compared(name, asked.shared, Path(folder), size, console.print)
            console.print(name, rounded(results[name]))
            if not asked.smoke:
                console.print(str(write_results("quantization", results)))


def begun_results() -> dict[str, Any]:
    """Return the results so far, if they are of the same machine and versions; else none."""
    machine = machine_facts("tame-deploy", "onnxruntime", "onnx", "numpy")
    machine["sums_saturate"] = saturates()
    path = RESULTS / "quantization.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("machine") == machine else {"machine": machine}


def rounded(values: Any) -> Any:
    """Return numbers in few digits; curves are left out."""
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items() if "curve" not in key}
    return round(values, 4) if isinstance(values, float) else values


if __name__ == "__main__":
    main()
