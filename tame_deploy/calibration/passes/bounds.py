"""ReLU and Clip fused into the quantizer that follows, which cuts off the same values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing.ranges import Range

__all__ = ["drop_least", "fuse_bounds", "within_bounds"]

#: A range may exceed a bound by a fraction of a step: both were computed in float32.
_ROUNDING = 1 + 1e-4


def within_bounds(graph: Graph, ranges: Mapping[str, Range], nodes: set[str]) -> dict[str, Range]:
    """Return the ranges, those of quantized activation functions cut to what these let through.

    A range that was widened, because it is shared, would else undo the activation function.
    """
    cut = dict(ranges)
    for node in graph.nodes:
        whole = node.name in nodes and node.op_type != "Min"  # a Min may differ by channel
        kept = graph.bounds(node) if whole else None
        name = str(node.output[0])
        if kept is not None and name in cut:
            cut[name] = max(cut[name][0], kept[0]), min(cut[name][1], kept[1])
    return cut


def fuse_bounds(
    graph: Graph, ranges: Mapping[str, Range], nodes: Sequence[str]
) -> tuple[Graph, list[str]]:
    """Return the graph without the bounds that quantizers keep, and the nodes left to quantize.

    A ReLU, Clip or Min goes where the operation before it is quantized, and its own output is
    over a range that lies within its bounds. Any other is left, in float32.

    Args:
        graph: before pairs are inserted.
        ranges: of every activation.
        nodes: names of what is to be quantized.
    """
    chosen = set(nodes)
    renamed: dict[str, str] = {}
    gone: set[str] = set()
    for node in graph.nodes:
        if node.name not in chosen or node.name in gone or graph.bounds(node) is not None:
            continue
        chain = [one for one in graph.bounding(str(node.output[0])) if one.name in chosen]
        if chain and _keeps(graph, chain, ranges) and _is_quantized(graph, node, chain, chosen):
            renamed[str(node.output[0])] = str(chain[-1].output[0])
            gone.update(str(one.name) for one in chain)
    fused = _without(graph, gone, renamed)
    return fused, [
        str(node.name) for node in fused.nodes if node.name in chosen and fused.bounds(node) is None
    ]


def drop_least(graph: Graph, ranges: Mapping[str, Range], nodes: set[str]) -> Graph:
    """Return the graph without each Min that the quantizers of all that read it do the work of.

    TensorRT fuses a ReLU or a Clip with its layer, but no Min by channel.

    Args:
        graph: before pairs are inserted.
        ranges: of every activation.
        nodes: names of the layers that read their first input in eight bits.
    """
    gone, renamed = set[str](), dict[str, str]()
    for node in graph.nodes:
        name = str(node.output[0])
        if node.op_type != "Min" or name not in ranges or not _keeps(graph, [node], ranges):
            continue
        readers = graph.consumers.get(name, [])
        alone = len(graph.consumers[node.input[0]]) == 1 and name not in graph.outputs
        if alone and all(one.name in nodes and one.input[0] == name for one in readers):
            gone.add(str(node.name))
            renamed[str(node.input[0])] = name
    return _without(graph, gone, renamed)


def _without(graph: Graph, gone: set[str], renamed: Mapping[str, str]) -> Graph:
    """Return the graph without some nodes, and with other names for some outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    model.graph.node.extend(node for node in graph.nodes if node.name not in gone)
    for node in model.graph.node:
        if node.output[0] in renamed:
            node.output[0] = renamed[node.output[0]]
    return Graph(model)


def _keeps(graph: Graph, chain: Sequence[onnx.NodeProto], ranges: Mapping[str, Range]) -> bool:
    low, high = ranges[str(chain[-1].output[0])]
    bounds = [kept for node in chain if (kept := graph.bounds(node)) is not None]
    return all(kept[0] <= low and high <= kept[1] * _ROUNDING for kept in bounds)


def _is_quantized(
    graph: Graph, node: onnx.NodeProto, chain: Sequence[onnx.NodeProto], nodes: set[str]
) -> bool:
    """Whether a quantizer follows: a Gemm or MatMul has none unless a reader needs it."""
    readers = graph.consumers.get(str(chain[-1].output[0]), [])
    taken = any(one.name in nodes and graph.bounds(one) is None for one in readers)
    return taken or node.op_type not in ("Gemm", "MatMul")
