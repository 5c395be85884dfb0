"""How fine the steps of eight-bit weights are, and that no processor spoils them."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tame_deploy.calibration.arithmetic.integer_layers import integer_layers, overflowing_layers
from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.passes.bias_correction import bias_shifts
from tame_deploy.calibration.passes.placement import Placement, quantize_graph
from tame_deploy.calibration.passes.weights import layer_steps
from tests.unit.calibration.graphs import pictures, small_graph
from tests.unit.calibration.test_graphs import spans


def one_layer(kind, weight, **attributes):
    """Return a graph of one layer that reads `images`."""
    weight = np.asarray(weight, np.float32)
    node = helper.make_node(kind, ["images", "w"], ["logits"], "backbone/layer", **attributes)
    rank = 4 if kind == "Conv" else 2
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *[None] * (rank - 1)])
        for name in ("images", "logits")
    ]
    made = helper.make_graph(
        [node], "one", values[:1], values[1:], [numpy_helper.from_array(weight, "w")]
    )
    return Graph(helper.make_model(made))


def codes(graph, *, portable=True):
    """Return a graph's only weight in steps, channels first."""
    (layer,) = graph.layers
    steps = layer_steps(graph, layer, portable=portable)
    weight = graph.weight("w")
    rows = weight if len(weight) == len(steps) else weight.T
    return np.round(rows / steps.reshape(-1, *[1] * (rows.ndim - 1)))


@pytest.mark.parametrize("seed", range(5))
def test_no_two_products_of_a_portable_graph_overflow_and_all_of_vnni_s_may(seed):
    graph, shown = small_graph(seed, spread=2), pictures()
    portable, finer = (
        quantize_graph(graph, Placement(target, spans(graph, shown)))
        for target in ("cpu", "cpu-vnni")
    )
    assert overflowing_layers(portable) == []
    assert len(overflowing_layers(finer)) == len(integer_layers(Graph(finer))) == 7
    for layer in integer_layers(Graph(portable)):
        ordered = np.sort(layer.weights.astype(int), axis=2)
        assert ordered[..., -2:].sum(axis=2).max() <= 128
        assert ordered[..., :2].sum(axis=2).min() >= -128


@pytest.mark.parametrize(
    ("layer", "largest"),
    [
        (("Conv", np.ones((2, 3, 1, 1))), 64),  # two of them make 128
        (("Conv", [[[[1.0]], [[0.5]]]]), 85),  # 85 + 43
        (("Conv", [[[[1.0]], [[-1.0]]]]), 127),  # of opposite signs they cancel
        (("Conv", [[[[1.0]], [[0.001]], [[-0.9]]]]), 127),
        (("Conv", np.ones((4, 1, 3, 3)), {"group": 4}), 127),  # depthwise
        (("Conv", np.ones((4, 2, 3, 3)), {"group": 2}), 64),
        (("Conv", np.ones((4, 1, 3, 3)), {"group": 2}), 64),  # two outputs an input: not depthwise
        (("Gemm", np.ones((5, 2)), {"transB": 1}), 64),
        (("Gemm", np.ones((2, 5))), 64),
        (("MatMul", np.ones((2, 5))), 64),
    ],
    ids=str,
)
def test_weights_use_as_many_codes_as_no_processor_spoils(layer, largest):
    kind, weight, *attributes = layer
    graph = one_layer(kind, weight, **(attributes[0] if attributes else {}))
    assert np.abs(codes(graph)).max() == largest
    assert np.abs(codes(graph, portable=False)).max() == 127


def test_a_channel_without_weights_has_a_step():
    graph = one_layer("Conv", np.zeros((2, 3, 1, 1)))
    assert (layer_steps(graph, graph.layers[0], portable=True) == 1).all()


@pytest.mark.parametrize("target", ["cpu", "cpu-vnni"])
def test_biases_are_corrected_for_the_weights_that_the_graph_holds(target):
    graph, shown = small_graph(), pictures()
    layer = graph.layers[0]
    means = np.array([1.0, -2.0, 3.0])
    shift = bias_shifts(graph, {"images": means}, portable=target == "cpu")[str(layer.name)]
    model = quantize_graph(graph, Placement(target, spans(graph, shown)))
    (found,) = (one for one in integer_layers(Graph(model)) if one.node.name == layer.name)
    held = found.weights[0].reshape(6, 9, 3) * found.steps[:, None, None]
    exact = np.moveaxis(graph.weight(layer.input[1]), 1, -1).reshape(6, 9, 3)
    np.testing.assert_allclose(shift, (held - exact).sum(axis=1) @ means, atol=1e-6)
