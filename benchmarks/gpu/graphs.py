"""The ONNX graphs of a backbone: plain, fused and the reference's, in every precision.

Quantized ones have random weights and a calibration on a few drawn pictures: good for speed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from fusion import make_graphs

from tame_deploy.artifact.directory import Artifact, open_artifact
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.calibration.observing.choice import PicturesToChooseFrom
from tame_deploy.calibration.options import QuantizeOptions
from tame_deploy.calibration.quantize import quantize_artifact
from tame_deploy.data.sources import PictureSource, open_pictures
from tame_deploy.errors import BuildError

NAMES = ("plain", "fused", "reference")
_FLOAT32 = ("fp32", "tf32")
_PICTURES = "demo:64"
_NO_REFERENCE = (
    "the published graph has no INT8 form to compare with; nothing places its Q/DQ pairs"
)


@dataclass(frozen=True)
class Graphs:
    """Files by name and precision, and why some are missing."""

    paths: dict[tuple[str, str], Path] = field(default_factory=dict)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)

    def find(self, name: str, precision: str) -> Path:
        """Return a graph's file.

        Raises:
            BuildError: saying why there is none.
        """
        key = name, "fp32" if precision in _FLOAT32 else precision
        if key not in self.paths:
            raise BuildError(self.refused[key])
        return self.paths[key]


def make_all(
    backbone: str, folder: Path, precisions: Sequence[str], tell: Callable[[str], None]
) -> Graphs:
    """Make what is not in the folder already."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "fused" / "manifest.json").exists():
        tell(f"exporting {backbone}")
        make_graphs(backbone, folder)
    fused = open_artifact(folder / "fused")
    graphs = Graphs()
    graphs.paths["fused", "fp32"] = fused.model
    for name in ("plain", "reference"):
        graphs.paths[name, "fp32"] = folder / f"{name}.onnx"
    for precision in precisions:
        if precision not in _FLOAT32:
            tell(f"bringing {backbone} to {precision}")
            _lower(fused, folder, precision, graphs)
    return graphs


def _lower(fused: Artifact, folder: Path, precision: str, graphs: Graphs) -> None:
    """Make the graphs of a lower precision.

    The plain one is the fused one's way from pictures to logits, so that both hold the same Q/DQ
    pairs and casts.
    """
    word = precision.replace("+", "-")
    makers: dict[str, Callable[[Path], Path]] = {
        "fused": lambda path: _quantized(fused, path, precision),
        "plain": lambda path: _extracted(graphs.find("fused", precision), path),
        "reference": lambda path: _halved(folder / "reference.onnx", path, precision),
    }
    for name, make in makers.items():
        try:
            graphs.paths[name, precision] = make(folder / f"{name}-{word}")
        except Exception as error:  # whatever the tools throw; the others go on
            graphs.refused[name, precision] = str(error) or type(error).__name__


def _quantized(fused: Artifact, path: Path, precision: str) -> Path:
    if not (path / "manifest.json").exists():
        pictures = open_pictures(PictureSource(_PICTURES), fused.manifest.classes)
        source = PicturesToChooseFrom(pictures, _PICTURES, fused.manifest.image)
        options = QuantizeOptions(
            precision=precision,
            target="tensorrt",
            calibration_size=16,
            held_out_size=16,
            min_held_out_size=8,
            recovery=(),
            allow_low_fidelity=True,
        )
        quantize_artifact(fused, source, path, options)
    return open_artifact(path).model


def _extracted(fused: Path, path: Path) -> Path:
    path = path.with_suffix(".onnx")
    if not path.exists():
        extractor = onnx.utils.Extractor(onnx.load(fused))
        onnx.save(extractor.extract_model(["images"], ["logits"]), path)
    return path


def _halved(reference: Path, path: Path, precision: str) -> Path:
    """Bring the reference's graph to float16 with ONNX Runtime's tool, inputs and outputs kept."""
    if precision != "fp16":
        raise BuildError(_NO_REFERENCE)
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    path = path.with_suffix(".onnx")
    if not path.exists():
        model = onnx.shape_inference.infer_shapes(onnx.load(reference))
        found = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
        found.topological_sort()
        onnx.save(found.model, path)
    return path


def specs_of(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return a graph's inputs and outputs."""
    graph = onnx.load(path, load_external_data=False).graph
    return tuple(map(_spec, graph.input)), tuple(map(_spec, graph.output))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return TensorSpec(
        value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    )


def feeds_for(inputs: Sequence[TensorSpec], pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return a graph's inputs: pictures, and the likeliest class of each where it is asked for."""
    feeds = {"images": pixels}
    if any(spec.name == "class_ids" for spec in inputs):
        feeds["class_ids"] = np.full((len(pixels), 1), -1, np.int64)
    return feeds


def output_shapes(
    outputs: Sequence[TensorSpec], inputs: Sequence[TensorSpec], feeds: dict[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Return the outputs' shapes for some inputs."""
    sizes: dict[int | str, int] = {}
    for spec in inputs:
        sizes.update(zip(spec.shape, feeds[spec.name].shape, strict=True))
    return {
        spec.name: tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)
        for spec in outputs
    }
