"""torchvision's classifiers by name, with its published weights, random ones or a file's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.errors import InputError
from tame_deploy.model import demo
from tame_deploy.model.backbones.backbone import Loaded, first_line, random_source
from tame_deploy.model.backbones.declared import declared_by_torchvision
from tame_deploy.model.backbones.preprocessing import Preprocessing
from tame_deploy.model.backbones.request import BackboneRequest
from tame_deploy.model.backbones.state_dict import (
    auxiliary_names,
    fit,
    is_optional,
    load_state,
    read_weights,
)
from tame_deploy.model.checkpoint import read_state
from tame_deploy.model.download import Progress
from tame_deploy.model.pretrained import fetch_torchvision

__all__ = ["load_torchvision"]

#: Backbones whose published heads were trained on the first ImageNet weights, not the newest.
_FIRST_WEIGHTS = ("vgg16", "resnet50", "vit_b_16")

#: Two models whose published weights come with auxiliary heads and their own input transform.
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def load_torchvision(request: BackboneRequest, progress: Progress | None) -> Loaded:
    """Return a torchvision classifier.

    Raises:
        InputError: for an unknown name, or weights, classes or a size that do not fit.
        DownloadError: if published weights are neither cached nor to be had.
    """
    published = _published_weights(request.name)
    chosen = next((w for w in published if w.name == request.weights), None)
    preset = chosen or published[0]
    transform = preset.transforms()
    own = declared_by_torchvision(transform)
    if request.weights == "random":
        module = _build(request, own, **_input_transform(request))
        source = random_source(request)
        return Loaded(name=request.name, module=module, source=source, declared=own)
    if request.weights != "default" and chosen is None:
        return _with_own_weights(request, own, str(preset))
    if request.classes not in (None, len(preset.meta["categories"])):
        raise InputError(
            f"{preset} has {len(preset.meta['categories'])} classes, not {request.classes}; "
            "pass --weights PATH with your own"
        )
    state = read_state(fetch_torchvision(preset, progress))[0]
    module = _build(request, own, **_input_transform(request, default=True))
    notes = load_state(module, state, str(preset))
    return Loaded(
        name=request.name,
        module=module,
        source=WeightsSource(f"torchvision {preset}"),
        declared=own,
        transform=transform,
        labels=tuple(preset.meta["categories"]),
        notes=notes,
    )


def _with_own_weights(request: BackboneRequest, own: Preprocessing, preset: str) -> Loaded:
    weights = read_weights(request.weights)
    if request.name in WITH_AUXILIARY_HEADS and request.transform_input is None:
        raise InputError(
            f"{request.name} may normalise its pictures anew, and {request.weights} does not say "
            "whether it was trained so; pass --transform-input yes if training started from "
            "torchvision's published weights, and no if it was built with weights=None"
        )
    module, notes = _fitted_module(request, own, weights.state)
    return Loaded(
        name=request.name,
        module=module,
        source=weights.source,
        fallback=own,
        fallback_name=f"as of torchvision's {preset}",
        notes=(*weights.notes, *notes),
    )


def _input_transform(request: BackboneRequest, *, default: bool = False) -> dict[str, bool]:
    if request.name not in WITH_AUXILIARY_HEADS:
        return {}
    asked = request.transform_input
    return {"transform_input": default if asked is None else asked}


def _published_weights(name: str) -> list[Any]:
    """Return torchvision's weights for a model, the ones to use by default first."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, [*known, demo.NAME], 3, 0.4)
        hint = f"Nearest: {', '.join(near)}. " if near else ""
        raise InputError(
            f"unknown backbone {name!r}. {hint}Expected a torchvision classifier, demo, timm:NAME, "
            "hf:NAME-OR-FOLDER, package.module:callable or file.py:callable"
        )
    enum = torchvision.models.get_model_weights(name)
    default: Any = enum.IMAGENET1K_V1 if name in _FIRST_WEIGHTS else enum.DEFAULT
    return [default, *(w for w in enum if w is not default)]


def _build(request: BackboneRequest, own: Preprocessing, **arguments: Any) -> nn.Module:
    """Build a torchvision model with random weights, for the pictures and classes asked for."""
    if request.name in WITH_AUXILIARY_HEADS:
        arguments |= {"aux_logits": True, "init_weights": False}
    if request.name.startswith("vit_"):
        # Its position embedding has a fixed number of places.
        sides = set(request.image_size or own.image_size or ())
        if len(sides) > 1:
            raise InputError(f"{request.name} takes square pictures; found {request.image_size}")
        arguments["image_size"] = sides.pop()
    if request.classes is not None:
        arguments["num_classes"] = request.classes
    with torch.random.fork_rng():
        torch.manual_seed(request.seed)
        try:
            module: nn.Module = torchvision.models.get_model(
                request.name, weights=None, **arguments
            )
        except (ValueError, AssertionError) as error:  # a size or number it does not take
            raise InputError(f"cannot build {request.name}: {first_line(error)}") from None
    return module


def _fitted_module(
    request: BackboneRequest, own: Preprocessing, state: Mapping[str, Tensor]
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the model with as many classes as its weights have, and load them."""
    arguments = _input_transform(request)
    module = _build(request, own, **arguments)
    expected = module.state_dict()
    cleaned, _ = fit(state, module)
    auxiliary = auxiliary_names(module)
    counts = {
        tensor.shape[0]
        for name, tensor in cleaned.items()
        if name in expected
        and tensor.ndim
        and tensor.ndim == expected[name].ndim
        and tensor.shape[0] != expected[name].shape[0]
        and tensor.shape[1:] == expected[name].shape[1:]
        and not is_optional(name, auxiliary)
    }
    if request.classes is None and len(counts) == 1:
        module = _build(replace(request, classes=counts.pop()), own, **arguments)
    return module, load_state(module, state, request.weights)
