"""From a request to a frozen backbone: the source its name belongs to, and what all have alike."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from torch import Tensor, nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model import demo
from tame_deploy.model.backbones.agreement import disagreement
from tame_deploy.model.backbones.backbone import Backbone, Loaded
from tame_deploy.model.backbones.bundled import load_demo
from tame_deploy.model.backbones.callables import load_callable
from tame_deploy.model.backbones.labels import read_labels
from tame_deploy.model.backbones.preprocessing import (
    Preprocessing,
    image_spec,
    overlay,
    read_preprocessing,
    undeclared,
)
from tame_deploy.model.backbones.request import BackboneRequest
from tame_deploy.model.backbones.timm import load_timm
from tame_deploy.model.backbones.torchvision import WITH_AUXILIARY_HEADS, load_torchvision
from tame_deploy.model.backbones.transformers import load_transformers
from tame_deploy.model.download import Progress

__all__ = ["PAPER_LAYERS", "load_backbone"]

#: The layers of the papers (TAME, section IV; T-TAME, section IV) and of the bundled demo.
PAPER_LAYERS = {
    "vgg16": ("features.16", "features.23", "features.30"),
    "resnet50": ("layer2", "layer3", "layer4"),
    "vit_b_16": tuple(f"encoder.layers.encoder_layer_{block}.ln" for block in (9, 10, 11)),
    demo.NAME: demo.LAYERS,
}


def load_backbone(request: BackboneRequest, progress: Progress | None = None) -> Backbone:
    """Build a backbone and load its weights.

    Raises:
        InputError: unknown name; weights, labels or preprocessing that do not fit.
        DownloadError: default weights that are neither cached nor to be had.
        MissingExtraError: the library that the name belongs to is not installed.
    """
    _refuse_idle_options(request)
    request = _with_file(request)
    loaded = _load(request, progress)
    loaded.module.eval().requires_grad_(False)
    said = overlay(loaded.declared, request)
    image = image_spec(said, loaded.fallback)
    if request.pad_level is not None and image.crop != "pad":
        raise InputError(
            f"pad level {request.pad_level} is for crop pad, and crop is {image.crop}; pass "
            "--crop pad, or leave --pad-level out"
        )
    assumed = "" if loaded.source.random else _assumed(loaded, said, image)
    differs = "" if loaded.source.random else _difference(loaded, request, image)
    if (said.channel_order or loaded.fallback.channel_order) == "bgr":
        _take_rgb(loaded.module, image.channels)
    return Backbone(
        name=loaded.name,
        module=loaded.module,
        image=image,
        labels=read_labels(request.labels, loaded.labels),
        source=_described(loaded.source, assumed, differs),
        prefix_tokens=request.prefix_tokens,
        assumed=assumed,
        notes=(*loaded.notes, *filter(None, [differs])),
        task=request.task,
        outputs=request.outputs,
        asked=request,
    )


def _load(request: BackboneRequest, progress: Progress | None) -> Loaded:
    if request.name == demo.NAME:
        return load_demo(request)
    if request.name.startswith("timm:"):
        return load_timm(request)
    if request.name.startswith("hf:"):
        return load_transformers(request)
    if ":" in request.name:
        return load_callable(request)
    return load_torchvision(request, progress)


def _refuse_idle_options(request: BackboneRequest) -> None:
    if request.transform_input is not None and request.name not in WITH_AUXILIARY_HEADS:
        raise InputError(
            f"--transform-input is of {' and '.join(WITH_AUXILIARY_HEADS)}; {request.name} has none"
        )
    if request.trust_remote_code and not request.name.startswith("hf:"):
        raise InputError(f"--trust-remote-code is for hf:NAME; {request.name} runs no other code")


def _with_file(request: BackboneRequest) -> BackboneRequest:
    """Return the request with what its preprocessing file says in the fields that are None."""
    if request.preprocessing is None:
        return request
    whole = overlay(read_preprocessing(request.preprocessing), request)
    values: dict[str, Any] = {
        item.name: getattr(whole, item.name) for item in fields(Preprocessing)
    }
    return replace(request, **values)


def _assumed(loaded: Loaded, said: Preprocessing, image: ImageSpec) -> str:
    """Say what of the preprocessing nobody declared, and whose stands in."""
    left_open = undeclared(said, image)
    if left_open and loaded.fallback_name:
        return f"{left_open} ({loaded.fallback_name})"
    return left_open


def _difference(loaded: Loaded, request: BackboneRequest, image: ImageSpec) -> str:
    """Say where what was read off the model is not what the model's own preprocessing does."""
    if loaded.transform is None or not undeclared(request, image):
        return ""
    declared = image_spec(loaded.declared, loaded.fallback)
    return disagreement(declared, loaded.declared.channel_order, loaded.transform)


def _described(source: WeightsSource, assumed: str, differs: str) -> WeightsSource:
    parts = [source.source, f"assumed preprocessing: {assumed}" if assumed else "", differs]
    return replace(source, source="; ".join(filter(None, parts)))


def _take_rgb(module: nn.Module, channels: int) -> None:
    """Let a network that was trained on BGR take RGB: its first step turns the channels round."""
    if channels != 3:
        raise InputError(f"channel order bgr is of three channels; found {channels}")

    def turn(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flip(1), *inputs[1:])

    module.register_forward_pre_hook(turn)
