"""What quantization makes of the blocks of today's networks: what fuses, pairs, exactness."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest

from tame_deploy.calibration.observing.ranges import ranges_of
from tame_deploy.calibration.passes.placement import Placement, quantize_graph
from tests.unit.calibration.blocks import SHAPE, block, block_pictures
from tests.unit.calibration.graphs import run_model, watch

SIX = {"low": np.float32(0), "high": np.float32(6)}


@dataclass(frozen=True)
class Case:
    """A block, what of it stays in float32, and its number of pairs on either target."""

    text: str
    constants: dict = field(default_factory=dict)
    float32: tuple = ()
    cpu: int = 0
    tensorrt: int = 0
    shape: tuple = SHAPE


CONVS = {"w1": (8, 8, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,)}
CONV = "<pads=[1,1,1,1]>"


def between(activation):
    """Return a convolution, an activation function from h to a, and another convolution."""
    return f"h = Conv{CONV}(images, w1, b1) {activation} y = Conv{CONV}(a, w2, b2)"


CASES = {
    "ReLU": Case(between("a = Relu(h)"), CONVS, (), 3, 2),
    "ReLU6": Case(between("a = Clip(h, low, high)"), CONVS | SIX, (), 3, 2),
}


def quantized(case, target, method="minmax"):
    graph = block(case.text, case.shape, **case.constants)
    shown = block_pictures(shape=case.shape)
    ranges = {name: ranges_of(seen)[method] for name, seen in watch(graph, shown).items()}
    return graph, shown, quantize_graph(graph, Placement(target, ranges))


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("name", CASES)
def test_a_block_has_no_more_pairs_than_it_needs(name, target):
    case = CASES[name]
    graph, _, model = quantized(case, target)
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(node.op_type for node in model.graph.node)
    weights = {tensor.name for tensor in model.graph.initializer}
    taken = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len([name for name in taken if name not in weights]) == getattr(case, target)
    layers = {layer.op_type for layer in graph.layers}
    if target == "cpu":
        pairs = {"QuantizeLinear", "DequantizeLinear"}
        assert sorted(kinds.keys() - pairs - layers) == sorted(case.float32)


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("name", CASES)
def test_a_block_in_eight_bits_is_close_to_float32(name, target):
    graph, shown, model = quantized(CASES[name], target)
    exact = run_model(graph.model, shown, ["y"], optimized=False)[0]
    found = run_model(model, shown, ["y"], optimized=False)[0]
    assert ((exact - found) ** 2).sum() < 1e-3 * ((exact - exact.mean()) ** 2).sum()
