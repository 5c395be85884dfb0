"""Where quantize and dequantize nodes go: one graph, two targets, the same ranges."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    TensorData,
    TensorsData,
)

from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing.ranges import Range
from tame_deploy.calibration.passes.bounds import drop_least, fuse_bounds, within_bounds
from tame_deploy.calibration.passes.gates import (
    is_hard_gate,
    rescale_hard_sigmoids,
    spell_gates,
    spell_hard_sigmoids,
)
from tame_deploy.calibration.passes.pixels import normalise_rows
from tame_deploy.calibration.passes.weights import step_overrides
from tame_deploy.errors import BuildError

__all__ = ["TARGETS", "Placement", "Target", "quantize_graph"]

#: "cpu" means the same on every processor; "cpu-vnni" has finer weights, which need one with VNNI.
Target = Literal["cpu", "cpu-vnni", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)

#: Operations that an eight-bit kernel does on the codes themselves.
_PASSING = frozenset(
    {"MaxPool", "Concat", "Add", "Mul", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}
)
#: Of those, the ones that only pick values: one range for inputs and output loses nothing.
_PICKING = frozenset({"MaxPool", "Concat"})

#: Operations whose integer kernels may give float32: what needs eight bits of it asks for them.
_FLOAT_OUTPUT = frozenset({"Gemm", "MatMul"})

_DEQUANTIZE = "DequantizeLinear"
_FUSED = {"Conv": "FusedConv", "Gemm": "FusedGemm"}


@dataclass(frozen=True)
class Placement:
    """What is quantized, and over which ranges.

    Attributes:
        target: whose kernels will run it.
        ranges: of every activation.
        excluded: names of the layers that stay in higher precision.
        steps: of the output channels of layers whose weights were rounded to them.
    """

    target: Target
    ranges: Mapping[str, Range]
    excluded: frozenset[str] = field(default=frozenset())
    steps: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def quantize_graph(graph: Graph, placement: Placement) -> onnx.ModelProto:
    """Return the graph with Q/DQ pairs; nothing in its tail is touched.

    "cpu": uint8 activations, int8 weights by channel, int32 biases, on both sides of an operation,
    which ONNX Runtime makes integer kernels of; weights are as fine as no processor spoils.
    "cpu-vnni": the same with all eight bits for weights. "tensorrt": symmetric int8 before every
    layer and on the shortcut of a residual addition, never between a convolution and its ReLU or
    addition, so that TensorRT fuses them.
    """
    if not {str(layer.name) for layer in graph.layers} - placement.excluded:
        untouched = onnx.ModelProto()  # to the tool, no nodes would mean all
        untouched.CopyFrom(graph.model)
        return untouched
    if placement.target != "tensorrt":
        graph, known = spell_gates(normalise_rows(graph), placement.ranges)
        nodes = _integer_nodes(graph, placement.excluded)
        graph, known, gates = spell_hard_sigmoids(graph, known, nodes)
        ranges = _shared_ranges(graph, known, set(nodes))
        fused, nodes = fuse_bounds(graph, ranges, nodes)
        options: dict[str, Any] = {
            "OpTypesToExcludeOutputQuantization": sorted(_FLOAT_OUTPUT),
            "TensorQuantOverrides": step_overrides(
                fused, nodes, placement.steps, portable=placement.target == "cpu"
            ),
        }
        model = _insert(fused, ranges, nodes, sorted(_PASSING), QuantType.QUInt8, options)
        rescale_hard_sigmoids(model, gates)
        _shield(model, placement.excluded)
    else:
        nodes = [str(layer.name) for layer in graph.layers if layer.name not in placement.excluded]
        graph = drop_least(graph, placement.ranges, set(nodes))
        options = {
            "ActivationSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": True,
            "OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "MatMul"],
            "TensorQuantOverrides": step_overrides(graph, nodes, placement.steps, portable=False),
        }
        model = _insert(graph, placement.ranges, nodes, [], QuantType.QInt8, options)
        _restore_excluded_inputs(model, graph, placement.excluded)
        _quantize_shortcuts(model, graph, placement, set(nodes))
    return model


def _integer_nodes(graph: Graph, excluded: frozenset[str]) -> list[str]:
    """Return the layers to quantize, and what lies between them and needs no float32."""
    layers = {str(layer.name) for layer in graph.layers} - excluded
    activations = set(graph.activations)
    passing = [
        node
        for node in graph.nodes
        if (_passes_codes(graph, node) and activations.issuperset((*node.input, *node.output)))
        or (graph.bounds(node) and node.output[0] in activations)
    ]
    given: set[str] = {str(node.output[0]) for node in graph.nodes if node.name in layers}
    for node in passing:
        if given.intersection(node.input):
            given.add(str(node.output[0]))
    wanted: set[str] = {str(node.input[0]) for node in graph.nodes if node.name in layers}
    for node in reversed(passing):
        if node.output[0] in wanted:
            wanted.update(str(name) for name in node.input)
    between = {
        str(node.name)
        for node in passing
        if given.intersection(node.input) and (node.output[0] in wanted or graph.bounds(node))
    }
    return [str(node.name) for node in graph.nodes if node.name in layers | between]


def _passes_codes(graph: Graph, node: onnx.NodeProto) -> bool:
    return node.op_type in _PASSING or is_hard_gate(graph, node)


def _shared_ranges(graph: Graph, ranges: Mapping[str, Range], nodes: set[str]) -> dict[str, Range]:
    """Return the ranges with one for all that meet in a concatenation or a pooling.

    Codes are then copied; else each input would be rounded a second time.
    """
    shared = dict(ranges)
    picking = [n for n in graph.nodes if n.name in nodes and n.op_type in _PICKING]
    changed = True
    while changed:
        changed = False
        for node in picking:
            names = [name for name in (*node.input, *node.output) if name in shared]
            low, high = (f(shared[n][i] for n in names) for i, f in enumerate((min, max)))
            for name in names:
                changed = changed or shared[name] != (low, high)
                shared[name] = (low, high)
    return within_bounds(graph, shared, nodes)


def _insert(
    graph: Graph,
    ranges: Mapping[str, Range],
    nodes: list[str],
    passing: list[str],
    activations: QuantType,
    options: dict[str, Any],
) -> onnx.ModelProto:
    """Have ONNX Runtime's tool insert the pairs."""
    every = dict(ranges)
    for layer in graph.layers:  # the tool asks for the range of what its ReLU hides, too
        if graph.activated(layer) not in every:
            raise BuildError(f"the output of {layer.name} has no range; its shape is not known")
        every.setdefault(str(layer.output[0]), every[graph.activated(layer)])
    known = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in every.items()
    }
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            True,  # weights by channel
            False,  # of the whole eight bits
            QuantType.QInt8,
            activations,
            TensorsData(CalibrationMethod.MinMax, known),
            nodes,
            [],
            ["Conv", "Gemm", "MatMul", *passing],
            {"WeightSymmetric": True, **options},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _shield(model: onnx.ModelProto, excluded: frozenset[str]) -> None:
    """Keep ONNX Runtime from quantizing excluded layers after all.

    Its WeightBiasQuantization gives any Conv or Gemm between a DequantizeLinear and a
    QuantizeLinear eight-bit weights. It passes over the fused spelling of the same operation.
    """
    dequantized = {
        name for node in model.graph.node if node.op_type == _DEQUANTIZE for name in node.output
    }
    shielded = [
        node
        for node in model.graph.node
        if node.name in excluded and node.input[0] in dequantized and node.op_type in _FUSED
    ]
    for node in shielded:
        node.op_type, node.domain = _FUSED[node.op_type], "com.microsoft"
    if shielded and all(item.domain != "com.microsoft" for item in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tool's advice on its own flags off the user's screen."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _restore_excluded_inputs(
    model: onnx.ModelProto, graph: Graph, excluded: frozenset[str]
) -> None:
    """Give excluded layers their inputs as they were.

    The tool sends every reader of a value through the pair of the one that is quantized.
    """
    inputs = {str(layer.name): str(layer.input[0]) for layer in graph.layers}
    for node in model.graph.node:
        if node.name in excluded:
            node.input[0] = inputs[node.name]


def _quantize_shortcuts(
    model: onnx.ModelProto, graph: Graph, placement: Placement, nodes: set[str]
) -> None:
    """Quantize the other input of an addition that a layer's output goes into.

    The addition fuses into that layer, which then reads its shortcut in eight bits.
    """
    layer_of = {str(layer.output[0]): str(layer.name) for layer in graph.layers}
    added = {str(node.name): node for node in model.graph.node if node.op_type == "Add"}
    for original in graph.nodes:
        if original.op_type != "Add" or original.output[0] not in graph.activations:
            continue
        fusing = [
            name
            for name in original.input
            if layer_of.get(name) in nodes and len(graph.consumers[name]) == 1
        ]
        others = [name for name in original.input if name not in fusing[:1]]
        addition = added[str(original.name)]
        # Where the shortcut's value feeds a single layer, the tool has sent it here as well.
        known = len(others) == 1 and others[0] in placement.ranges  # else it is a bias
        if fusing and known and others[0] in addition.input:
            _insert_pair(model, addition, others[0], placement.ranges[others[0]])


def _insert_pair(model: onnx.ModelProto, node: onnx.NodeProto, name: str, span: Range) -> None:
    """Put a symmetric Q/DQ pair between a value and one node."""
    prefix = f"{name}/{node.name}"
    scale = np.float32(max(-span[0], span[1]) / 127) or np.float32(1)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.asarray(scale, np.float32), f"{prefix}_scale"),
            numpy_helper.from_array(np.asarray(0, np.int8), f"{prefix}_zero_point"),
        ]
    )
    constants = [f"{prefix}_scale", f"{prefix}_zero_point"]
    pair = [
        onnx.helper.make_node(
            "QuantizeLinear",
            [name, *constants],
            [f"{prefix}_quantized"],
            f"{prefix}_QuantizeLinear",
        ),
        onnx.helper.make_node(
            "DequantizeLinear",
            [f"{prefix}_quantized", *constants],
            [f"{prefix}_dequantized"],
            f"{prefix}_DequantizeLinear",
        ),
    ]
    place = list(model.graph.node).index(node)
    for offset, made in enumerate(pair):
        model.graph.node.insert(place + offset, made)
    inserted = model.graph.node[place + 2]
    inserted.input[list(inserted.input).index(name)] = f"{prefix}_dequantized"
