"""Backbones: any torchvision classifier by name, or any `package.module:callable`."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from tame_deploy.artifact import file_sha256
from tame_deploy.download import Progress
from tame_deploy.errors import InputError
from tame_deploy.manifest import WeightsSource
from tame_deploy.model import demo
from tame_deploy.model.checkpoint import read_state
from tame_deploy.model.pretrained import fetch_torchvision
from tame_deploy.types import ImageSpec

__all__ = ["PAPER_LAYERS", "Backbone", "BackboneRequest", "load_backbone"]

#: The layers of the papers (TAME, section IV; T-TAME, section IV) and of the bundled demo.
PAPER_LAYERS = {
    "vgg16": ("features.16", "features.23", "features.30"),
    "resnet50": ("layer2", "layer3", "layer4"),
    "vit_b_16": tuple(f"encoder.layers.encoder_layer_{block}.ln" for block in (9, 10, 11)),
    demo.NAME: demo.LAYERS,
}

#: Backbones whose published heads were trained on the first ImageNet weights, not the newest.
_FIRST_WEIGHTS = ("vgg16", "resnet50", "vit_b_16")

#: What torchvision itself sets when these two are built for their published weights.
_PUBLISHED_ARGUMENTS: dict[str, dict[str, Any]] = {
    name: {"transform_input": True, "aux_logits": True, "init_weights": False}
    for name in ("googlenet", "inception_v3")
}

#: Wrappers leave these before the names of a state dict.
_STATE_PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")


@dataclass(frozen=True)
class BackboneRequest:
    """Which backbone, with which weights, for which pictures.

    `weights` is "default", "random", the name of torchvision weights (IMAGENET1K_V2) or a file.
    `image_size` is (height, width) in pixels. What is None is taken from the weights.
    """

    name: str
    weights: str = "default"
    classes: int | None = None
    image_size: tuple[int, int] | None = None
    crop: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    labels: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Backbone:
    """A frozen classifier in eval mode and what one must know to feed it."""

    name: str
    module: nn.Module
    image: ImageSpec
    labels: tuple[str, ...] | None
    source: WeightsSource

    @property
    def example(self) -> Tensor:
        """A zero picture, float32 (1, 3, height, width)."""
        return torch.zeros(1, 3, self.image.height, self.image.width)


def load_backbone(request: BackboneRequest, progress: Progress | None = None) -> Backbone:
    """Build a backbone and load its weights.

    Raises:
        InputError: unknown name; weights or labels that do not fit.
        DownloadError: default weights that are neither cached nor to be had.
    """
    if ":" in request.name:
        backbone = _from_callable(request)
    elif request.name == demo.NAME:
        backbone = _demo(request)
    else:
        backbone = _from_torchvision(request, progress)
    backbone.module.eval().requires_grad_(False)
    return replace(
        backbone,
        image=_adapted(backbone.image, request),
        labels=_read_labels(request, backbone.labels),
    )


def _from_torchvision(request: BackboneRequest, progress: Progress | None) -> Backbone:
    published = _published_weights(request.name)
    chosen = next((w for w in published if w.name == request.weights), None)
    preset = chosen or published[0]
    image = _spec_of(preset)
    if request.weights == "random":
        module = _build_random(request)
        return Backbone(request.name, module, image, None, _random_source(request))
    if request.weights != "default" and chosen is None:
        state = _read_weights(request.weights)
        module = _fitted_module(request, state)
        return Backbone(request.name, module, image, None, _file_source(request.weights))
    if request.classes not in (None, len(preset.meta["categories"])):
        raise InputError(
            f"{preset} has {len(preset.meta['categories'])} classes, not {request.classes}; "
            "pass --weights PATH with your own"
        )
    state = read_state(fetch_torchvision(preset, progress))[0]
    arguments = _PUBLISHED_ARGUMENTS.get(request.name, {})
    module = torchvision.models.get_model(request.name, weights=None, **arguments)
    _load_state(module, state, str(preset))
    source = WeightsSource(f"torchvision {preset}")
    return Backbone(request.name, module, image, tuple(preset.meta["categories"]), source)


def _published_weights(name: str) -> list[Any]:
    """Return torchvision's weights for a model, the ones to use by default first."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, [*known, demo.NAME], 3, 0.4)
        hint = f"Nearest: {', '.join(near)}. " if near else ""
        raise InputError(
            f"unknown backbone {name!r}. {hint}"
            "Expected a torchvision classifier, demo, or package.module:callable"
        )
    enum = torchvision.models.get_model_weights(name)
    default: Any = enum.IMAGENET1K_V1 if name in _FIRST_WEIGHTS else enum.DEFAULT
    return [default, *(w for w in enum if w is not default)]


def _spec_of(weights: Any) -> ImageSpec:
    transforms = weights.transforms()
    side = transforms.crop_size[0]
    return ImageSpec(
        height=side,
        width=side,
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _build_random(request: BackboneRequest) -> nn.Module:
    arguments = dict(_PUBLISHED_ARGUMENTS.get(request.name, {}))
    if request.classes is not None:
        arguments["num_classes"] = request.classes
    with torch.random.fork_rng():
        torch.manual_seed(request.seed)
        module: nn.Module = torchvision.models.get_model(request.name, weights=None, **arguments)
    return module


def _random_source(request: BackboneRequest) -> WeightsSource:
    return WeightsSource(f"random, seed {request.seed}", random=True)


def _file_source(path: str) -> WeightsSource:
    return WeightsSource(Path(path).name, sha256=file_sha256(Path(path)))


def _read_weights(path: str) -> dict[str, Tensor]:
    if not os.path.exists(path):
        raise InputError(
            f"--weights {path}: no such file; expected default, random, "
            "the name of torchvision weights such as IMAGENET1K_V1, or a file"
        )
    return read_state(path)[0]


def _fitted_module(request: BackboneRequest, state: Mapping[str, Tensor]) -> nn.Module:
    """Build the model with as many classes as its weights have, and load them."""
    module = _build_random(request)
    cleaned = _without_wrapper(state, module)
    expected = module.state_dict()
    counts = {
        tensor.shape[0]
        for name, tensor in cleaned.items()
        if name in expected
        and tensor.ndim
        and tensor.ndim == expected[name].ndim
        and tensor.shape[0] != expected[name].shape[0]
        and tensor.shape[1:] == expected[name].shape[1:]
    }
    if request.classes is None and len(counts) == 1:
        module = _build_random(replace(request, classes=counts.pop()))
    _load_state(module, cleaned, request.weights)
    return module


def _without_wrapper(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    expected = module.state_dict().keys()
    for prefix in _STATE_PREFIXES:
        stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        if len(stripped.keys() & expected) > len(state.keys() & expected):
            return stripped
    return dict(state)


def _load_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    expected = module.state_dict()
    cleaned = _without_wrapper(state, module)
    # densenet's published file predates today's names of its layers.
    renamed = {_modern_name(name): tensor for name, tensor in cleaned.items()}
    misfits = [
        f"{name} is {list(renamed[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected
        if name in renamed and renamed[name].shape != expected[name].shape
    ]
    optional = {n for n in expected if n.endswith("num_batches_tracked") or n.startswith("AuxLog")}
    missing = [name for name in expected if name not in renamed and name not in optional]
    unknown = [name for name in renamed if name not in expected]
    problems = [
        f"{what} {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in (("shapes:", misfits), ("lacks", missing), ("unknown:", unknown))
        if names
    ]
    if problems:
        raise InputError(f"{source} does not fit the backbone: {'; '.join(problems)}")
    module.load_state_dict(renamed, strict=False)


def _modern_name(name: str) -> str:
    for part in ("norm", "relu", "conv"):
        for number in ("1", "2"):
            name = name.replace(f".{part}.{number}.", f".{part}{number}.")
    return name


def _from_callable(request: BackboneRequest) -> Backbone:
    module_name, _, attribute = request.name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        build: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            build = getattr(build, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"cannot import backbone {request.name}: {error}") from None
    arguments = {} if request.classes is None else {"num_classes": request.classes}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(request.seed)
            module = build(**arguments)
    except TypeError as error:
        raise InputError(f"cannot build backbone {request.name}: {error}") from None
    if not isinstance(module, nn.Module):
        raise InputError(f"{request.name} gave {type(module).__name__}; expected a torch module")
    if request.weights == "random":
        source = _random_source(request)
    elif request.weights == "default":
        source = WeightsSource(f"as {request.name} builds it")
    else:
        _load_state(module, _read_weights(request.weights), request.weights)
        source = _file_source(request.weights)
    return Backbone(request.name, module, ImageSpec(), None, source)


def _demo(request: BackboneRequest) -> Backbone:
    if request.classes not in (None, len(demo.LABELS)):
        raise InputError(f"the demo has {len(demo.LABELS)} classes, not {request.classes}")
    with torch.random.fork_rng():
        torch.manual_seed(request.seed)
        module = demo.DemoNet()
    source = WeightsSource("bundled demo", licence="Apache-2.0")
    if request.weights == "random":
        source = _random_source(request)
    else:
        path = str(demo.BACKBONE_FILE) if request.weights == "default" else request.weights
        _load_state(module, _read_weights(path), path)
        if request.weights != "default":
            source = _file_source(path)
    return Backbone(demo.NAME, module, demo.IMAGE, demo.LABELS, source)


def _adapted(image: ImageSpec, request: BackboneRequest) -> ImageSpec:
    if request.image_size is not None:
        height, width = request.image_size
        ratio = image.resize / min(image.height, image.width)
        resize = max(1, round(ratio * max(height, width)))
        image = replace(image, height=height, width=width, resize=resize)
    if request.crop is not None:
        if request.crop not in ("center", "none"):
            raise InputError(f"unknown crop {request.crop!r}; expected center or none")
        image = replace(image, crop="center" if request.crop == "center" else "none")
    if request.mean is not None:
        image = replace(image, mean=request.mean)
    if request.std is not None:
        image = replace(image, std=request.std)
    return image


def _read_labels(
    request: BackboneRequest, published: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """Return class names, or None for numbers; their count is checked against the logits later."""
    if request.labels in (None, "default"):
        return published
    if request.labels == "numbers":
        return None
    if request.labels == "imagenet":
        categories = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.meta["categories"]
        return tuple(categories)
    try:
        text = Path(str(request.labels)).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read labels {request.labels}: {error}") from None
    return tuple(line.strip() for line in text.rstrip("\n").split("\n"))
