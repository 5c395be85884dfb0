"""Both models of integer arithmetic, held to plain loops and to the kernels of this processor."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tame_deploy.artifact.types import TensorSpec
from tame_deploy.calibration.arithmetic.integer_layers import integer_layers
from tame_deploy.calibration.arithmetic.reference import ReferenceBackend
from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.passes.placement import Placement, quantize_graph
from tests.unit.calibration.graphs import SIDE, pictures, run_model, small_graph
from tests.unit.calibration.test_graphs import spans

SIDES = 7
ZERO = 97
#: name: (operation, channels in, channels out, attributes, size of the kernel)
LAYERS = {
    "3x3": ("Conv", 16, 12, {"pads": [1] * 4}, 3),
    "3x3 in steps of two": ("Conv", 3, 16, {"pads": [1] * 4, "strides": [2, 2]}, 3),
    "1x1": ("Conv", 30, 20, {}, 1),
    "5x5": ("Conv", 7, 9, {"pads": [2] * 4}, 5),
    "dilated": ("Conv", 4, 8, {"pads": [2] * 4, "dilations": [2, 2]}, 3),
    "grouped": ("Conv", 40, 32, {"pads": [1] * 4, "group": 8}, 3),
    "depthwise": ("Conv", 16, 16, {"pads": [1] * 4, "group": 16}, 3),
    "two outputs an input": ("Conv", 8, 16, {"pads": [1] * 4, "group": 8}, 3),
    "Gemm": ("Gemm", 37, 10, {"transB": 1}, 0),
    "Gemm, not transposed": ("Gemm", 37, 10, {}, 0),
    "MatMul": ("MatMul", 50, 24, {}, 0),
}


def quantized_layer(name):
    """Return a layer between pairs, with weights up to 127, and codes for it to read."""
    kind, inputs, outputs, attributes, kernel = LAYERS[name]
    random = np.random.default_rng(len(name))
    if kind == "Conv":
        shape = (outputs, inputs // attributes.get("group", 1), kernel, kernel)
        read = (2, inputs, SIDES, SIDES)
    else:
        shape = (outputs, inputs) if attributes else (inputs, outputs)
        read = (2, 5, inputs) if kind == "MatMul" else (7, inputs)
    weight = random.integers(-127, 128, shape).astype(np.int8)
    steps = (random.random(outputs) + 0.5).astype(np.float32) * np.float32(1e-3)
    step = np.float32(0.02)
    spread = np.sqrt(weight.size / outputs) * 75 * 75 * step * 1e-3
    constants = {
        "step": step,
        "zero": np.uint8(ZERO),
        "weight": weight,
        "steps": steps,
        "zeros": np.zeros(outputs, np.int8),
        "bias": random.integers(-2000, 2000, outputs).astype(np.int32),
        "units": step * steps,
        "given_step": np.float32(spread / 30),
        "given_zero": np.uint8(128),
    }
    axis = 0 if kind == "Conv" or attributes else 1
    inside = ["values", "weights"]
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["values"]),
        helper.make_node("DequantizeLinear", ["weight", "steps", "zeros"], ["weights"], axis=axis),
    ]
    if kind == "MatMul":
        del constants["bias"], constants["units"]
    else:
        nodes.append(helper.make_node("DequantizeLinear", ["bias", "units"], ["biases"], axis=0))
        inside.append("biases")
    nodes += [
        helper.make_node(kind, inside, ["sums"], "layer", **attributes),
        helper.make_node("QuantizeLinear", ["sums", "given_step", "given_zero"], ["given"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, read)],
        [helper.make_tensor_value_info("given", TensorProto.UINT8, [None] * len(read))],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model, random.integers(0, 256, read).astype(np.uint8)


def referred(model, codes, arithmetic):
    specs = [TensorSpec(name, "uint8", codes.shape) for name in ("codes", "given")]
    with ReferenceBackend(model, specs[:1], specs[1:], arithmetic) as backend:
        return backend.run({"codes": codes})["given"]


def of_this_processor(model, codes):
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), settings)
    return session.run(None, {"codes": codes})[0]


def counted_out(model, codes, *, saturating):
    """Return what a convolution gives, sum by sum and pair by pair."""
    (layer,) = integer_layers(Graph(model))
    pads = helper.get_node_attr_value(layer.node, "pads")[0] if layer.node.attribute else 0
    padded = np.pad(codes, ((0, 0), (0, 0), (pads, pads), (pads, pads)), constant_values=ZERO)
    size = layer.kernel[0]
    given = np.zeros((len(codes), layer.weights.shape[1], SIDES, SIDES), np.float32)
    for picture, channel, row, column in np.ndindex(given.shape):
        part = padded[picture, :, row : row + size, column : column + size]
        terms = part.transpose(1, 2, 0).ravel().astype(int) * layer.weights[0, channel]
        sums = [int(terms[start : start + 2].sum()) for start in range(0, len(terms), 2)]
        if saturating:
            sums = [min(max(one, -(2**15)), 2**15 - 1) for one in sums]
        weights = int(layer.weights[0, channel].astype(int).sum())
        given[picture, channel, row, column] = sum(sums) - ZERO * weights + int(layer.bias[channel])
    scale = layer.source.step * layer.steps / layer.output.step
    rounded = np.rint(given * scale[:, None, None]) + layer.output.zero
    return np.clip(rounded, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["3x3", "1x1", "5x5"])
@pytest.mark.parametrize("arithmetic", ["exact", "saturating"])
def test_the_reference_adds_as_one_counts_it_out(name, arithmetic):
    model, codes = quantized_layer(name)
    expected = counted_out(model, codes, saturating=arithmetic == "saturating")
    np.testing.assert_array_equal(referred(model, codes, arithmetic), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_this_processors_kernels_are_one_of_the_two_to_the_last_code(name):
    model, codes = quantized_layer(name)
    found = of_this_processor(model, codes)
    exact, saturating = (referred(model, codes, kind) for kind in ("exact", "saturating"))
    assert (found == exact).all() or (found == saturating).all()
    assert (exact == saturating).all() == (name == "depthwise")


def test_a_portable_graph_is_the_same_in_both_and_on_this_processor():
    graph, shown = small_graph(), pictures(8)
    specs = [
        TensorSpec("images", "float32", ("batch", 3, SIDE, SIDE)),
        TensorSpec("logits", "float32", ("batch", 5)),
        TensorSpec("maps", "float32", ("batch", 2, SIDE, SIDE)),
    ]
    for target in ("cpu", "cpu-vnni"):
        model = quantize_graph(graph, Placement(target, spans(graph, shown)))
        found = {}
        for arithmetic in ("exact", "saturating"):
            with ReferenceBackend(model, specs[:1], specs[1:], arithmetic) as backend:
                found[arithmetic] = backend.run({"images": shown})
        same = [
            np.array_equal(found["exact"][n], found["saturating"][n]) for n in ("logits", "maps")
        ]
        assert same == [target == "cpu"] * 2
        if target == "cpu":
            logits, maps = run_model(model, shown)
            np.testing.assert_allclose(found["exact"]["logits"], logits, atol=1e-5)
            np.testing.assert_allclose(found["exact"]["maps"], maps, atol=1e-5)


UNDER_VALGRIND = """
import sys
import numpy as np, onnxruntime as ort
settings = ort.SessionOptions()
settings.intra_op_num_threads = 1
for path in sys.argv[1:]:
    session = ort.InferenceSession(path + ".onnx", settings)
    np.save(path + "-found.npy", session.run(None, {"codes": np.load(path + ".npy")})[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="valgrind is AVX2 on x86-64 alone")
def test_kernels_for_avx2_alone_saturate_as_the_reference_says(tmp_path):
    # The processor that valgrind shows has AVX2 and no VNNI, whatever it runs on.
    made = {}
    for number, name in enumerate(LAYERS):
        made[name] = (tmp_path / str(number), *quantized_layer(name))
        path, model, codes = made[name]
        onnx.save(model, f"{path}.onnx")
        np.save(f"{path}.npy", codes)
    paths = [str(path) for path, *_ in made.values()]
    command = ["valgrind", "--tool=none", "-q", sys.executable, "-c", UNDER_VALGRIND, *paths]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    for name, (path, model, codes) in made.items():
        found = np.load(Path(f"{path}-found.npy"))
        assert (found == referred(model, codes, "saturating")).all(), name
