"""The whole export: fuse, write, describe, check against PyTorch, and only then keep."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from tame_deploy.artifact.contrast import ALONE, CAN_CONTRAST, decode_contrast, encode_contrast
from tame_deploy.artifact.directory import (
    Artifact,
    create_artifact,
    file_sha256,
    open_artifact,
    write_manifest,
)
from tame_deploy.artifact.manifest import SCHEMA_VERSION, GraphSpec, Manifest, WeightsSource
from tame_deploy.artifact.types import ImageSpec, MapKind, TensorSpec
from tame_deploy.data.shapes import draw_levels
from tame_deploy.errors import InputError
from tame_deploy.export.failures import LOST_EPSILON
from tame_deploy.export.onnx_graph import export_onnx
from tame_deploy.export.options import ExportOptions
from tame_deploy.model.fused import Finish, FusedNetwork
from tame_deploy.model.head import map_size
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.model.soundness import check_sound
from tame_deploy.picture.preprocess import as_input, prepared_levels, shares_of
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.comparison import NotFiniteError, count_same
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import PARITY_FILE, ParityReference

__all__ = ["export_artifact"]

PARITY_PICTURES = 3
_CANDIDATES = 6
#: A difference of two maps that is a smaller share of them shows the rounding of both.
CLEAR_CONTRAST = 0.05

Report = Callable[[str], None]


def export_artifact(
    network: ExplainedNetwork,
    output: str | os.PathLike[str],
    options: ExportOptions,
    *,
    overwrite: bool = False,
    report: Report = lambda _: None,
) -> Artifact:
    """Export a network as an artifact that has been held to it.

    Args:
        network: backbone and head, unfolded.
        output: the artifact's directory.
        options: what the graph offers.
        overwrite: whether an artifact that is there may be replaced.
        report: told what is being done.

    Raises:
        ArtifactError: if the output exists or cannot be written.
        BuildError: if the network cannot be exported.
        InputError: if it gives NaN, is random, or its maps do not move with the picture.
        ParityError: if the graph disagrees with the network; nothing is left behind.
    """
    with create_artifact(output, overwrite=overwrite) as staging:
        # First, because bad weights show here, and the graph takes seconds to minutes.
        report("Looking whether maps move with the picture")
        image = network.backbone.image.for_input(options.input)
        check_sound(network.tap, network.features, image)
        report("Asking PyTorch for the reference")
        reference, same_for_classes = parity_reference(network, options, image)
        reference.save(staging / PARITY_FILE)
        report("Fusing the head into the backbone")
        manifest = _write_graph(network, options, staging, Path(output).resolve().name)
        _write_labels(network, staging / manifest.labels)
        manifest = replace(manifest, files=_checksums(staging))
        report("Comparing ONNX Runtime with PyTorch")
        artifact = Artifact(staging, manifest)
        with open_backend(artifact, "onnxruntime") as backend:
            try:
                parity = check_parity(backend, ParityReference.load(artifact), artifact)
            except NotFiniteError as error:
                raise NotFiniteError(f"{error}; {LOST_EPSILON}") from None
        # The graph may give one class a picture; whether classes differ, PyTorch knows.
        parity = replace(parity, same_for_classes=same_for_classes)
        write_manifest(replace(manifest, parity=parity), staging)
    return open_artifact(output)


def _write_graph(
    network: ExplainedNetwork, options: ExportOptions, staging: Path, name: str
) -> Manifest:
    """Export the graph and return its manifest, so far without files.

    The specs are known before the file is written, because the file carries the hash of the
    manifest that describes it.
    """
    config = network.head.config
    image = network.backbone.image.for_input(options.input)
    inputs, outputs = _expected_specs(network, options, image)
    fused = FusedNetwork(
        network,
        explain=options.explain,
        ranks=options.ranks(config.classes),
        graph_input=options.input,
        maps=options.maps,
    )
    manifest = Manifest(
        name=name,
        backbone=network.backbone.name,
        feature_layers=tuple(feature.layer for feature in network.features),
        head=config,
        classes=config.classes,
        task=network.task,
        auxiliary=None if network.auxiliary is None else network.auxiliary.name,
        inputs=inputs,
        outputs=outputs,
        image=image,
        graph=GraphSpec(
            options.explain,
            options.ranks(config.classes),
            options.maps,
            options.opset,
            fused.contrasts,
        ),
        weights=_weights(network),
        files={},
        calibration=None,
        fidelity=None,
        parity=None,
        tool_versions=_tool_versions(),
        schema_version=SCHEMA_VERSION,
    ).with_identity()
    metadata = {
        "tame.manifest": manifest.identity(),
        "tame.version": manifest.tool_versions["tame-deploy"],
    }
    export_onnx(fused, manifest, staging / "model.onnx", metadata)
    return manifest


def _weights(network: ExplainedNetwork) -> dict[str, WeightsSource]:
    weights = {"backbone": network.backbone.source, "head": network.head_source}
    if network.auxiliary is not None:
        weights["auxiliary"] = network.auxiliary.source
    return weights


def _expected_specs(
    network: ExplainedNetwork, options: ExportOptions, image: ImageSpec
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return what the graph contract demands of this network's graph."""
    classes = network.head.config.classes
    choices: dict[str, int | str] = {
        "selectable": "k",
        "predicted": options.ranks(classes),
        "all": classes,
    }
    per_image = choices[options.explain]
    size = map_size(network.features[0].height, network.features[0].width)
    inputs = [TensorSpec("images", options.input, image.input_shape("batch"))]
    if options.explain == "selectable":
        inputs.append(TensorSpec("class_ids", "int64", ("batch", "k")))
    outputs = (
        TensorSpec("logits", "float32", ("batch", classes)),
        TensorSpec("explained", "int64", ("batch", per_image)),
        TensorSpec("maps", "float32", ("batch", per_image, *size)),
    )
    return tuple(inputs), outputs


def _tool_versions() -> dict[str, str]:
    tools = ("tame-deploy", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy")
    return {tool: version(tool) for tool in tools if _is_installed(tool)}


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


@torch.no_grad()
def parity_reference(
    network: ExplainedNetwork, options: ExportOptions, image: ImageSpec
) -> tuple[ParityReference, int]:
    """Return what the unfolded network makes of drawn pictures.

    Also returns in how many of them two classes have the same map.

    Of some candidates, those whose likeliest classes stand out are taken: where two classes tie,
    rounding alone would decide which one is explained.

    Raises:
        InputError: if the network gives NaN or infinity.
    """
    drawn = [draw_levels(seed, image) for seed in range(_CANDIDATES)]
    levels = np.stack([prepared_levels(one, image) for one in drawn])
    shares = shares_of(levels, image)
    pixels = [torch.from_numpy(one[None]) for one in as_input(shares, image.for_input("float32"))]
    logits = torch.cat([network.look(one)[0] for one in pixels])
    count = max(options.ranks(logits.shape[1]), 1)
    best = logits.topk(min(count + 1, logits.shape[1]), dim=1)
    gaps = (best.values[:, :-1] - best.values[:, 1:]).amin(1) if best.values.shape[1] > 1 else None
    order = range(_CANDIDATES) if gaps is None else gaps.argsort(descending=True).tolist()
    kept = list(order)[:PARITY_PICTURES]
    every = torch.cat([network(pixels[index])[1] for index in kept])  # (N, classes, h, w)
    for what, values in (("backbone", logits), ("head", every)):
        if not bool(torch.isfinite(values).all()):
            raise InputError(f"the {what} gives NaN or infinity; its weights are no good")
    class_ids = _classes_to_check(logits[kept], every, options)
    # Stretched, because maps that differ by a constant show the same.
    two = Finish("minmax")(_gather_maps(every, _likeliest_and_another(logits[kept])))
    reference = ParityReference(
        images=as_input(levels[kept], image),
        class_ids=class_ids.numpy(),
        logits=logits[kept].numpy(),
        maps=_finished_maps(every, class_ids, options.maps).numpy(),
    )
    return reference, sum(count_same(pair) for pair in two.numpy())


def _gather_maps(every: torch.Tensor, class_ids: torch.Tensor) -> torch.Tensor:
    """Return the maps (N, K, h, w) of chosen classes (N, K)."""
    index = class_ids[..., None, None].expand(-1, -1, *every.shape[2:])
    return every.gather(1, index)


def _finished_maps(every: torch.Tensor, class_ids: torch.Tensor, kind: MapKind) -> torch.Tensor:
    """Return what the graph is to give (N, K, h, w) for questions (N, K)."""
    own, other = map(torch.from_numpy, decode_contrast(class_ids.numpy(), every.shape[1]))
    is_contrast = other != ALONE
    subtracted = _gather_maps(every, other.clamp(min=0)) * is_contrast[..., None, None]
    finished: torch.Tensor = Finish(kind)(_gather_maps(every, own) - subtracted, is_contrast)
    return finished


def _classes_to_check(
    logits: torch.Tensor, every: torch.Tensor, options: ExportOptions
) -> torch.Tensor:
    """Return int64 (N, K): what the graph explains by itself, or what can be asked of it.

    That is the likeliest class, another, and the one and not the other.
    """
    classes = logits.shape[1]
    if options.explain == "all":
        return torch.arange(classes).expand(len(logits), -1)
    if options.explain == "predicted":
        return logits.topk(options.ranks(classes), dim=1).indices
    two = _likeliest_and_another(logits)
    first, second = _gather_maps(every, two).unbind(1)
    clear = (first - second).abs().amax((1, 2)) > CLEAR_CONTRAST * first.abs().amax((1, 2))
    if classes not in CAN_CONTRAST or not bool(clear.all()):
        return two
    contrast = encode_contrast(two[:, :1].numpy(), two[:, 1:].numpy(), classes)
    return torch.cat([two, torch.from_numpy(contrast)], dim=1)


def _likeliest_and_another(logits: torch.Tensor) -> torch.Tensor:
    """Return int64 (N, 2); the other is half the classes away, so it differs even in a tie."""
    classes, likeliest = logits.shape[1], logits.argmax(1)
    return torch.stack([likeliest, (likeliest + max(classes // 2, 1)) % classes], dim=1)


def _write_labels(network: ExplainedNetwork, path: Path) -> None:
    classes = network.head.config.classes
    labels = network.backbone.labels or tuple(str(number) for number in range(classes))
    path.write_text("\n".join(labels) + "\n", encoding="utf-8")


def _checksums(staging: Path) -> dict[str, str]:
    names = sorted(path.name for path in staging.iterdir() if not path.name.startswith("."))
    return {name: file_sha256(staging / name) for name in names}
