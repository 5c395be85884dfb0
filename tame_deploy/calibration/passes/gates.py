"""Gates and their pooling, spelt so that CPUs compute them on eight-bit codes.

ONNX Runtime has integer kernels for a Sigmoid, a product, a sum and a global mean, and none for
HardSwish, HardSigmoid or ReduceMean. In float32 each of those costs a conversion on either side,
which is more than small networks gain by integer convolutions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tame_deploy.calibration.graph import Graph, attribute
from tame_deploy.calibration.observing.ranges import Range

__all__ = ["is_hard_gate", "rescale_hard_sigmoids", "spell_gates", "spell_hard_sigmoids"]

_CODES = 255


def spell_gates(graph: Graph, ranges: Mapping[str, Range]) -> tuple[Graph, dict[str, Range]]:
    """Return the graph in operations that have integer kernels, and the ranges with those of new.

    HardSwish(x) becomes x * HardSigmoid(x), and a mean over height and width GlobalAveragePool.
    """
    nodes: list[onnx.NodeProto] = []
    known = dict(ranges)
    for node in graph.nodes:
        source, output = str(node.input[0]) if node.input else "", str(node.output[0])
        if node.op_type == "HardSwish" and output in ranges:
            gate = f"{output}/gate"
            known[gate] = (0.0, 1.0)
            hard = helper.make_node(
                "HardSigmoid", [source], [gate], f"{node.name}/gate", alpha=1 / 6, beta=0.5
            )
            nodes += [hard, helper.make_node("Mul", [source, gate], [output], node.name)]
        elif _is_global_mean(graph, node):
            nodes.append(helper.make_node("GlobalAveragePool", [source], [output], node.name))
        else:
            nodes.append(node)
    return _with_nodes(graph, nodes), known


def _is_global_mean(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node is the mean over height and width, and keeps both."""
    if node.op_type != "ReduceMean" or not attribute(node, "keepdims", 1) or len(node.input) != 2:
        return False
    known = node.input[1] in graph.initializers and len(graph.shapes.get(node.input[0], ())) == 4
    return known and sorted(axis % 4 for axis in graph.weight(node.input[1]).tolist()) == [2, 3]


def is_hard_gate(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node is a HardSigmoid that only multiplies, so that its codes may be read anew.

    Layers may not read it: their biases are whole multiples of the step of what they read.
    """
    readers = graph.consumers.get(str(node.output[0]), [])
    return (
        node.op_type == "HardSigmoid"
        and min(_slope_and_offset(node)) > 0
        and bool(readers)
        and all(reader.op_type == "Mul" for reader in readers)
    )


def _slope_and_offset(node: onnx.NodeProto) -> tuple[float, float]:
    given = {item.name: float(item.f) for item in node.attribute}
    return given.get("alpha", 0.2), given.get("beta", 0.5)


def spell_hard_sigmoids(
    graph: Graph, ranges: Mapping[str, Range], nodes: Collection[str]
) -> tuple[Graph, dict[str, Range], dict[str, float]]:
    """Return the graph with each quantized HardSigmoid as an addition, whose quantizer clips.

    clip(a x + b, 0, 1) is a clip(x + b / a, 0, 1 / a). The codes of the sum over (0, 1 / a) are
    those of the gate over (0, 1): `rescale_hard_sigmoids` has them read so, once there are pairs.

    Args:
        graph: before pairs are inserted.
        ranges: of every activation.
        nodes: names of what is to be quantized.

    Returns:
        The graph, its ranges, and a by the name of the gate.
    """
    spelt: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    known, slopes = dict(ranges), dict[str, float]()
    for node in graph.nodes:
        gate = str(node.output[0])
        if node.name not in nodes or not is_hard_gate(graph, node):
            spelt.append(node)
            continue
        slope, offset = _slope_and_offset(node)
        slopes[gate], known[gate] = slope, (0.0, 1 / slope)
        parts = [f"{gate}/offset_{part}" for part in ("codes", "scale", "zero_point")]
        step = np.float32(offset / slope / _CODES)
        values = (np.uint8(_CODES), step, np.uint8(0))
        constants += map(numpy_helper.from_array, map(np.asarray, values), parts)
        made = helper.make_node("DequantizeLinear", parts, [f"{gate}/offset"], f"{gate}/offset")
        added = helper.make_node("Add", [node.input[0], f"{gate}/offset"], [gate], node.name)
        spelt += [made, added]
    return _with_nodes(graph, spelt, constants), known, slopes


def rescale_hard_sigmoids(model: onnx.ModelProto, slopes: Mapping[str, float]) -> None:
    """Have the codes of sums that `spell_hard_sigmoids` made be read as gates between 0 and 1."""
    codes = {
        node.output[0]: slopes[node.input[0]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in slopes
    }
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in codes:
            name = f"{node.output[0]}/scale"
            scale = np.asarray(1 / _CODES, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(scale, name))
            node.input[1] = name


def _with_nodes(
    graph: Graph, nodes: list[onnx.NodeProto], constants: Collection[onnx.TensorProto] = ()
) -> Graph:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    return Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))
