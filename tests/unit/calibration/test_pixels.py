import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.passes.pixels import (
    PIXELS,
    fold_pixels,
    normalise_rows,
    pixel_means,
)


def first_layer(
    pads, mean=(0.485, 0.456, 0.406), deviation=(0.23, 0.22, 0.24), levels=TensorProto.UINT8
):
    channels = len(mean)
    random = np.random.default_rng(0)
    constants = {
        "scale": (1 / (255 * np.reshape(deviation, (1, channels, 1, 1)))).astype(np.float32),
        "shift": np.reshape(-np.divide(mean, deviation), (1, channels, 1, 1)).astype(np.float32),
        "weight": random.standard_normal((4, channels, 3, 3)).astype(np.float32),
        "bias": random.standard_normal(4).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], "preprocess/Cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["nchw"], "preprocess/T", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["nchw", "scale"], ["scaled"], "preprocess/Mul"),
        helper.make_node("Add", ["scaled", "shift"], ["normal"], "preprocess/Add"),
        helper.make_node("Conv", ["normal", "weight", "bias"], ["out"], "backbone/C", pads=pads),
    ]
    graph = helper.make_graph(
        nodes,
        "first",
        [helper.make_tensor_value_info("images", levels, ["batch", 9, 9, channels])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))


def run(graph, pixels):
    import onnxruntime as ort

    return ort.InferenceSession(graph.model.SerializeToString()).run(None, {"images": pixels})[0]


def test_normalisation_folds_into_a_convolution_without_padding():
    graph = first_layer([0, 0, 0, 0])
    pixels = np.random.default_rng(1).integers(0, 256, (2, 9, 9, 3), np.uint8)
    folded, span = fold_pixels(graph)
    assert span == (0, 1)
    assert [n.op_type for n in folded.nodes] == ["Transpose", "DequantizeLinear", "Conv"]
    np.testing.assert_allclose(run(folded, pixels), run(graph, pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 5])
def test_grey_and_many_channels_fold_and_are_normalised_by_rows_as_colours_are(channels):
    graph = first_layer([0, 0, 0, 0], [0.4] * channels, [0.3] * channels)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 9, 9, channels), np.uint8)
    for changed in (fold_pixels(graph)[0], normalise_rows(graph)):
        assert changed is not graph
        np.testing.assert_allclose(run(changed, pixels), run(graph, pixels), rtol=1e-4, atol=1e-4)


def test_16_bits_are_no_codes_of_8_and_are_not_folded():
    graph = first_layer([0, 0, 0, 0], [0.4], [0.3], TensorProto.UINT16)
    assert fold_pixels(graph) is None


def test_with_padding_it_would_not_be_exact_and_is_left_alone():
    assert fold_pixels(first_layer([1, 1, 1, 1])) is None


def test_with_a_mean_of_a_half_padding_costs_half_a_level_at_the_border_alone():
    graph = first_layer([1, 1, 1, 1], [0.5] * 3, [0.5] * 3)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 9, 9, 3), np.uint8)
    folded, span = fold_pixels(graph)
    assert span in [(-128 / 255, 127 / 255), (-127 / 255, 128 / 255)]
    found, exact = run(folded, pixels), run(graph, pixels)
    np.testing.assert_allclose(found[:, :, 1:-1, 1:-1], exact[:, :, 1:-1, 1:-1], 1e-4, 1e-4)
    half = np.abs(graph.weight("weight")).sum(axis=(1, 2, 3)) / 255
    assert (np.abs(found - exact) <= half[None, :, None, None]).all()


def test_the_means_of_colours_are_those_before_normalisation():
    graph = first_layer([0, 0, 0, 0])
    colours = np.array([0.2, 0.5, 0.9])
    scale, shift = (graph.weight(name).ravel() for name in ("scale", "shift"))
    found = pixel_means(graph, {"normal": tuple(255 * colours * scale + shift)})
    assert found == pytest.approx(colours, rel=1e-5)
    assert PIXELS in fold_pixels(graph)[0].shapes


def test_rows_of_pixels_are_normalised_before_they_are_transposed():
    graph = first_layer([1, 1, 1, 1])
    pixels = np.random.default_rng(1).integers(0, 256, (2, 9, 9, 3), np.uint8)
    found = normalise_rows(graph)
    kinds = [node.op_type for node in found.nodes]
    assert kinds == ["Cast", "Reshape", "Mul", "Add", "Reshape", "Transpose", "Conv"]
    np.testing.assert_array_equal(run(found, pixels), run(graph, pixels))


def test_a_graph_whose_normalisation_is_folded_is_left_alone():
    folded = fold_pixels(first_layer([0, 0, 0, 0]))[0]
    assert normalise_rows(folded) is folded
