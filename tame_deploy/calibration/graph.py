"""Reading an exported graph: stages, layers with weights, and what flows between them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from tame_deploy.artifact.directory import Artifact
from tame_deploy.errors import IncompatibleArtifactError, InputError

__all__ = ["Graph", "attribute", "check_float32", "load_graph", "metadata_of", "set_metadata"]

#: Stages whose nodes may leave float32. The tail never does: its class product spans all classes,
#: and its min-max stretches what is left, so rounding there spoils maps most.
QUANTIZED_STAGES = ("preprocess", "backbone", "branches")
WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass
class Graph:
    """An ONNX model with its lookups; whoever edits the model makes a new Graph of it."""

    model: onnx.ModelProto
    _weights: dict[str, NDArray[Any]] = field(default_factory=dict)

    def sha256(self) -> str:
        """Return the sha256 of the model in memory; that of a file may differ."""
        return hashlib.sha256(self.model.SerializeToString(deterministic=True)).hexdigest()

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes, in order."""
        return list(self.model.graph.node)

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        """Constants by name."""
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that gives each value."""
        return {name: node for node in self.model.graph.node for name in node.output}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that take each value."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.model.graph.node:
            for name in dict.fromkeys(node.input):
                found[name].append(node)
        return dict(found)

    @cached_property
    def outputs(self) -> set[str]:
        """Names of the graph's outputs."""
        return {value.name for value in self.model.graph.output}

    @cached_property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of float32 values, None where a size is not fixed."""
        graph = self.model.graph
        known = [*graph.value_info, *graph.input, *graph.output]
        return {
            value.name: tuple(
                dim.dim_value if dim.HasField("dim_value") else None
                for dim in value.type.tensor_type.shape.dim
            )
            for value in known
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }

    def weight(self, name: str) -> NDArray[Any]:
        """Return a constant as an array, to be read only."""
        if name not in self._weights:
            self._weights[name] = numpy_helper.to_array(self.initializers[name])
        return self._weights[name]

    def with_weights(self, changed: Mapping[str, NDArray[Any]]) -> Graph:
        """Return the graph with other values, as float32, for some of its constants."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for tensor in model.graph.initializer:
            if tensor.name in changed:
                values = changed[tensor.name].astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return Graph(model)

    def stage(self, node: onnx.NodeProto) -> str:
        """Return the stage that a node's name begins with."""
        return str(node.name).partition("/")[0]

    @cached_property
    def layers(self) -> list[onnx.NodeProto]:
        """The nodes with weights that may be quantized, in order.

        A product with a constant that is no matrix is none of them: a query that pools tokens, or
        a matrix for each attention head.
        """
        return [
            node
            for node in self.model.graph.node
            if node.op_type in WEIGHTED
            and self.stage(node) in QUANTIZED_STAGES
            and len(node.input) > 1
            and node.input[1] in self.initializers
            and (node.op_type == "Conv" or len(self.initializers[node.input[1]].dims) == 2)
            and node.input[0] not in self.initializers
        ]

    @cached_property
    def activations(self) -> list[str]:
        """Float32 values that layers take, or that follow them before the tail; in order."""
        taken = {str(layer.input[0]) for layer in self.layers}
        given = [value.name for value in self.model.graph.input if value.name in taken]
        return given + [
            name
            for node in self.model.graph.node
            if self.stage(node) in QUANTIZED_STAGES
            for name in node.output
            if name in self.shapes and len(self.shapes[name]) > 1
            if name in taken or self.stage(node) != "preprocess"
        ]

    def bounds(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        """Return what a ReLU, a Clip or a Min with constants keeps of any value; None for others.

        A quantizer whose codes all lie between these bounds does the operation's work. So zero,
        which always has a code, must lie between them; of a Min by channel the least counts.
        """
        low, high = 0.0 if node.op_type == "Relu" else -np.inf, np.inf
        others = list(node.input[1:])
        if node.op_type not in ("Relu", "Clip", "Min") or any(
            name and name not in self.initializers for name in others
        ):
            return None
        if node.op_type == "Clip" and others and others[0]:
            low = float(self.weight(others[0]).item())
        for name in others[1:] if node.op_type == "Clip" else others:
            high = min(high, float(self.weight(name).min()))
        return (low, high) if low <= 0 <= high else None

    def bounding(self, output: str) -> list[onnx.NodeProto]:
        """Return the operations with bounds that alone read a value, one after the other."""
        found: list[onnx.NodeProto] = []
        while output not in self.outputs and len(after := self.consumers.get(output, [])) == 1:
            if self.stage(after[0]) not in QUANTIZED_STAGES or self.bounds(after[0]) is None:
                break
            found.append(after[0])
            output = str(after[0].output[0])
        return found

    def activated(self, layer: onnx.NodeProto) -> str:
        """Return a layer's output, after its ReLU or Clip where it has one of its own."""
        return str([layer, *self.bounding(str(layer.output[0]))][-1].output[0])

    def multiply_adds(self, layer: onnx.NodeProto) -> int:
        """Return a layer's multiply-adds for one picture."""
        weight = self.weight(layer.input[1])
        shape = self.shapes.get(layer.output[0], ())
        places = [size for size in (shape[2:] if layer.op_type == "Conv" else shape[1:-1]) if size]
        return int(weight.size * np.prod(places, dtype=np.int64))

    def layer_name(self, layer: onnx.NodeProto) -> str:
        """Return a layer's name in the network, read off its weight's."""
        name = str(layer.input[1])
        if not name.endswith(".weight"):
            return str(layer.name)
        return name.removesuffix(".weight").removeprefix("backbone.backbone.")


def check_float32(artifact: Artifact) -> None:
    """Check that an artifact may be calibrated and quantized.

    Raises:
        IncompatibleArtifactError: if it is quantized already.
    """
    manifest = artifact.manifest
    if manifest.precision != "fp32":
        raise IncompatibleArtifactError(
            f"{artifact.path} is {manifest.precision} for {manifest.target} already; start from "
            f"the float32 artifact that it was made of ({', '.join(manifest.parents)})"
        )


def load_graph(artifact: Artifact) -> Graph:
    """Read an artifact's graph, shapes inferred.

    Raises:
        InputError: if it is too large to be quantized in one piece.
    """
    path: Path = artifact.model
    if f"{path.name}.data" in artifact.manifest.files:
        raise InputError(
            f"{path} keeps its weights beside it, because they are too large for one file; only "
            "graphs in one file can be quantized so far"
        )
    return Graph(onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True))


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return a model's metadata."""
    return {item.key: item.value for item in model.metadata_props}


def set_metadata(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Replace a model's metadata."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)


def attribute(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    """Return a node's integer attribute."""
    return next((int(item.i) for item in node.attribute if item.name == name), default)
