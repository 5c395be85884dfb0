"""What quantization makes of the blocks of today's networks: what fuses, pairs, exactness."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from tame_deploy.calibration.observing.ranges import ranges_of
from tame_deploy.calibration.passes.equalization import ChannelGroups, equalize
from tame_deploy.calibration.passes.placement import Placement, quantize_graph
from tests.unit.calibration.blocks import SHAPE, block, block_pictures
from tests.unit.calibration.graphs import optimised, run_model, watch

SIX = {"low": np.float32(0), "high": np.float32(6)}


@dataclass(frozen=True)
class Case:
    """A block, what is left besides layers and pairs, and its number of pairs on either target."""

    text: str
    constants: dict
    left: set
    cpu: int
    tensorrt: int
    shape: tuple = SHAPE


WEIGHTS = {"w1": (8, 8, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,)}
DEPTHWISE = WEIGHTS | {"w1": (8, 1, 3, 3)}
GROUPED = WEIGHTS | {"w1": (8, 4, 3, 3)}
FIRST = "h = Conv<pads=[1,1,1,1]>(images, w1, b1) "
SECOND = " y = Conv<pads=[1,1,1,1]>(a, w2, b2)"
GATE = {"g1": (4, 8, 1, 1), "c1": (4,), "g2": (8, 4, 1, 1), "c2": (8,), "axes": np.array([2, 3])}
GATED = """q = Conv(p, g1, c1) r = Relu(q) s = Conv(r, g2, c2) g = HardSigmoid(s) m = Mul(i, g)
    y = Conv<pads=[1,1,1,1]>(m, w2, b2)"""
GELU = "s = Div(h, root) e = Erf(s) o = Add(e, one) m = Mul(h, o) a = Mul(m, half)"
ONES = {"root": np.sqrt(2), "one": 1.0, "half": 0.5, "gamma": np.ones(32), "beta": np.zeros(32)}
LINEAR = {"w1": (32, 64), "b1": (64,), "w2": (64, 32), "b2": (32,)}
HEADS = dict.fromkeys(("wq", "wk", "wv", "wo"), (32, 32)) | {
    "split": np.array([0, 16, 4, 8]),
    "join": np.array([0, 16, 32]),
}
TOKENS = (16, 32)


def between(activation, constants, left, cpu, tensorrt):
    """Return a case of an activation function from h to a between two convolutions."""
    return Case(FIRST + activation + SECOND, WEIGHTS | constants, left, cpu, tensorrt)


CASES = {
    "ReLU": between("a = Relu(h)", {}, set(), 3, 2),
    "ReLU6": between("a = Clip(h, low, high)", SIX, set(), 3, 2),
    "Clip around zero": between(
        "a = Clip(h, low, high)", SIX | {"low": np.float32(-1)}, set(), 3, 2
    ),
    "Clip that lets no zero through": between(
        "a = Clip(h, low, high)", SIX | {"low": np.float32(1)}, {"Clip"}, 4, 2
    ),
    "LeakyReLU": between("a = LeakyRelu<alpha=0.1>(h)", {}, {"LeakyRelu"}, 4, 2),
    "PReLU": between("a = PRelu(h, s)", {"s": np.full((8, 1, 1), 0.2)}, {"PRelu"}, 4, 2),
    "HardSwish": between("a = HardSwish(h)", {}, {"Add", "Mul"}, 5, 2),
    "HardSigmoid": between("a = HardSigmoid(h)", {}, {"HardSigmoid"}, 4, 2),
    "SiLU": between("s = Sigmoid(h) a = Mul(h, s)", {}, {"Sigmoid", "Mul"}, 5, 2),
    "layer scale": between("a = Mul(h, gamma)", {"gamma": (8, 1, 1)}, {"Mul"}, 4, 2),
    "GELU": between("a = Gelu(h)", {}, {"Gelu"}, 4, 2),
    "GELU in parts": between(GELU, ONES, {"Div", "Erf", "Add", "Mul"}, 4, 2),
    "squeeze and excite": Case(
        FIRST + "i = Relu(h) p = ReduceMean<keepdims=1>(i, axes) " + GATED,
        WEIGHTS | GATE,
        {"GlobalAveragePool", "Add", "Mul"},
        8,
        4,
    ),
    "squeeze and excite after HardSwish": Case(
        FIRST + "i = HardSwish(h) p = GlobalAveragePool(i) " + GATED,
        WEIGHTS | GATE,
        {"GlobalAveragePool", "Add", "Mul"},
        10,
        4,
    ),
    "depthwise convolution": Case(
        "h = Conv<pads=[1,1,1,1], group=8>(images, w1, b1) a = Clip(h, low, high)" + SECOND,
        DEPTHWISE | SIX,
        set(),
        3,
        2,
    ),
    "grouped convolution": Case(
        "h = Conv<pads=[1,1,1,1], group=2>(images, w1, b1) a = Relu(h)" + SECOND,
        GROUPED,
        set(),
        3,
        2,
    ),
    "inverted residual": Case(
        FIRST + "i = Clip(h, low, high) j = Conv<pads=[1,1,1,1], group=8>(i, w3, b3) "
        "k = Clip(j, low, high) l = Conv(k, w4, b4) a = Add(l, images)" + SECOND,
        WEIGHTS | SIX | {"w3": (8, 1, 3, 3), "b3": (8,), "w4": (8, 8, 1, 1), "b4": (8,)},
        {"Add"},
        6,
        4,
    ),
    "ReLU beside none in a concatenation": Case(
        FIRST + "i = Relu(h) j = Conv(images, w3, b3) a = Concat<axis=1>(i, j)" + SECOND,
        WEIGHTS | {"w3": (8, 8, 1, 1), "b3": (8,), "w2": (8, 16, 3, 3)},
        {"Concat"},
        5,
        3,
    ),
    "average pooling and classifier": Case(
        FIRST + "i = Relu(h) p = GlobalAveragePool(i) f = Flatten(p) y = Gemm<transB=1>(f, wc, bc)",
        WEIGHTS | {"wc": (5, 8), "bc": (5,)},
        {"GlobalAveragePool", "Flatten"},
        3,
        2,
    ),
    "classifier of two layers": Case(
        "f = Flatten(images) h = Gemm(f, w1, b1) a = Relu(h) y = Gemm<transB=1>(a, w2, b2)",
        {"w1": (32, 16), "b1": (16,), "w2": (5, 16), "b2": (5,)},
        {"Flatten"},
        2,
        2,
        (8, 2, 2),
    ),
    "LayerNorm and MLP": Case(
        "n = LayerNormalization(images, gamma, beta) t = MatMul(n, w1) h = Add(t, b1) "
        f"{GELU} z = MatMul(a, w2) v = Add(z, b2) y = Add(images, v)",
        LINEAR | ONES,
        {"LayerNormalization", "Add", "Div", "Erf", "Mul"},
        2,
        2,
        TOKENS,
    ),
    "attention": Case(
        "n = LayerNormalization(images, gamma, beta) "
        + " ".join(
            f"{i} = MatMul(n, w{i}) {i}s = Reshape({i}, split) "
            f"{i}t = Transpose<perm=[0,2,{'3,1' if i == 'k' else '1,3'}]>({i}s)"
            for i in "qkv"
        )
        + " s = MatMul(qt, kt) p = Softmax(s) o = MatMul(p, vt) ot = Transpose<perm=[0,2,1,3]>(o) "
        "j = Reshape(ot, join) y = MatMul(j, wo)",
        HEADS | ONES,
        {"LayerNormalization", "Reshape", "Transpose", "Softmax"},
        2,
        4,
        TOKENS,
    ),
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
        assert kinds.keys() - layers - {"QuantizeLinear", "DequantizeLinear"} == case.left


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("name", CASES)
def test_a_block_in_eight_bits_is_close_to_float32(name, target):
    graph, shown, model = quantized(CASES[name], target)
    exact = run_model(graph.model, shown, ["y"], optimized=False)[0]
    found = run_model(model, shown, ["y"], optimized=False)[0]
    assert ((exact - found) ** 2).sum() < 1e-3 * ((exact - exact.mean()) ** 2).sum()


GATES = (
    "HardSwish",
    "SiLU",
    "squeeze and excite",
    "squeeze and excite after HardSwish",
)


@pytest.mark.parametrize("name", GATES)
def test_gates_run_on_integers_from_one_convolution_to_the_next(name, tmp_path):
    model = quantized(CASES[name], "cpu")[2]
    kinds = Counter(node.op_type for node in optimised(model, tmp_path / "optimised.onnx").node)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (1, 1)
    assert not {"Add", "Mul", "Sigmoid", "HardSigmoid", "ReduceMean"} & kinds.keys()


def uneven(**constants):
    """Return a case of ReLU6 whose channels differ, through convolutions of the given weights."""
    spread = np.exp(np.linspace(-2, 2, 8)).reshape(-1, 1, 1, 1)
    first = np.random.default_rng(3).standard_normal((8, 8, 3, 3)) / 8 * spread
    group = 8 // constants["w3"][1]
    text = f"""{FIRST} i = Clip(h, low, high) j = Conv<pads=[1,1,1,1], group={group}>(i, w3, b3)
        a = Clip(j, low, high) {SECOND}"""
    return Case(text, WEIGHTS | SIX | {"w1": first, "b3": (8,)} | constants, set(), 4, 3)


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("inputs", [1, 2, 8], ids=["depthwise", "grouped", "ordinary"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_equalisation_through_relu6_is_exact_and_costs_no_operation(inputs, target, strength):
    case = uneven(w3=(8, inputs, 3, 3))
    graph, shown, before = quantized(case, target)
    peaks = {name: seen.channel_peaks for name, seen in watch(graph, shown).items()}
    balanced = equalize(graph, peaks, strength)
    kinds = Counter(node.op_type for node in balanced.nodes)
    assert (kinds["Clip"], kinds["Relu"], kinds["Min"]) == (0, 2, 2)
    exact = run_model(graph.model, shown, ["y"])[0]
    np.testing.assert_allclose(run_model(balanced.model, shown, ["y"])[0], exact, 1e-3, 1e-4)
    ranges = {name: ranges_of(seen)["minmax"] for name, seen in watch(balanced, shown).items()}
    after = quantize_graph(balanced, Placement(target, ranges))
    assert not {"Clip", "Min"} & {node.op_type for node in after.graph.node}
    errors = [
        ((run_model(model, shown, ["y"], optimized=False)[0] - exact) ** 2).mean()
        for model in (before, after)
    ]
    assert errors[1] < 1.1 * errors[0]


def test_a_gate_and_a_slope_by_channel_let_equalisation_through():
    text = f"""{FIRST} i = PRelu(h, s) p = ReduceMean<keepdims=1>(i, axes) {GATED}"""
    graph = block(text, **WEIGHTS, **GATE, s=np.full((8, 1, 1), 0.2))
    channels = ChannelGroups(graph)
    same = [channels.groups[channels.ids[name]] for name in ("h", "i", "m")]
    assert (same[0] == same[1]).all()
    assert (same[0] == same[2]).all()
    assert not channels.fixed & set(channels.ids["h"].tolist())


@pytest.mark.parametrize("target", ["cpu", "cpu-vnni", "tensorrt"])
def test_products_with_constants_that_are_no_matrices_stay_in_float32(target):
    """As of a query that pools tokens, and of a matrix for each attention head."""
    text = "h = MatMul(images, w) p = MatMul(h, q) k = Unsqueeze(h, axes) m = MatMul(k, e)"
    constants = {"w": (8, 8), "q": (8,), "e": (2, 8, 5), "axes": np.array([1])}
    graph = block(text, shape=(6, 8), outputs=("p", "m"), **constants)
    assert [layer.name for layer in graph.layers] == ["backbone/MatMul_0"]
    shown = block_pictures(shape=(6, 8))
    ranges = {name: ranges_of(seen)["minmax"] for name, seen in watch(graph, shown).items()}
    model = quantize_graph(graph, Placement(target, ranges))
    for found, expected in zip(
        run_model(model, shown, ["p", "m"]), run_model(graph.model, shown, ["p", "m"]), strict=True
    ):
        assert ((found - expected) ** 2).mean() < 0.001 * (expected**2).mean()


def test_a_clip_of_an_excluded_layer_stays_in_float32():
    graph = block(CASES["ReLU6"].text, **CASES["ReLU6"].constants)
    shown = block_pictures()
    ranges = {name: ranges_of(seen)["minmax"] for name, seen in watch(graph, shown).items()}
    model = quantize_graph(graph, Placement("cpu", ranges, frozenset({"backbone/Conv_0"})))
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    assert clip.input[0] == "h"
