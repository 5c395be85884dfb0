"""A small graph with all that calibration must know: residual, concatenation, branch, tail."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tame_deploy.calibration.graph import Graph

SIDE = 8


def small_graph(seed: int = 0, spread: float = 1.0, end: str = "Relu") -> Graph:
    """Return images (batch, 3, 8, 8) -> logits (batch, 5), maps (batch, 2, 8, 8).

    `spread` is by how many powers of e the first layer's channels differ; `end` is what follows
    the concatenation.
    """
    random = np.random.default_rng(seed)
    constants, nodes = [], []

    def constant(name, values):
        constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def conv(number, source, inputs, outputs, kernel, stage="backbone", scales=1.0):
        weight = random.standard_normal((outputs, inputs, kernel, kernel)).astype(np.float32)
        weight *= np.float32(1 / np.sqrt(inputs * kernel**2)) * np.asarray(scales, np.float32)
        bias = random.standard_normal(outputs).astype(np.float32) * np.float32(0.1)
        names = [
            constant(f"{stage}.c{number}.weight", weight),
            constant(f"{stage}.c{number}.bias", bias),
        ]
        pads = [kernel // 2] * 4
        made = helper.make_node(
            "Conv", [source, *names], [f"conv{number}"], f"{stage}/Conv_{number}", pads=pads
        )
        nodes.append(made)
        return f"conv{number}"

    def op(kind, inputs, output, stage="backbone", **attributes):
        nodes.append(
            helper.make_node(kind, inputs, [output], f"{stage}/{kind}_{output}", **attributes)
        )
        return output

    scales = np.exp(np.linspace(-spread, spread, 6)).reshape(-1, 1, 1, 1)
    first = op("Relu", [conv(1, "images", 3, 6, 3, scales=scales)], "relu1")
    inner = op("Relu", [conv(2, first, 6, 6, 3)], "relu2")
    added = op("Add", [conv(3, inner, 6, 6, 1), first], "sum")
    residual = op("Relu", [added], "relu3")
    left = op("Relu", [conv(4, residual, 6, 4, 1)], "relu4")
    right = op("Relu", [conv(5, residual, 6, 4, 3)], "relu5")
    joined = op("Concat", [left, right], "joined", axis=1)
    pooled = op(end, [joined], "ended")
    op("ReduceMean", [pooled, constant("axes", np.array([2, 3], np.int64))], "mean", keepdims=0)
    weight = random.standard_normal((5, 8)).astype(np.float32)
    names = [
        constant("backbone.fc.weight", weight),
        constant("backbone.fc.bias", np.zeros(5, np.float32)),
    ]
    nodes.append(
        helper.make_node("Gemm", ["mean", *names], ["logits"], "backbone/Gemm_6", transB=1)
    )
    branch = op("Relu", [conv(7, pooled, 8, 8, 1, stage="branches")], "relu7", "branches")
    flat = op(
        "Reshape", [branch, constant("flat", np.array([0, 8, -1], np.int64))], "flat_maps", "tail"
    )
    rows = constant("tail.rows", random.standard_normal((2, 8)).astype(np.float32))
    product = op("MatMul", [rows, flat], "product", "tail")
    shape = constant("shape", np.array([0, 2, SIDE, SIDE], np.int64))
    op("Reshape", [product, shape], "maps", "tail")
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5]),
            helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["batch", 2, SIDE, SIDE]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))


def run_model(model: onnx.ModelProto, pictures, outputs=("logits", "maps"), optimized=True):
    """Return a model's outputs for pictures (B, 3, 8, 8)."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(list(outputs), {"images": pictures})


def optimised(model, path):
    """Return the graph that ONNX Runtime makes of a model, but for layouts of this processor."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    settings.optimized_model_filepath = str(path)
    ort.InferenceSession(model.SerializeToString(), settings)
    return onnx.load(path).graph


def pictures(count: int = 16, seed: int = 1):
    return np.random.default_rng(seed).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def watch(graph: Graph, shown):
    """Return statistics of every activation."""
    from tame_deploy.calibration.observing.histogram import TensorStatistics
    from tame_deploy.calibration.observing.observe import watched_tensors

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    names = [name for name in watched_tensors(graph) if name != "images"]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    found = {}
    values = [shown, *run_model(model, shown, names)]
    for name, value in zip(["images", *names], values, strict=True):
        found[name] = TensorStatistics()
        found[name].add(value)
    return found
