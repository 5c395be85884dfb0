"""What each architecture of the zoo goes through."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from zoo_members import Member

from tame_deploy.artifact.directory import Artifact
from tame_deploy.calibration.arithmetic.integer_layers import integer_layers
from tame_deploy.calibration.graph import Graph, load_graph
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.quantize import quantize_artifact
from tame_deploy.calibration.report import speed
from tame_deploy.data.sources import PictureSource, open_pictures
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.layer_proposal import find_layers
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.runtime.backends.protocol import Backend
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import ParityReference

#: Pictures that calibrate, and that judge: few, as weights are random.
CALIBRATION, HELD_OUT = 8, 8
# The table has no speeds, so that they are hardly measured.
speed._ROUNDS, speed._WARM_UPS, speed._RUNS = 1, 0, 1


class Steps:
    """One architecture on its way; each step returns what the table says of it."""

    def __init__(self, member: Member, photographs: Path, folder: Path) -> None:
        self.member, self.photographs, self.folder = member, photographs, folder
        self.artifact: Artifact

    def layers(self) -> dict[str, Any]:
        """Load the backbone, and take the layers that are proposed."""
        name = self.member.name
        if self.member.prepare is not None:
            saved = self.folder / "saved"
            self.member.prepare(saved)
            name = f"{name}:{saved}"
        side = self.member.side
        size = None if side is None else (side, side)
        self.backbone = load_backbone(BackboneRequest(name, "random", image_size=size))
        self.proposed = find_layers(self.backbone).proposed
        image = self.backbone.image
        parameters = sum(one.numel() for one in self.backbone.module.parameters())
        return {
            "picture": f"{image.height}x{image.width}",
            "parameters": parameters,
            "layers": [str(one) for one in self.proposed],
        }

    def export(self) -> dict[str, Any]:
        """Fuse and export, which holds ONNX Runtime to PyTorch."""
        started = time.perf_counter()
        layers = [one.layer for one in self.proposed]
        network = build_network(self.backbone, HeadRequest("random", tokens="patch"), layers)
        self.artifact = export_artifact(network, self.folder / "fp32", ExportOptions())
        *_, height, width = self.artifact.manifest.outputs[2].shape
        return {"map": f"{height}x{width}", "export_s": time.perf_counter() - started}

    def backend(self, name: str, batches: Sequence[int]) -> dict[str, Any]:
        """Hold a backend to PyTorch at several batches."""
        with open_backend(self.artifact, name) as backend:
            return {name: self._deviation(backend, batches)}

    def libtame(self, batches: Sequence[int]) -> dict[str, Any]:
        """Hold libtame to PyTorch, where it is built."""
        from tests.contract.libtame import LibtameBackend
        from tests.cpp.build import BUILD

        if next(BUILD.rglob("libtame.so"), None) is None:
            return {"libtame": None}
        with LibtameBackend(self.artifact) as backend:
            return {"libtame": self._deviation(backend, batches)}

    def _deviation(self, backend: Backend, batches: Sequence[int]) -> dict[str, float]:
        reference = ParityReference.load(self.artifact)
        report = check_parity(backend, reference, self.artifact, batches=batches)
        return {"logit_error": report.logit_error, "map_error": report.map_error}

    def quantized(self, precision: Any, target: Any) -> dict[str, Any]:
        """Quantize, and run what was made; random weights say nothing of its fidelity."""
        manifest = self.artifact.manifest
        pictures = open_pictures(PictureSource(str(self.photographs)), manifest.classes)
        source = PicturesToChooseFrom(pictures, self.photographs.name, manifest.image)
        options = QuantizeOptions(
            precision=precision,
            target=target,
            calibration_size=CALIBRATION,
            held_out_size=HELD_OUT,
            min_held_out_size=HELD_OUT,
            recovery=(),
            budget_s=0,
            allow_low_fidelity=True,
        )
        made = quantize_artifact(
            self.artifact, source, self.folder / f"{precision}-{target}", options
        )
        fidelity = made.record.fidelity
        row = {"map_correlation": fidelity.pearson_mean, "logit_cosine": fidelity.logit_cosine}
        if (precision, target) == ("int8", "cpu"):
            row["integer_share"] = _integer_share(load_graph(self.artifact), made.artifact)
        return {f"{precision}_{target}": row}


def _integer_share(graph: Graph, quantized: Artifact) -> float:
    """Return the share of the multiply-adds that are on integers."""
    integer = {str(one.node.name) for one in integer_layers(Graph(onnx.load(quantized.model)))}
    costs = {str(layer.name): graph.multiply_adds(layer) for layer in graph.layers}
    return sum(cost for name, cost in costs.items() if name in integer) / sum(costs.values())
