"""A quantized graph in a known arithmetic, on any processor: slow, for few pictures.

Layers that integer kernels run are computed here, in whole numbers. What is between them, ONNX
Runtime computes as it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from tame_deploy.artifact.types import TensorSpec, check_feeds
from tame_deploy.calibration.arithmetic.integer_layers import IntegerLayer, integer_layers
from tame_deploy.calibration.arithmetic.overflow import saturation_excess
from tame_deploy.calibration.graph import Graph
from tame_deploy.closing import Closing

__all__ = ["Arithmetic", "ReferenceBackend"]

#: "exact", as with VNNI and on ARM; or with pairs of products that saturate, as with AVX2 alone.
Arithmetic = Literal["exact", "saturating"]

_EXACT_IN_FLOAT32 = 2**24
_LARGEST_CODE = 255

Values = dict[str, NDArray[Any]]


class ReferenceBackend(Closing):
    """Runs a graph with Q/DQ pairs in exact integer arithmetic, or in one that saturates.

    Args:
        model: in one piece.
        inputs: of the graph.
        outputs: of the graph.
        arithmetic: of layers with eight-bit weights.
    """

    max_batch: int | None = 1

    def __init__(
        self,
        model: onnx.ModelProto,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        arithmetic: Arithmetic,
    ) -> None:
        self.name = f"reference, {arithmetic}"
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._saturating = arithmetic == "saturating"
        self._steps = list(_steps(model))

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Values:
        """Return the outputs by name (see `Backend.run`)."""
        check_feeds(self.inputs, feeds)
        values: Values = dict(feeds)
        for step in self._steps:
            if isinstance(step, _Stretch):
                step.run(values)
            else:
                _run_layer(step, values, self._saturating)
        return {spec.name: values[spec.name] for spec in self.outputs}

    def close(self) -> None:
        """Free the sessions."""
        self._steps = []


class _Stretch:
    """Nodes in a row that are no integer layers; a session is made when types are known."""

    def __init__(self, model: onnx.ModelProto, nodes: list[onnx.NodeProto], read: set[str]) -> None:
        self._model, self._nodes = model, nodes
        made = {name for node in nodes for name in node.output}
        self._gives = sorted(made & read)
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        taken = {name for node in nodes for name in node.input if name} - made
        self._takes = sorted(taken - constants.keys())
        self._constants = [constants[name] for name in sorted(taken & constants.keys())]
        self._session: Any = None

    def run(self, values: Values) -> None:
        """Add what the nodes give to the values."""
        feeds = {name: values[name] for name in self._takes}
        if self._session is None:
            self._session = self._open(feeds)
        found = self._session.run(self._gives, feeds)
        values.update(zip(self._gives, found, strict=True))

    def _open(self, feeds: Values) -> Any:
        inputs = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
            )
            for name, value in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self._gives]
        graph = onnx.helper.make_graph(self._nodes, "part", inputs, outputs, self._constants)
        model = onnx.helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return ort.InferenceSession(model.SerializeToString(), settings)


def _steps(model: onnx.ModelProto) -> Iterator[IntegerLayer | _Stretch]:
    """Yield the layers, and the stretches of other nodes between them, in order."""
    graph = Graph(model)
    layers = {str(layer.node.output[0]): layer for layer in integer_layers(graph)}
    stretches = _split(graph, layers)
    needed = [_taken(step) for step in stretches]
    for number, step in enumerate(stretches):
        if isinstance(step, IntegerLayer):
            yield step
        else:
            read = set(graph.outputs).union(*needed[number + 1 :])
            yield _Stretch(model, step, read)


def _taken(step: IntegerLayer | list[onnx.NodeProto]) -> set[str]:
    if isinstance(step, IntegerLayer):
        return {step.source.name}
    return {str(name) for node in step for name in node.input}


def _split(
    graph: Graph, layers: Mapping[str, IntegerLayer]
) -> list[IntegerLayer | list[onnx.NodeProto]]:
    """Return layers and lists of other nodes; pairs that the layers do themselves are left out."""
    written = {layer.output.name for layer in layers.values() if layer.output is not None}
    steps: list[IntegerLayer | list[onnx.NodeProto]] = []
    for node in graph.nodes:
        output = str(node.output[0])
        readers = graph.consumers.get(output, [])
        inside = bool(readers) and all(str(one.output[0]) in layers for one in readers)
        inside = inside and output not in graph.outputs and node.op_type == "DequantizeLinear"
        if output in layers:
            steps.append(layers[output])
        elif output in written or inside:
            continue
        elif steps and isinstance(steps[-1], list):
            steps[-1].append(node)
        else:
            steps.append([node])
    return steps


def _run_layer(layer: IntegerLayer, values: Values, saturating: bool) -> None:
    """Add what a layer gives to the values: codes, or float32 where nothing quantizes it."""
    codes, zero = values[layer.source.name], layer.source.zero
    if layer.source.signed:  # the same numbers as uint8, as kernels for uint8 take them
        codes, zero = (codes.astype(np.int16) + 128).astype(np.uint8), zero + 128
    terms, shape = _terms(layer, codes, zero)
    sums = _sums(layer, terms, saturating)
    weights = layer.weights.astype(np.int64).sum(axis=2).reshape(-1, 1)
    sums = sums - zero * weights + layer.bias[:, None]
    found = _placed(layer, sums, shape)
    scale = layer.source.step * layer.steps
    if layer.output is not None:
        scale = scale / layer.output.step
    axis = (-1, 1, 1) if layer.kernel else (-1,)
    scaled = found.astype(np.float32) * scale.reshape(axis)
    if layer.output is None:
        values[str(layer.node.output[0])] = scaled
        return
    kind = np.int8 if layer.output.signed else np.uint8
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    rounded = np.rint(scaled).astype(np.int64) + layer.output.zero
    values[layer.output.name] = np.clip(rounded, least, most).astype(kind)


def _sums(layer: IntegerLayer, terms: NDArray[np.uint8], saturating: bool) -> NDArray[np.int64]:
    """Return the sums of codes times weights, int64 (channels, places).

    Args:
        layer: whose weights.
        terms: uint8 (groups, terms, places).
        saturating: whether pairs of products saturate in 16 bits.
    """
    largest = _LARGEST_CODE * np.abs(layer.weights.astype(np.int64)).sum(axis=2).max(initial=0)
    exact: Any = np.float32 if largest < _EXACT_IN_FLOAT32 else np.float64
    sums = np.matmul(layer.weights.astype(exact), terms.astype(exact)).astype(np.int64)
    if saturating and not layer.depthwise:
        pairs = zip(terms, layer.weights, strict=True)
        sums -= np.stack([saturation_excess(codes, weights) for codes, weights in pairs])
    return np.asarray(sums.reshape(-1, sums.shape[2]), np.int64)


def _terms(
    layer: IntegerLayer, codes: NDArray[np.uint8], zero: int
) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Return what each place multiplies, uint8 (groups, terms, places), and the places' shape."""
    if not layer.kernel:
        return codes.reshape(-1, codes.shape[-1]).T[None], codes.shape[:-1]
    strides, dilations = (_pair(layer.node, name, 1) for name in ("strides", "dilations"))
    top, left, bottom, right = _ints(layer.node, "pads", (0, 0, 0, 0))
    padded = np.pad(
        codes, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero
    )  # zero is the code of 0.0
    size = [(k - 1) * d + 1 for k, d in zip(layer.kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    batch, channels, height, width = windows.shape[:4]
    groups = len(layer.weights)
    split = windows.reshape(batch, groups, channels // groups, *windows.shape[2:])
    # (groups, kernel height, kernel width, channels of a group, batch, height, width)
    ordered = split.transpose(1, 5, 6, 2, 0, 3, 4)
    return ordered.reshape(groups, -1, batch * height * width), (batch, height, width)


def _placed(
    layer: IntegerLayer, sums: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return sums (channels, places) in the order of the layer's output."""
    placed = sums.reshape(-1, *shape)
    return placed.swapaxes(0, 1) if layer.kernel else np.moveaxis(placed, 0, -1)


def _pair(node: onnx.NodeProto, name: str, default: int) -> tuple[int, ...]:
    return _ints(node, name, (default, default))


def _ints(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return next((tuple(item.ints) for item in node.attribute if item.name == name), default)
