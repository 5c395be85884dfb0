"""Networks with random weights, quantized in few trials: what they show is speed, not fidelity.

Heads tap the layers that `tame-deploy layers` proposes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from tame_deploy.calibration.arithmetic.integer_layers import integer_layers
from tame_deploy.calibration.graph import Graph, load_graph
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.quantize import Quantized, quantize_artifact
from tame_deploy.data.sources import PictureSource, open_pictures
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.layer_proposal import find_layers
from tame_deploy.model.network import HeadRequest, build_network

__all__ = ["UNTRAINED", "quantize_untrained"]

#: Backbones by the names of their rows.
UNTRAINED = {
    "resnet50": "resnet50",
    "mobilenet_v3_large": "mobilenet_v3_large",
    "efficientnet_b0": "efficientnet_b0",
    "convnext_tiny": "convnext_tiny",
    "vit_s_16": "vision_transformer:vit_s_16",
    "swin_t": "swin_t",
}


def quantize_untrained(
    name: str, photographs: Path, folder: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return speed beside float32 at batch 1 and 8, and what of a network runs on integers."""
    backbone = load_backbone(BackboneRequest(UNTRAINED[name], "random"))
    layers = [one.layer for one in find_layers(backbone).proposed]
    network = build_network(backbone, HeadRequest("random"), layers)
    artifact = export_artifact(network, folder / name, ExportOptions())
    pictures = open_pictures(PictureSource(str(photographs)), 1000)
    source = PicturesToChooseFrom(pictures, photographs.name, artifact.manifest.image)
    options = QuantizeOptions(
        calibration_size=16,
        held_out_size=32,
        recovery=("equalize",),
        budget_s=0,
        allow_low_fidelity=True,
    )
    made = quantize_artifact(artifact, source, folder / f"{name}-int8", options, report=say)
    speeds = {f"speedup_batch_{k}": v["speedup"] for k, v in made.record.times.items()}
    return {
        "tapped": layers,
        **speeds,
        "agreement": made.record.fidelity.top1_agreement,
        "iou_15": made.record.fidelity.iou_15,
        **_shares(load_graph(artifact), made),
    }


def _shares(graph: Graph, made: Quantized) -> dict[str, float]:
    """Return the shares of the multiply-adds on integers and excluded, and the pairs."""
    quantized = onnx.load(made.artifact.model)
    weights = {tensor.name for tensor in quantized.graph.initializer}
    pairs = [
        node
        for node in quantized.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in weights
    ]
    integer = {str(layer.node.name) for layer in integer_layers(Graph(quantized))}
    costs = {str(layer.name): graph.multiply_adds(layer) for layer in graph.layers}
    done = sum(cost for name, cost in costs.items() if name in integer)
    return {
        "integer_share": done / sum(costs.values()),
        "kept_share": made.record.search.excluded_share,
        "integer_layers": len(integer),
        "layers": len(costs),
        "pairs": len(pairs),
    }
