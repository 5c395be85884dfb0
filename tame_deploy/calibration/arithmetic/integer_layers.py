"""The layers of a quantized graph that run on integers, read off its Q/DQ pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tame_deploy.calibration.arithmetic.overflow import may_overflow
from tame_deploy.calibration.graph import WEIGHTED, Graph, attribute

__all__ = ["Codes", "IntegerLayer", "integer_layers", "overflowing_layers"]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
#: What may stand between an integer convolution and the codes it gives.
_BETWEEN = frozenset({"Relu", "Clip"})


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A value in eight bits, named; its codes mean (code - zero) * step."""

    name: str
    step: np.float32
    zero: int
    signed: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegerLayer:
    """A layer with int8 weights that reads eight-bit codes.

    Attributes:
        node: the Conv, Gemm or MatMul.
        source: what it reads.
        weights: int8 (groups, channels of a group, terms); a convolution's terms are in the order
            of the kernels: place by place, the channels of a place side by side.
        steps: float32 (channels,), of the weights.
        bias: int64 (channels,), in units of both steps.
        kernel: (height, width) of a convolution, () of a product.
        output: what it gives, where its only reader turns that into codes.
    """

    node: onnx.NodeProto
    source: Codes
    weights: NDArray[np.int8]
    steps: NDArray[np.float32]
    bias: NDArray[np.int64]
    kernel: tuple[int, ...]
    output: Codes | None

    @property
    def depthwise(self) -> bool:
        """Whether it is a depthwise convolution, whose kernels add in 32 bits everywhere."""
        terms = int(np.prod(self.kernel))
        return bool(self.kernel) and self.weights.shape[1:] == (1, terms)


def overflowing_layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the layers that may saturate on x86-64 processors without VNNI."""
    return [
        str(layer.node.name)
        for layer in integer_layers(Graph(model))
        if not layer.depthwise and may_overflow(layer.weights).any()
    ]


def integer_layers(graph: Graph) -> list[IntegerLayer]:
    """Return the layers of a graph with Q/DQ pairs that integer kernels run, in order."""
    nodes = [node for node in graph.nodes if node.op_type in WEIGHTED and len(node.input) > 1]
    found = [_integer_layer(graph, node) for node in nodes]
    return [layer for layer in found if layer is not None]


def _integer_layer(graph: Graph, node: onnx.NodeProto) -> IntegerLayer | None:
    source, weight = (graph.producers.get(name) for name in node.input[:2])
    if source is None or weight is None:
        return None
    codes, weight_codes = _codes(graph, source), _constant_codes(graph, weight)
    if codes is None or weight_codes is None or not _is_plain(node):
        return None
    is_conv = node.op_type == "Conv"
    if weight_codes.ndim != (4 if is_conv else 2) or (is_conv and not _gives_codes(graph, node)):
        return None
    arranged, kernel = _arranged(node, weight_codes)
    channels = arranged.shape[0] * arranged.shape[1]
    steps = graph.weight(weight.input[1]).astype(np.float32).ravel()
    steps = np.broadcast_to(steps, (channels,))
    bias = _bias(graph, node, codes.step * steps)
    if bias is None:
        return None
    return IntegerLayer(
        node=node,
        source=codes,
        weights=arranged,
        steps=steps,
        bias=np.broadcast_to(bias, (channels,)),
        kernel=kernel,
        output=_output(graph, node),
    )


def _codes(graph: Graph, pair: onnx.NodeProto, name: str = "") -> Codes | None:
    """Return the eight-bit codes that a quantizer gives or a dequantizer takes."""
    if pair.op_type not in (_QUANTIZE, _DEQUANTIZE):
        return None
    if len(pair.input) < 3 or not set(pair.input[1:]) <= graph.initializers.keys():
        return None
    step, zero = (graph.weight(constant) for constant in pair.input[1:3])
    if step.size != 1 or zero.dtype not in (np.uint8, np.int8):
        return None
    return Codes(
        name=name or str(pair.input[0]),
        step=np.float32(step.item()),
        zero=int(zero.item()),
        signed=zero.dtype == np.int8,
    )


def _constant_codes(graph: Graph, pair: onnx.NodeProto) -> NDArray[np.int8] | None:
    if pair.op_type != _DEQUANTIZE or not set(pair.input) <= graph.initializers.keys():
        return None
    codes = graph.weight(pair.input[0])
    shifted = len(pair.input) > 2 and graph.weight(pair.input[2]).any()
    return codes if codes.dtype == np.int8 and not shifted else None


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether nothing about the node changes what is multiplied and added."""
    settings = {item.name: item for item in node.attribute}
    if any(settings[name].f != 1 for name in ("alpha", "beta") if name in settings):
        return False
    automatic = "auto_pad" in settings and settings["auto_pad"].s not in (b"NOTSET", b"VALID")
    return not automatic and not attribute(node, "transA")


def _gives_codes(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether only a quantizer reads what a layer gives, as it is or clipped."""
    for _ in range(2):
        readers = graph.consumers.get(str(node.output[0]), [])
        if len(readers) != 1:
            return False
        node = readers[0]
        if node.op_type == _QUANTIZE:
            return True
        if node.op_type not in _BETWEEN:
            return False
    return False


def _arranged(
    node: onnx.NodeProto, codes: NDArray[np.int8]
) -> tuple[NDArray[np.int8], tuple[int, ...]]:
    """Return weights (groups, channels of a group, terms), and the kernel's size."""
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        by_place = np.moveaxis(codes, 1, -1)  # (O, *kernel, I / groups)
        return by_place.reshape(groups, len(codes) // groups, -1), codes.shape[2:]
    rows = codes if attribute(node, "transB") else codes.T
    return rows[None], ()


def _bias(
    graph: Graph, node: onnx.NodeProto, units: NDArray[np.float32]
) -> NDArray[np.int64] | None:
    """Return a layer's bias in whole units; None where it is no constant."""
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(1, np.int64)
    if node.input[2] in graph.initializers:
        values = graph.weight(node.input[2]).astype(np.float64)
        return np.asarray(np.rint(values / units), np.int64)
    pair = graph.producers.get(node.input[2])
    if pair is None or pair.op_type != _DEQUANTIZE or pair.input[0] not in graph.initializers:
        return None
    return graph.weight(pair.input[0]).astype(np.int64)


def _output(graph: Graph, node: onnx.NodeProto) -> Codes | None:
    readers = graph.consumers.get(str(node.output[0]), [])
    if len(readers) != 1 or node.output[0] in graph.outputs:
        return None
    pair = readers[0]
    return _codes(graph, pair, str(pair.output[0])) if pair.op_type == _QUANTIZE else None
