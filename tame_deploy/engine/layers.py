"""What an engine is made of, layer by layer: from its inspector, or from the network before it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tame_deploy.artifact.decoding import decode
from tame_deploy.errors import BackendError, ManifestError

__all__ = [
    "LAYERS_NAME",
    "Layer",
    "engine_layers",
    "layers_from_json",
    "layers_to_json",
    "network_layers",
    "precision_counts",
]

LAYERS_NAME = "layers.json"
#: TensorRT names the nodes that became one layer.
_FUSED = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_SHORT = {"FLOAT": "fp32", "HALF": "fp16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}


@dataclass(frozen=True)
class Layer:
    """One layer: its name, type, the type and shape of its first output, the nodes fused into it.

    A size that is not fixed is -1.
    """

    name: str
    type: str
    precision: str
    shape: tuple[int, ...]
    fused: tuple[str, ...] = ()


def network_layers(network: Any) -> tuple[Layer, ...]:
    """Return the layers of a parsed network, before the builder fuses them."""
    return tuple(_of_network(network.get_layer(number)) for number in range(network.num_layers))


def _of_network(layer: Any) -> Layer:
    output = layer.get_output(0) if layer.num_outputs else None
    kind = str(output.dtype).rpartition(".")[2] if output is not None else ""
    shape: tuple[int, ...] = ()
    if output is not None:
        try:
            shape = tuple(int(size) for size in output.shape)
        except ValueError:  # a size that is known only when it runs
            shape = ()
    name, type_ = str(layer.name), str(layer.type).rpartition(".")[2].lower()
    return Layer(name, type_, _SHORT.get(kind, kind.lower()), shape)


def engine_layers(library_trt: Any, engine: Any) -> tuple[Layer, ...]:
    """Return the layers of an engine, fused as they run, from TensorRT's inspector.

    Raises:
        BackendError: if what it says cannot be read.
    """
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(library_trt.LayerInformationFormat.JSON)
    return read_inspector(text)


def read_inspector(text: str) -> tuple[Layer, ...]:
    """Return the layers in an inspector's JSON.

    Raises:
        BackendError: if it has another form.
    """
    try:
        return tuple(_of_inspector(layer) for layer in json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(f"the engine's inspector cannot be read: {error!r:.200}") from error


def _of_inspector(layer: Any) -> Layer:
    if isinstance(layer, str):  # an engine that keeps names only
        return Layer(layer, "", "", (), tuple(_FUSED.findall(layer)))
    outputs = layer.get("Outputs") or [{}]
    described = str(outputs[0].get("Format/Datatype", outputs[0].get("Format", "")))
    kind = next((short for name, short in _WORDS if name in described.upper()), described)
    shape = tuple(int(size) for size in outputs[0].get("Dimensions", ()))
    fused = tuple(_FUSED.findall(layer.get("Metadata", "")))
    return Layer(layer["Name"], layer.get("LayerType", ""), kind, shape, fused)


#: How the inspector's descriptions of formats name types, the longer names first.
_WORDS = (
    ("BF16", "bf16"),
    ("FP16", "fp16"),
    ("HALF", "fp16"),
    ("FP32", "fp32"),
    ("FLOAT", "fp32"),
    ("UINT8", "uint8"),
    ("INT64", "int64"),
    ("INT32", "int32"),
    ("INT8", "int8"),
    ("BOOL", "bool"),
)


def precision_counts(layers: Sequence[Layer]) -> dict[str, int]:
    """Return how many layers give each type, the most frequent first."""
    return dict(Counter(layer.precision or "unknown" for layer in layers).most_common())


def layers_to_json(layers: Sequence[Layer]) -> str:
    """Return the text of layers.json."""
    return json.dumps({"layers": [asdict(layer) for layer in layers]}, indent=1) + "\n"


def layers_from_json(text: str) -> tuple[Layer, ...]:
    """Read layers.json.

    Raises:
        ManifestError: if it is malformed.
    """
    try:
        raw = json.loads(text)["layers"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(f"{LAYERS_NAME} cannot be read: {error!r:.100}") from None
    found: tuple[Layer, ...] = decode(tuple[Layer, ...], raw, "layers")
    return found
