"""The ONNX file: exported by torch's modern exporter, named by stage, and checked."""

from __future__ import annotations

import ast
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from tame_deploy.artifact.manifest import Manifest
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.errors import BuildError
from tame_deploy.export.failures import CONSTANT_BATCH, explain_failure
from tame_deploy.model.fused import FusedNetwork

__all__ = ["PRECISION_KEY", "export_onnx", "quiet_exporter"]

#: On a node: the precision it keeps whatever the rest is quantized to.
PRECISION_KEY = "tame.precision"

#: protobuf cannot hold more than 2 GB; above this the weights go beside the graph.
EXTERNAL_DATA_BYTES = 1_800_000_000

_STAGES = ("preprocess", "backbone", "branches", "tail")


def export_onnx(
    network: FusedNetwork, manifest: Manifest, path: Path, metadata: dict[str, str]
) -> None:
    """Write the fused network to `path`, held to the specs and options of its manifest.

    Raises:
        BuildError: if the exporter fails, or the file does not keep the graph contract.
    """
    model = _run_exporter(network, manifest)
    _fold_transposes(model.graph)
    _name_by_stage(model.graph)
    _check_contract(model, manifest)
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    model.producer_name, model.producer_version = "tame-deploy", metadata["tame.version"]
    size = sum(value.nbytes for value in _weights(model.graph))
    external = path.name + ".data" if size > EXTERNAL_DATA_BYTES else None
    ir.save(model, path, external_data=external)
    try:
        onnx.checker.check_model(os.fspath(path))
    except onnx.checker.ValidationError as error:
        raise BuildError(f"the exported graph is not valid ONNX: {error!s:.300}") from error


def _weights(graph: ir.Graph) -> list[Any]:
    values = (value.const_value for value in graph.initializers.values())
    return [value for value in values if value is not None]


def _run_exporter(network: FusedNetwork, manifest: Manifest) -> ir.Model:
    # Sizes of two and three, because the exporter would take a one for a constant.
    sizes = {"batch": 2, "k": 3}
    symbols = {name: torch.export.Dim(name) for name in sizes}
    example: dict[str, torch.Tensor] = {}
    dynamic: dict[str, dict[int, Any]] = {}
    for spec in manifest.inputs:
        shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
        example[spec.name] = torch.zeros(shape, dtype=getattr(torch, spec.dtype))
        dynamic[spec.name] = {
            axis: symbols[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)
        }
    try:
        with quiet_exporter(), attention_in_four_axes(), torch.no_grad():
            program = torch.onnx.export(
                network,
                kwargs=example,
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=list(example),
                output_names=[spec.name for spec in manifest.outputs],
                opset_version=manifest.graph.opset,
                optimize=True,
                verbose=False,
            )
    # The exporter raises its own, torch's and onnxscript's errors, with pages of advice.
    except Exception as error:
        raise BuildError(explain_failure(error)) from error
    assert program is not None
    return program.model


@contextmanager
def attention_in_four_axes() -> Iterator[None]:
    """Give torch's attention operands (batch, heads, tokens, channels), as the exporter wants them.

    Hiera and Twins attend within windows, which are one axis more.
    """
    attend = functional.scaled_dot_product_attention

    def folded(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Tensor:
        masked = (rest[0] if rest else named.get("attn_mask")) is not None
        if query.ndim == 4 or masked:
            return attend(query, key, value, *rest, **named)
        query_4d, key_4d, value_4d = (
            one.reshape(-1, one.shape[-3] if one.ndim > 3 else 1, *one.shape[-2:])
            for one in (query, key, value)
        )
        found = attend(query_4d, key_4d, value_4d, *rest, **named)
        return found.reshape(*query.shape[:-1], value.shape[-1])

    functional.scaled_dot_product_attention = folded
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = attend


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's prints and advice on private interfaces off the user's screen.

    Where it fails, it prints the graph so far, and warns of symbols.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            open(os.devnull, "w") as void,
            redirect_stdout(void),
            redirect_stderr(void),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _fold_transposes(graph: ir.Graph) -> None:
    """Transpose weights now that the optimizer left to be transposed at every run.

    It spares large ones that are used twice, as ReciproCAM does, of which no quantizer would see
    then that they are weights.
    """
    for node in list(graph):
        weight, axes = node.inputs[0] if node.inputs else None, node.attributes.get("perm")
        if node.op_type != "Transpose" or weight is None or axes is None:
            continue
        others = {use.op_type for use, _ in weight.uses()} - {"Transpose"}
        if weight.const_value is None or others:
            continue
        (old,) = node.outputs
        values = np.ascontiguousarray(weight.const_value.numpy().transpose(axes.as_ints()))
        name = weight.name if len(weight.uses()) == 1 else f"{weight.name}.{old.name}"
        node.replace_input_with(0, None)
        if not weight.uses():
            del graph.initializers[str(weight.name)]
        made = ir.Value(name=name, const_value=ir.tensor(values), shape=old.shape, type=old.type)
        old.replace_all_uses_with(made)
        graph.register_initializer(made)
        graph.remove(node, safe=True)


def _name_by_stage(graph: ir.Graph) -> None:
    """Name every node STAGE/op_number and mark the tail; drop the exporter's traces and paths."""
    for number, node in enumerate(graph):
        stage = _stage_of(node)
        node.name = f"{stage}/{node.op_type}_{number}"
        node.doc_string = None
        node.metadata_props.clear()
        if stage == "tail":
            node.metadata_props[PRECISION_KEY] = "float32"
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*graph.initializers.values(), *graph.inputs]:
        value.metadata_props.clear()
        value.doc_string = None
    graph.doc_string = None
    graph.metadata_props.clear()


def _stage_of(node: ir.Node) -> str:
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
    # From the outside in: ReciproCAM's branches call the backbone's modules by their own names.
    parts = [str(scope).partition(".")[0] for scope in ast.literal_eval(scopes)]
    stages = [part for part in parts if part in _STAGES]
    if stages:
        return stages[0]
    # What the optimizer made has no scope; it belongs where its inputs come from.
    before = [value.producer() for value in node.inputs if value is not None]
    named = [producer.name.split("/")[0] for producer in before if producer and producer.name]
    known = [stage for stage in _STAGES if stage in named]
    return known[-1] if known else "shape"


def _check_contract(model: ir.Model, manifest: Manifest) -> None:
    """Hold the result to the manifest's specs; a lost dynamic batch shows here."""
    found = [_spec(value) for value in (*model.graph.inputs, *model.graph.outputs)]
    for have, expected in zip(found, (*manifest.inputs, *manifest.outputs), strict=True):
        if have != expected:
            if "batch" in expected.shape and "batch" not in have.shape:
                raise BuildError(CONSTANT_BATCH)
            raise BuildError(f"the exported graph has {have}; expected {expected}")
    opset = model.opset_imports.get("")
    if opset != manifest.graph.opset:
        raise BuildError(
            f"the exporter wrote opset {opset}, not {manifest.graph.opset}; "
            "leave --opset out, or choose one it can write"
        )
    # The class product; of ReciproCAM, what scores the copies.
    stage = "branches/" if manifest.head.branch == "recipro-cam" else "tail/"
    found_there = {node.op_type for node in model.graph if (node.name or "").startswith(stage)}
    if not found_there & {"MatMul", "Conv", "Gemm"}:
        raise BuildError("the exported graph has lost its class product; please report this")


def _spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(d if isinstance(d, int) else str(d.value) for d in value.shape.dims)
    dtype = {"FLOAT": "float32"}.get(value.dtype.name, value.dtype.name.lower())
    return TensorSpec(value.name, dtype, shape)
