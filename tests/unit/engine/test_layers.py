"""Layers as an inspector and as layers.json tell them."""

from __future__ import annotations

import json

import pytest

from tame_deploy.engine.layers import (
    Layer,
    layers_from_json,
    layers_to_json,
    precision_counts,
    read_inspector,
)
from tame_deploy.errors import BackendError, ManifestError

INSPECTED = {
    "Layers": [
        {
            "Name": "backbone/Conv_8 + backbone/Relu_9",
            "LayerType": "CaskConvolution",
            "Outputs": [
                {
                    "Name": "relu",
                    "Dimensions": [8, 64, 111, 111],
                    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format",
                }
            ],
            "Metadata": "[ONNX Layer: backbone/Conv_8]\u001e[ONNX Layer: backbone/Relu_9]",
        },
        {"Name": "tail", "Outputs": [{"Dimensions": [1], "Format/Datatype": "Half"}]},
        "Reformatting CopyNode for Input Tensor 0",
    ],
    "Bindings": ["images"],
}


def test_the_inspector_tells_fusions_and_precisions():
    conv, tail, copy = read_inspector(json.dumps(INSPECTED))
    assert conv.fused == ("backbone/Conv_8", "backbone/Relu_9")
    assert (conv.precision, conv.shape) == ("int8", (8, 64, 111, 111))
    assert (tail.precision, copy.type) == ("fp16", "")
    assert precision_counts([conv, tail, copy]) == {"int8": 1, "fp16": 1, "unknown": 1}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"Layers": [1]}', '{"Layers": [{}]}'])
def test_another_form_is_an_error(text):
    with pytest.raises(BackendError, match="inspector cannot be read"):
        read_inspector(text)


def test_layers_json_is_read_back():
    layers = (Layer("a/b", "convolution", "fp16", (-1, 3)), Layer("x", "", "", (), ("a", "b")))
    assert layers_from_json(layers_to_json(layers)) == layers
    for text in ("", "{}", '{"layers": [{}]}', '{"layers": 1}'):
        with pytest.raises(ManifestError):
            layers_from_json(text)
