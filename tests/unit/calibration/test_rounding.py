"""Weights rounded together: closer outputs, and codes that no processor spoils."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tame_deploy.calibration.arithmetic.overflow import may_overflow
from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing.moments import InputMoments, _is_known, _windows
from tame_deploy.calibration.passes.placement import TARGETS, Placement, quantize_graph
from tame_deploy.calibration.passes.rounding import (
    RoundedLayer,
    _looked_at_again,
    _room,
    round_layer,
    with_rounded,
)
from tame_deploy.calibration.passes.weights import layer_steps, output_axis
from tests.unit.calibration.graphs import pictures, small_graph
from tests.unit.calibration.test_graphs import spans

LAYERS = {
    "pointwise": ("Conv", (16, 24, 1, 1), {}),
    "convolution": ("Conv", (8, 4, 3, 3), {}),
    "depthwise": ("Conv", (12, 1, 3, 3), {"group": 12}),
    "grouped": ("Conv", (12, 4, 3, 3), {"group": 3}),
    "gemm": ("Gemm", (10, 24), {"transB": 1}),
    "gemm-untransposed": ("Gemm", (24, 10), {}),
    "matrix-product": ("MatMul", (24, 10), {}),
}


def a_layer(name, seed=0):
    """Return a graph of one layer, and moments of inputs that a few causes have in common."""
    kind, shape, attributes = LAYERS[name]
    random = np.random.default_rng(seed)
    weight = random.standard_normal(shape).astype(np.float32)
    channels = shape[0] if kind == "Conv" or "transB" in attributes else shape[1]
    bias = random.standard_normal(channels).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    inputs = ["images", "w"] if kind == "MatMul" else ["images", "w", "b"]
    node = helper.make_node(kind, inputs, ["logits"], "backbone/layer", **attributes)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("images", "out")]
    graph = Graph(helper.make_model(helper.make_graph([node], "one", [values[0]], [], constants)))
    groups = attributes.get("group", 1)
    length = weight.size // channels
    causes, spread = random.standard_normal((400, groups, 3)), (groups, 3, length)
    met = np.einsum("pgc,gcl->pgl", causes, random.standard_normal(spread))
    met = np.maximum(met + 0.2 * random.standard_normal(met.shape) + 0.5, 0)
    # Weak inputs have to make up for strong ones, and would like to grow beyond all bounds.
    met = (met * np.geomspace(30, 0.3, length)).astype(np.float32)
    moments = InputMoments.of_rows(groups, length)
    moments.add(met)
    return graph, graph.layers[0], moments, met


def given_by(layer, weight, bias, met):
    """Return what a layer gives for the inputs of its rows, (places, channels)."""
    rows = np.moveaxis(weight, output_axis(layer), 0).reshape(met.shape[1], -1, met.shape[2])
    found = np.einsum("pgl,gol->pgo", met, rows).reshape(len(met), -1)
    return found if bias is None else found + bias


def in_steps(layer, weight, steps):
    """Return a weight in steps, (channels, weights)."""
    return np.moveaxis(weight, output_axis(layer), 0).reshape(len(steps), -1) / steps[:, None]


@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_gives_is_closer_than_with_every_weight_rounded_by_itself(name, portable):
    graph, layer, moments, met = a_layer(name)
    weight = graph.weight("w")
    bias = None if layer.op_type == "MatMul" else graph.weight("b")
    exact = given_by(layer, weight, bias, met)
    steps = layer_steps(graph, layer, portable=portable)
    codes = np.round(in_steps(layer, weight, steps)) * steps[:, None]
    nearest = np.moveaxis(
        codes.reshape(np.moveaxis(weight, output_axis(layer), 0).shape), 0, output_axis(layer)
    )
    rounded = round_layer(graph, layer, moments, portable=portable)
    assert (rounded.bias is None) == (bias is None)
    before = ((given_by(layer, nearest, bias, met) - exact) ** 2).mean()
    after = ((given_by(layer, rounded.weight, rounded.bias, met) - exact) ** 2).mean()
    assert after < 0.5 * before
    if bias is not None:
        error = given_by(layer, rounded.weight, rounded.bias, met) - exact
        assert np.abs(error.mean(axis=0)).max() < 1e-5


@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_rounded_weights_are_whole_steps_that_no_processor_spoils(name, portable):
    graph, _, moments, _ = a_layer(name)
    weight = graph.weight("w").copy()
    weight[(slice(None), *[0] * (weight.ndim - 1))] *= 4  # one that stands out leaves others room
    weight[(0, slice(None), *[0] * (weight.ndim - 2))] *= 4
    graph = graph.with_weights({"w": weight})
    layer = graph.layers[0]
    rounded = round_layer(graph, layer, moments, portable=portable)
    codes = in_steps(layer, rounded.weight, rounded.steps)
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    assert np.abs(codes).max() < 127.5
    if portable and name != "depthwise":
        assert not may_overflow(np.round(codes).astype(np.int8)).any()
    least = layer_steps(graph, layer, portable=portable)
    assert (rounded.steps >= least).all()
    assert (rounded.steps > least).any()  # short rows take the step that suits them best


def test_only_the_largest_code_on_its_side_of_zero_may_exceed_the_second_largest():
    codes = np.array([[100.0, 20, -5, 28], [-90, 3, -30, -2]])
    lowest, highest = _room(codes, pairs=True)
    np.testing.assert_array_equal(lowest, [[0, 0, -5, 0], [-90, -30, -30, -30]])
    np.testing.assert_array_equal(highest, [[100, 28, 28, 28], [0, 3, 0, 0]])
    np.testing.assert_array_equal(_room(codes, pairs=False)[1], [[100] * 4, [90] * 4])


def test_a_second_look_takes_error_off_codes_and_leaves_the_best_alone():
    random = np.random.default_rng(0)
    causes = random.standard_normal((2, 140, 10))  # more weights than are looked at together
    second = causes @ causes.transpose(0, 2, 1) / 10 + 0.1 * np.eye(140)
    values = random.uniform(-49, 49, (2, 3, 140))
    bounds = np.full(values.shape, -50.0), np.full(values.shape, 50.0)

    def lost(codes):
        return (((codes - values) @ second) * (codes - values)).sum()

    nearest = np.clip(np.rint(values), *bounds)
    once = _looked_at_again(nearest, values, second, *bounds)
    assert lost(once) < 0.7 * lost(nearest)
    assert (np.abs(once) <= 50).all()
    assert (once == np.rint(once)).all()
    settled = once
    for _ in range(10):
        settled = _looked_at_again(settled, values, second, *bounds)
    for place in range(140):  # now no code alone could be better
        for change in (-1, 1):
            other = settled.copy()
            other[..., place] = np.clip(other[..., place] + change, -50, 50)
            assert lost(other) >= lost(settled)


@pytest.mark.parametrize("target", TARGETS)
def test_the_graph_holds_the_codes_that_were_chosen(target):
    graph, shown = small_graph(), pictures()
    layer = graph.layers[0]
    steps = 1.3 * layer_steps(graph, layer, portable=True)
    codes = np.round(in_steps(layer, graph.weight(layer.input[1]), steps))
    weight = (codes * steps[:, None]).reshape(graph.weight(layer.input[1]).shape)
    rounded = {str(layer.name): RoundedLayer(weight.astype(np.float32), None, steps)}
    placed = Placement(target, spans(graph, shown), steps={str(layer.name): steps})
    model = Graph(quantize_graph(with_rounded(graph, rounded, ()), placed))
    held = next(one for one in model.nodes if one.name == layer.name).input[1]
    codes_name, scale = model.producers[held].input[:2]
    np.testing.assert_array_equal(model.weight(scale), steps.astype(np.float32))
    if (quantizer := model.producers.get(codes_name)) is not None:  # weights in float32
        found = np.round(in_steps(layer, model.weight(quantizer.input[0]), model.weight(scale)))
    else:
        found = model.weight(codes_name).reshape(codes.shape)
    np.testing.assert_array_equal(found, codes)


def test_excluded_layers_keep_weight_and_bias():
    graph, layer, moments, _ = a_layer("pointwise")
    rounded = {str(layer.name): round_layer(graph, layer, moments, portable=True)}
    for excluded in (set(), {str(layer.name)}):
        found = with_rounded(graph, rounded, excluded)
        for name in ("w", "b"):
            assert (found.weight(name) == graph.weight(name)).all() == bool(excluded)


def test_a_weight_that_layers_share_is_left_alone():
    graph, layer, moments, _ = a_layer("pointwise")
    model = graph.model
    model.graph.node.append(helper.make_node("Conv", ["images", "w"], ["twin"], "backbone/twin"))
    assert round_layer(Graph(model), layer, moments, portable=True) is None


def test_a_layer_whose_inputs_do_not_vary_is_left_to_be_rounded_weight_by_weight():
    graph, layer, _, _ = a_layer("pointwise")
    mean, count = 1000.0, 400
    # Sums of float32 are a little off: the variance is below zero.
    products = np.full((1, 24, 24), count * mean**2 * (1 - 1e-6), np.float32)
    moments = InputMoments(np.full((1, 24), count * mean), products, count)
    assert round_layer(graph, layer, moments, portable=True) is None


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_windows_are_what_the_convolution_meets(kernel, strides, dilations, pads):
    random = np.random.default_rng(0)
    weight = random.standard_normal((5, 3, *kernel)).astype(np.float32)
    value = random.standard_normal((2, 3, 9, 8)).astype(np.float32)
    node = helper.make_node(
        "Conv", ["images", "w"], ["out"], "backbone/layer",
        strides=strides, dilations=dilations, pads=pads,
    )  # fmt: skip
    made = helper.make_graph(
        [node], "one",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, value.shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (expected,) = ort.InferenceSession(model.SerializeToString()).run(None, {"images": value})
    met = _windows(value, node, Graph(model), 10**6, random)
    found = met.reshape(len(met), -1) @ weight.reshape(5, -1).T
    by_place = expected.transpose(0, 2, 3, 1).reshape(-1, 5)
    np.testing.assert_allclose(found, by_place, rtol=1e-4, atol=1e-4)


def test_layers_that_cannot_be_watched_are_passed_over():
    graph, layer, _, _ = a_layer("pointwise")
    assert _is_known(graph, layer)
    graph.shapes.pop("images")
    assert not _is_known(graph, layer)
    small = small_graph()
    assert all(_is_known(small, one) for one in small.layers)
    sequence = numpy_helper.from_array(np.ones((4, 3, 3), np.float32), "backbone.c1.weight")
    small.initializers["backbone.c1.weight"].CopyFrom(sequence)
    assert not _is_known(Graph(small.model), small.layers[0])
