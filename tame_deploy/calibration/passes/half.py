"""FP16: backbone and branches in half precision, FP32 in and out, and the tail untouched.

Known converters put a pair of casts around every node that is to stay in float32, so each of the
tail's values would be rounded to float16 on its way to the next. Here casts stand only where
precision changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing.ranges import Range
from tame_deploy.errors import BuildError

__all__ = ["QDQ_HALF_OPSET", "at_least_opset", "check_activations_fit_half", "halve"]

#: The first opset whose Q/DQ pairs may work on float16.
QDQ_HALF_OPSET = 19
#: The largest float16.
LARGEST = 65504.0
#: The least float16 of full precision.
LEAST_SCALE = 2.0**-14
#: Half of the least float16; what is smaller is rounded to zero.
VANISHING = 2.0**-25
#: Constants beyond this stand for «no bound», as where attention masks what it must not see.
UNBOUNDED = 1e38

_HALF_STAGES = ("backbone", "branches")
_PAIR = ("QuantizeLinear", "DequantizeLinear")
#: What needs float32 even between float16 neighbours: sums of many terms, and their ratios.
_FULL_OPERATIONS = frozenset({"LayerNormalization", "Softmax", "InstanceNormalization"})
#: What takes a small constant to keep a divisor from zero, which is zero itself in float16.
_TAKES_EPSILON = frozenset({"Max", "Clip", "Add"})
#: Inputs that must be float32 whatever the first one is.
_FULL_INPUTS = {"Resize": (1, 2)}


def halve(graph: Graph) -> onnx.ModelProto:
    """Return the graph with backbone and branches, and Q/DQ pairs, in float16.

    Raises:
        BuildError: if a weight does not fit into float16, or the result is no valid ONNX.
    """
    _scan_weights(graph)
    model = _Halving(graph).run()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(f"the float16 graph is not valid ONNX: {error!s:.300}") from error
    return model


class _Halving:
    """One pass over the nodes, in order; casts are made where a value is first needed otherwise."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.half_values: set[str] = set()
        self.made: dict[tuple[str, bool], str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def run(self) -> onnx.ModelProto:
        """Return the converted model."""
        for node in self.graph.nodes:
            self._convert(node)
        model = onnx.ModelProto()
        model.CopyFrom(self.graph.model)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
        kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(self.nodes)
        model.graph.initializer.extend([*kept, *self.constants])
        return model

    def _is_half(self, node: onnx.NodeProto) -> bool:
        if any(item.type == onnx.AttributeProto.GRAPH for item in node.attribute):
            return False
        staged = self.graph.stage(node) in _HALF_STAGES and node.op_type not in _FULL_OPERATIONS
        return staged or node.op_type in _PAIR

    def _convert(self, original: onnx.NodeProto) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        half = self._is_half(node)
        full_inputs = _FULL_INPUTS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if node.op_type in _PAIR and place == 1:
                node.input[place] = self._scale(name)
            elif half and node.op_type in _TAKES_EPSILON and self._vanishes(name):
                node.input[place] = self._epsilon(name)
            elif self._is_float(name):
                node.input[place] = self._as(name, half and place not in full_inputs)
        self.nodes.append(node)
        if not half:
            return
        _halve_attributes(node)
        for place, name in enumerate(node.output):
            if not self._is_float(name):
                continue
            self.half_values.add(name)
            if name in self.graph.outputs:
                node.output[place] = f"{name}_float16"
                self.made[name, True] = node.output[place]
                self.nodes.append(_cast(node.output[place], name, half=False))
                self.made[name, False] = name

    def _scale(self, name: str) -> str:
        """Return a pair's scale in float16, never so small that it would be rounded to nothing."""
        made = f"{name}_float16"
        if (name, True) not in self.made:
            values = np.maximum(self.graph.weight(name), LEAST_SCALE).astype(np.float16)
            self.constants.append(numpy_helper.from_array(values, made))
            self.made[name, True] = made
        return made

    def _vanishes(self, name: str) -> bool:
        """Whether a constant is one number above zero that float16 takes for zero."""
        constant = self.graph.initializers.get(name)
        if constant is None or constant.data_type != TensorProto.FLOAT:
            return False
        values = self.graph.weight(name)
        return values.size == 1 and 0 < float(values.reshape(())) < VANISHING

    def _epsilon(self, name: str) -> str:
        """Return the least float16 of full precision in place of a smaller constant."""
        made = f"{name}_epsilon_float16"
        if made not in self.half_values:
            values = np.full_like(self.graph.weight(name), LEAST_SCALE, dtype=np.float16)
            self.constants.append(numpy_helper.from_array(values, made))
            self.half_values.add(made)
        return made

    def _is_float(self, name: str) -> bool:
        constant = self.graph.initializers.get(name)
        if constant is not None:
            return bool(constant.data_type == TensorProto.FLOAT)
        return name in self.graph.shapes

    def _as(self, name: str, half: bool) -> str:
        """Return the name of a value in float16 or float32, making it where there is none."""
        if (name, half) in self.made:
            return self.made[name, half]
        if (name in self.half_values) == half:
            return name
        made = f"{name}_{'float16' if half else 'float32'}"
        self.made[name, half] = made
        if name in self.graph.initializers:
            self.constants.append(numpy_helper.from_array(_halved(self.graph.weight(name)), made))
        else:
            self.nodes.append(_cast(name, made, half=half))
        return made


def _halved(values: NDArray[Any]) -> NDArray[np.float16]:
    """Return constants in float16; what stands for «no bound» becomes the largest there is."""
    unbounded = np.isfinite(values) & (np.abs(values) > UNBOUNDED)
    return np.where(unbounded, np.copysign(LARGEST, values), values).astype(np.float16)


def _cast(source: str, target: str, *, half: bool) -> onnx.NodeProto:
    to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    return onnx.helper.make_node("Cast", [source], [target], f"precision/Cast_{target}", to=to)


def _halve_attributes(node: onnx.NodeProto) -> None:
    if node.op_type == "ConstantOfShape" and not node.attribute:  # zeros, which are float32 unsaid
        zero = numpy_helper.from_array(np.zeros(1, np.float16))
        node.attribute.append(onnx.helper.make_attribute("value", zero))
    for item in node.attribute:
        if node.op_type == "Cast" and item.name == "to" and item.i == TensorProto.FLOAT:
            item.i = TensorProto.FLOAT16
        if item.type == onnx.AttributeProto.TENSOR and item.t.data_type == TensorProto.FLOAT:
            values = _halved(numpy_helper.to_array(item.t))
            item.t.CopyFrom(numpy_helper.from_array(values, item.t.name))


def _half_constants(graph: Graph) -> Iterator[str]:
    """Yield the names of float32 constants that backbone and branches read."""
    for node in graph.nodes:
        if graph.stage(node) in _HALF_STAGES:
            yield from (name for name in node.input if name in graph.initializers)


def _scan_weights(graph: Graph) -> None:
    """Refuse constants that float16 cannot hold: they would become infinite."""
    for name in dict.fromkeys(_half_constants(graph)):
        if graph.initializers[name].data_type != TensorProto.FLOAT:
            continue
        values = np.abs(graph.weight(name))
        largest = float(values[~(values > UNBOUNDED)].max(initial=0))
        if not largest <= LARGEST:  # NaN as well
            raise BuildError(
                f"{name} reaches {largest:.4g}, more than float16 holds ({LARGEST:g}). "
                "Keep fp32, or use --precision int8"
            )


def check_activations_fit_half(ranges: Mapping[str, Range]) -> None:
    """Refuse activations that float16 cannot hold: they would become infinite on the way.

    What stands for «no bound», as where a mask was laid on, does not count.

    Args:
        ranges: the least and the largest value that each activation was seen to take.

    Raises:
        BuildError: if one reaches more than the largest float16.
    """
    for name, (low, high) in ranges.items():
        largest = max((abs(end) for end in (low, high) if abs(end) <= UNBOUNDED), default=0.0)
        if largest > LARGEST:
            raise BuildError(
                f"the activation {name} reaches {largest:.4g}, more than float16 holds "
                f"({LARGEST:g}). Keep fp32, or use --precision int8"
            )


def at_least_opset(graph: Graph, opset: int) -> Graph:
    """Return the graph in an opset, if it is written in an earlier one.

    Raises:
        BuildError: if ONNX cannot convert it.
    """
    current = next(item.version for item in graph.model.opset_import if item.domain == "")
    if current >= opset:
        return graph
    try:
        converted = onnx.version_converter.convert_version(graph.model, opset)
    except Exception as error:  # the converter raises what its C++ side throws
        raise BuildError(
            f"ONNX cannot bring the graph to opset {opset}: {error!s:.200}. "
            f"Export it with --opset {opset}"
        ) from error
    _keep_names(graph.model, converted)
    return Graph(onnx.shape_inference.infer_shapes(converted, data_prop=True))


def _keep_names(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Give nodes their names back, which say their stage; the converter drops them."""
    names = {str(node.output[0]): node for node in before.graph.node}
    for node in after.graph.node:
        original = names.get(str(node.output[0]))
        if original is not None:
            node.name = original.name
            del node.metadata_props[:]
            node.metadata_props.extend(original.metadata_props)
