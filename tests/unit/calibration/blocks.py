"""Blocks of networks in ONNX text, as graphs with random weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from tame_deploy.calibration.graph import Graph

SHAPE = (8, 8, 8)


def block(text: str, shape=SHAPE, seed=0, outputs=("y",), **constants) -> Graph:
    """Return images (batch, *shape) -> y of a body such as "y = Conv(images, w)".

    A constant is given by its values, or by its shape, for random ones that keep the variance.
    """
    sides = ", ".join(map(str, shape))
    head = '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>'
    results = ", ".join(f"float[batch, {', '.join('?' * len(shape))}] {name}" for name in outputs)
    model = onnx.parser.parse_model(
        f"{head} block (float[batch, {sides}] images) => ({results}) {{ {text} }}"
    )
    random = np.random.default_rng(seed)
    for name, given in constants.items():
        values = given
        if isinstance(given, tuple):
            spread = np.sqrt(np.prod(given[1:])) if len(given) > 1 else 4
            values = random.standard_normal(given) / spread
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for number, node in enumerate(model.graph.node):
        node.name = f"backbone/{node.op_type}_{number}"
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return Graph(onnx.shape_inference.infer_shapes(model, data_prop=True))


def block_pictures(count=32, shape=SHAPE, seed=1):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
