"""What passes over the graph may and may not change."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.observing.ranges import ranges_of
from tame_deploy.calibration.passes.bias_correction import bias_shifts, correct_biases
from tame_deploy.calibration.passes.equalization import ChannelGroups, equalize
from tame_deploy.calibration.passes.half import at_least_opset, check_activations_fit_half, halve
from tame_deploy.calibration.passes.placement import Placement, quantize_graph
from tame_deploy.errors import BuildError
from tame_deploy.metrics.evaluation_set import _HALF_CAST
from tame_deploy.runtime.backends.onnxruntime.backend import _settings
from tame_deploy.runtime.backends.protocol import BackendOptions
from tests.unit.calibration.graphs import optimised, pictures, run_model, small_graph, watch


def spans(graph, shown, method="minmax"):
    return {name: ranges_of(seen)[method] for name, seen in watch(graph, shown).items()}


def errors(model, graph, shown):
    """Return the relative squared error of logits and of maps."""
    pairs = zip(run_model(graph.model, shown), run_model(model, shown), strict=True)
    return [float(((a - b) ** 2).sum() / ((a - a.mean()) ** 2).sum()) for a, b in pairs]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_equalisation_is_exact_and_evens_out_the_channels(strength):
    graph, shown = small_graph(spread=3), pictures()
    before = {name: seen.channel_peaks for name, seen in watch(graph, shown).items()}
    balanced = equalize(graph, before, strength)
    for a, b in zip(run_model(graph.model, shown), run_model(balanced.model, shown), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    if strength == 1:
        after = watch(balanced, shown)
        assert max(before["relu2"]) / min(before["relu2"]) > 1.5
        for name in ("relu2", "joined"):
            assert max(after[name].channel_peaks) / min(after[name].channel_peaks) < 1.01


def test_what_meets_in_an_addition_is_rescaled_alike():
    channels = ChannelGroups(small_graph())
    first, second, third = (
        channels.groups[channels.ids[name]] for name in ("relu1", "relu2", "conv3")
    )
    assert (first == third).all()
    assert len(set(first)) == 6  # its own channels are not joined with each other
    assert not set(first) & set(second)


def test_channels_that_a_sigmoid_reads_are_left_alone():
    graph, shown = small_graph(end="Sigmoid"), pictures()
    channels = ChannelGroups(graph)
    assert set(channels.ids["joined"].tolist()) <= channels.fixed
    peaks = {name: seen.channel_peaks for name, seen in watch(graph, shown).items()}
    balanced = equalize(graph, peaks, 0.7)
    for a, b in zip(run_model(graph.model, shown), run_model(balanced.model, shown), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_equalisation_lowers_the_error_of_eight_bits():
    graph, shown = small_graph(spread=3), pictures(64)
    peaks = {name: seen.channel_peaks for name, seen in watch(graph, shown).items()}
    balanced = equalize(graph, peaks, 0.7)
    before, after = (
        sum(errors(quantize_graph(one, Placement("tensorrt", spans(one, shown))), graph, shown))
        for one in (graph, balanced)
    )
    assert after < 0.8 * before


def test_bias_correction_takes_the_mean_error_off():
    graph, shown = small_graph(), pictures(256)
    coarse = onnx.ModelProto()
    coarse.CopyFrom(graph.model)
    # Weights of few levels, so that rounding them shifts the output visibly.
    random = np.random.default_rng(0)
    for tensor in coarse.graph.initializer:
        if tensor.name == "backbone.c4.weight":
            values = random.uniform(0.01, 0.03, (4, 6, 1, 1)).astype(np.float32)
            values[:, 0] = 3
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    graph = Graph(onnx.shape_inference.infer_shapes(coarse, data_prop=True))
    seen = watch(graph, shown)
    shifts = bias_shifts(graph, {name: one.channel_means for name, one in seen.items()})
    ranges = spans(graph, shown)
    excluded = frozenset(str(layer.name) for layer in graph.layers) - {"backbone/Conv_4"}

    def mean_error(one):
        model = quantize_graph(one, Placement("tensorrt", ranges, excluded))
        model.graph.output.append(onnx.ValueInfoProto(name="conv4"))
        exact = onnx.ModelProto()
        exact.CopyFrom(graph.model)
        exact.graph.output.append(onnx.ValueInfoProto(name="conv4"))
        pair = [run_model(m, shown, ["conv4"], optimized=False)[0] for m in (model, exact)]
        return np.abs((pair[0] - pair[1]).mean(axis=(0, 2, 3))).max()

    corrected = correct_biases(graph, shifts, excluded)
    assert mean_error(corrected) < 0.5 * mean_error(graph)
    for name, tensor in corrected.initializers.items():
        if name.endswith("bias") and name != "backbone.c4.bias":  # excluded layers round nothing
            assert tensor == graph.initializers[name]


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_eight_bits_are_close_and_the_tail_stays_out_of_it(target):
    graph, shown = small_graph(), pictures(64)
    model = quantize_graph(graph, Placement(target, spans(graph, shown)))
    onnx.checker.check_model(model, full_check=True)
    assert max(errors(model, graph, shown)) < 0.01
    quantized = {name for node in model.graph.node if "Linear" in node.op_type
                 for name in (*node.input, *node.output)}  # fmt: skip
    tail = [node for node in model.graph.node if node.name.startswith("tail/")]
    assert [node.op_type for node in tail] == ["Reshape", "MatMul", "Reshape"]
    assert "tail.rows" not in quantized
    assert "product" not in quantized


def test_the_cpu_gets_unsigned_activations_and_whole_biases():
    graph = small_graph()
    model = quantize_graph(graph, Placement("cpu", spans(graph, pictures())))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types["relu1_zero_point"] == TensorProto.UINT8
    assert types["backbone.c2.weight_quantized"] == TensorProto.INT8
    assert types["backbone.c2.bias_quantized"] == TensorProto.INT32
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert scales["relu4_scale"] == scales["relu5_scale"]
    assert scales["backbone.c2.weight_scale"].shape == (6,)


def test_tensorrt_can_fuse_layers_with_their_relu_and_addition():
    graph = small_graph()
    model = quantize_graph(graph, Placement("tensorrt", spans(graph, pictures())))
    readers = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    for number in (1, 2, 4, 5, 7):
        assert readers[f"conv{number}"] == ["Relu"]
    assert readers["conv3"] == ["Add"]
    addition = next(node for node in model.graph.node if node.op_type == "Add")
    assert [name for name in addition.input if "equantize" in name.lower()] != []
    assert "conv3" in addition.input
    zero_points = [t for t in model.graph.initializer if t.name.endswith("zero_point")]
    assert all(not numpy_helper.to_array(tensor).any() for tensor in zero_points)


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_an_excluded_layer_stays_exact_in_the_runtimes_own_optimisations(target, tmp_path):
    # ONNX Runtime would give it eight-bit weights between the pairs of its neighbours.
    graph, shown = small_graph(), pictures(64)
    model = quantize_graph(
        graph, Placement(target, spans(graph, shown), frozenset({"backbone/Conv_2"}))
    )
    found = optimised(model, tmp_path / "optimised.onnx")
    readers = [node for node in found.node if "backbone.c2.weight" in node.input]
    assert [node.op_type for node in readers] in (["Conv"], ["FusedConv"])
    assert target != "cpu" or any(node.op_type == "QLinearConv" for node in found.node)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in found.initializer}
    for name in ("backbone.c2.weight", "backbone.c2.bias"):
        assert name in readers[0].input
        np.testing.assert_array_equal(constants[name], graph.weight(name))


def test_float16_stands_only_in_backbone_and_branches():
    graph, shown = small_graph(), pictures()
    model = halve(graph)
    assert max(errors(model, graph, shown)) < 1e-5
    typed = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in typed.graph.value_info}
    assert types["conv1"] == types["relu7"] == TensorProto.FLOAT16
    assert types["product"] == TensorProto.FLOAT
    assert [v.type.tensor_type.elem_type for v in model.graph.output] == [TensorProto.FLOAT] * 2
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 3  # pictures in, logits out, branch into the tail


def with_nodes_behind_the_sum(nodes, **constants):
    """Return the small graph with nodes that make "more" of "sum"."""
    model = onnx.ModelProto()
    model.CopyFrom(small_graph().model)
    place = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "relu3")
    model.graph.node[place].input[0] = "more"
    for offset, (kind, inputs, output) in enumerate(nodes):
        made = onnx.helper.make_node(kind, inputs, [output], f"backbone/{output}")
        model.graph.node.insert(place + offset, made)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    return Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))


def test_zeros_of_a_shape_are_float16_among_float16():
    """As where Swin rolls its windows: a ConstantOfShape that names no value makes float32."""
    graph = with_nodes_behind_the_sum([
        ("Shape", ["sum"], "like"),
        ("ConstantOfShape", ["like"], "zeros"),
        ("Add", ["sum", "zeros"], "more"),
    ])  # fmt: skip
    assert max(errors(halve(graph), graph, pictures())) < 1e-5


def test_what_keeps_a_divisor_from_zero_does_so_in_float16():
    """As in the cosine attention of Swin v2: a token of zeros has a length of zero."""
    graph = with_nodes_behind_the_sum([
        ("Sub", ["sum", "sum"], "nothing"),
        ("Max", ["nothing", "epsilon"], "length"),
        ("Div", ["nothing", "length"], "still_nothing"),
        ("Add", ["sum", "still_nothing"], "more"),
    ], epsilon=1e-12)  # fmt: skip
    assert max(errors(halve(graph), graph, pictures())) < 1e-5


def test_what_stands_for_no_bound_is_the_largest_float16():
    """As where attention masks what it must not see with the least float32."""
    graph = with_nodes_behind_the_sum(
        [("Max", ["sum", "least"], "more")], least=np.finfo(np.float32).min
    )
    assert max(errors(halve(graph), graph, pictures())) < 1e-5


def test_activations_that_stand_for_no_bound_do_not_count():
    masked = float(np.finfo(np.float32).min)
    check_activations_fit_half({"masked": (masked, 5.0)})
    with pytest.raises(BuildError, match="activation too_large reaches 1e[+]05, more than float16"):
        check_activations_fit_half({"masked": (masked, 5.0), "too_large": (masked, 1e5)})


def test_float16_is_opened_without_layouts_on_which_the_runtime_crashes():
    graph = small_graph()
    assert _HALF_CAST in halve(graph).SerializeToString()
    assert _HALF_CAST not in graph.model.SerializeToString()
    full = _settings(BackendOptions(), integer_kernels=True, float16=False)
    half = _settings(BackendOptions(), integer_kernels=True, float16=True)
    assert half.graph_optimization_level.value < full.graph_optimization_level.value


def test_a_weight_that_float16_cannot_hold_is_named():
    graph = small_graph()
    for tensor in graph.model.graph.initializer:
        if tensor.name == "backbone.c2.bias":
            values = np.full(6, 1e5, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(BuildError, match="backbone.c2.bias reaches 1e.05"):
        halve(Graph(graph.model))


def test_eight_bits_with_float16_around_them():
    graph, shown = at_least_opset(small_graph(), 19), pictures(64)
    assert [node.name for node in graph.nodes] == [node.name for node in small_graph().nodes]
    pairs = quantize_graph(graph, Placement("tensorrt", spans(graph, shown)))
    model = halve(Graph(onnx.shape_inference.infer_shapes(pairs, data_prop=True)))
    assert max(errors(model, graph, shown)) < 0.01
    typed = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in typed.graph.value_info}
    given = [name for n in model.graph.node if n.op_type == "DequantizeLinear" for name in n.output]
    assert {types[name] for name in given} == {TensorProto.FLOAT16}


def test_when_every_layer_is_excluded_the_graph_is_as_it_was():
    graph, shown = small_graph(), pictures()
    every = frozenset(str(layer.name) for layer in graph.layers)
    for target in ("cpu", "tensorrt"):
        model = quantize_graph(graph, Placement(target, spans(graph, shown), every))
        assert max(errors(model, graph, shown)) == 0


def test_the_scale_of_a_quiet_channel_is_never_zero_in_float16():
    graph, shown = at_least_opset(small_graph(), 19), pictures()
    for tensor in graph.model.graph.initializer:
        if tensor.name == "backbone.c2.weight":
            values = numpy_helper.to_array(tensor).copy()
            values[0] *= 1e-8
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    graph = Graph(graph.model)
    pairs = quantize_graph(graph, Placement("tensorrt", spans(graph, shown)))
    model = halve(Graph(onnx.shape_inference.infer_shapes(pairs, data_prop=True)))
    scales = [
        numpy_helper.to_array(t) for t in model.graph.initializer if "scale_float16" in t.name
    ]
    assert len(scales) > 5
    assert all((scale > 0).all() for scale in scales)


def test_a_bias_after_a_product_is_no_shortcut():
    graph = small_graph()
    for node in graph.model.graph.node:
        if node.op_type == "Add":
            node.input[1] = "constant_to_add"
    values = np.ones((1, 6, 1, 1), np.float32)
    graph.model.graph.initializer.append(numpy_helper.from_array(values, "constant_to_add"))
    graph = Graph(graph.model)
    model = quantize_graph(graph, Placement("tensorrt", spans(graph, pictures())))
    addition = next(node for node in model.graph.node if node.op_type == "Add")
    assert list(addition.input) == ["conv3", "constant_to_add"]


def test_an_excluded_layer_reads_its_input_as_it_was():
    graph = small_graph()
    excluded = frozenset({"backbone/Conv_5"})  # its neighbour is the one quantized reader
    model = quantize_graph(graph, Placement("tensorrt", spans(graph, pictures()), excluded))
    inputs = {node.name: node.input[0] for node in model.graph.node}
    assert inputs["backbone/Conv_5"] == "relu3"
    assert "relu3" in inputs["backbone/Conv_4"] != "relu3"
