"""TAME beside baseline methods on EfficientNet-Lite0, and its maps in INT8 beside float32's.

    python benchmarks/efficientnet_lite0.py     # needs the data that CONTRIBUTING.md tells of

The head is that of lite0_head.py, which takes ten minutes to train and is kept. One held-out crop
of each picture is explained by every method. The artifact is then quantized for any CPU, calibrated
and judged on crops that the head was trained on, and its maps are scored on the held-out ones
beside those of float32, each by its own graph on ONNX Runtime.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crops import SHARED, one_crop_each, photographs
from lite0_head import EPOCHS, HELD_OUT, KEPT, TRAINED, lite0_crops
from machine import machine_facts, write_results
from method_comparison import SCORES, compare_methods, without_lists
from quantization import NETWORKS, explained_network
from rich.console import Console

from tame_deploy.artifact.directory import Artifact
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.quantize import Quantized, quantize_artifact
from tame_deploy.data.labelled import Pictures
from tame_deploy.data.sources import PictureSource, open_pictures
from tame_deploy.evaluation.evaluate import evaluate
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.metrics.evaluated_model import evaluated_artifact
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.selection.selection import open_backend

NETWORK = NETWORKS["efficientnet_lite0_trained"]
METHODS = ("tame", "tame-sigmoid", "grad-cam", "grad-cam++", "layercam", "random")


def quantize(
    artifact: Artifact, crops: Path, options: argparse.Namespace, say: Callable[[str], None]
) -> Quantized:
    """Return the artifact in INT8 for any CPU, as good as the search gets it."""
    pictures = open_pictures(PictureSource(str(crops)), artifact.manifest.classes)
    source = PicturesToChooseFrom(pictures, "crops", artifact.manifest.image)
    asked = QuantizeOptions(
        floor=NETWORK["floor"],
        calibration_size=options.calibrated,
        held_out_size=2 * options.calibrated,
        budget_s=options.budget,
        allow_low_fidelity=True,
    )
    return quantize_artifact(artifact, source, KEPT / "int8", asked, overwrite=True, report=say)


def score(artifact: Artifact, pictures: Pictures) -> dict[str, Any]:
    """Return average drop and increase of an artifact's maps, by its own graph."""
    backend = open_backend(artifact, "onnxruntime", BackendOptions())
    with evaluated_artifact(artifact, backend) as model:
        return without_lists(evaluate(model, pictures, SCORES))


def int8_facts(made: Quantized) -> dict[str, Any]:
    """Return how far INT8 is from float32 on the crops that judged it."""
    fidelity, search = made.record.fidelity, made.record.search
    return {
        "judged": fidelity.pictures,
        "agreement": fidelity.top1_agreement,
        "pearson_5th": fidelity.pearson_5th,
        "iou_15": fidelity.iou_15,
        "below_floor": fidelity.allowed_below,
        "kept_share": search.excluded_share,
        "speedups": {batch: one["speedup"] for batch, one in made.record.times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--calibrated", type=int, default=128)
    parser.add_argument("--budget", type=float, default=240.0, help="seconds of trials for INT8")
    options = parser.parse_args()
    console = Console(width=160)
    network = explained_network(NETWORK, SHARED, console.print)
    training, held_out = lite0_crops(SHARED)
    pictures = one_crop_each(held_out, HELD_OUT, options.pictures)
    found = compare_methods(network, pictures, options.methods, KEPT / "grid.jpg", console)
    artifact = export_artifact(network, KEPT / "float32", ExportOptions(), overwrite=True)
    made = quantize(artifact, training, options, console.print)
    results = {
        "machine": machine_facts("tame-deploy", "torch", "grad-cam", "onnxruntime"),
        "crops_trained_on": TRAINED * len(photographs(SHARED)),
        "epochs": EPOCHS,
        "methods": [without_lists(one) for one in found],
        "float32": score(artifact, pictures),
        "int8": score(made.artifact, pictures),
        "int8_beside_float32": int8_facts(made),
    }
    console.print(results["int8_beside_float32"])
    console.print(str(write_results("efficientnet_lite0", results)))


if __name__ == "__main__":
    main()
