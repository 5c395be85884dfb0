"""Backbones: any torchvision classifier by name, or any `package.module:callable`."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from tame_deploy.artifact.directory import file_sha256
from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model import demo
from tame_deploy.model.checkpoint import read_state
from tame_deploy.model.download import Progress
from tame_deploy.model.pretrained import fetch_torchvision

__all__ = ["PAPER_LAYERS", "Backbone", "BackboneRequest", "load_backbone", "shape_request"]

#: The layers of the papers (TAME, section IV; T-TAME, section IV) and of the bundled demo.
PAPER_LAYERS = {
    "vgg16": ("features.16", "features.23", "features.30"),
    "resnet50": ("layer2", "layer3", "layer4"),
    "vit_b_16": tuple(f"encoder.layers.encoder_layer_{block}.ln" for block in (9, 10, 11)),
    demo.NAME: demo.LAYERS,
}

#: Backbones whose published heads were trained on the first ImageNet weights, not the newest.
_FIRST_WEIGHTS = ("vgg16", "resnet50", "vit_b_16")

#: Two models whose published weights come with auxiliary heads and their own input transform.
_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
#: Parts that play no role when the network classifies, and which a file may lack.
_OPTIONAL_STATE = ("AuxLogits.", "aux1.", "aux2.")

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
    _: KW_ONLY
    classes: int | None = None
    image_size: tuple[int, int] | None = None
    crop: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    labels: str | None = None
    seed: int = 0


def shape_request(
    name: str, image_size: tuple[int, int] | None, classes: int | None
) -> BackboneRequest:
    """Return a request for a backbone whose shapes matter and whose weights do not.

    Nothing is downloaded for it.
    """
    weights = "default" if ":" in name or name == demo.NAME else "random"
    return BackboneRequest(name, weights, classes=classes, image_size=image_size)


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
        module = _build(request, image)
        return Backbone(request.name, module, image, None, _random_source(request))
    if request.weights != "default" and chosen is None:
        module = _fitted_module(request, image, _read_weights(request.weights))
        return Backbone(request.name, module, image, None, _file_source(request.weights))
    if request.classes not in (None, len(preset.meta["categories"])):
        raise InputError(
            f"{preset} has {len(preset.meta['categories'])} classes, not {request.classes}; "
            "pass --weights PATH with your own"
        )
    state = read_state(fetch_torchvision(preset, progress))[0]
    published_form = {"transform_input": True} if request.name in _WITH_AUXILIARY_HEADS else {}
    module = _build(request, image, **published_form)
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


def _build(request: BackboneRequest, image: ImageSpec, **arguments: Any) -> nn.Module:
    """Build a torchvision model with random weights, for the pictures and classes asked for."""
    if request.name in _WITH_AUXILIARY_HEADS:
        arguments |= {"aux_logits": True, "init_weights": False}
    if request.name.startswith("vit_"):
        # Its position embedding has a fixed number of places.
        sides = set(request.image_size or (image.height, image.width))
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
            raise InputError(f"cannot build {request.name}: {_reason(error)}") from None
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


def _fitted_module(
    request: BackboneRequest, image: ImageSpec, state: Mapping[str, Tensor]
) -> nn.Module:
    """Build the model with as many classes as its weights have, and load them."""
    module = _build(request, image)
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
        and not name.startswith(_OPTIONAL_STATE)
    }
    if request.classes is None and len(counts) == 1:
        module = _build(replace(request, classes=counts.pop()), image)
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
    renamed = OrderedDict((_known_name(name, expected), t) for name, t in cleaned.items())
    misfits = [
        f"{name} is {list(renamed[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected
        if name in renamed and renamed[name].shape != expected[name].shape
    ]
    renamed = OrderedDict(
        (name, tensor)
        for name, tensor in renamed.items()
        if name in expected or not name.startswith(_OPTIONAL_STATE)
    )
    optional = {
        name
        for name in expected
        if name.endswith("num_batches_tracked") or name.startswith(_OPTIONAL_STATE)
    }
    missing = [name for name in expected if name not in renamed and name not in optional]
    unknown = [name for name in renamed if name not in expected]
    problems = [
        f"{what} {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in (("shapes:", misfits), ("lacks", missing), ("unknown:", unknown))
        if names
    ]
    if problems:
        raise InputError(f"{source} does not fit the backbone: {'; '.join(problems)}")
    # Some models (mnasnet) ask the state dict which version of them wrote it.
    renamed._metadata = getattr(expected, "_metadata", {})  # type: ignore[attr-defined]
    module.load_state_dict(renamed, strict=False)


def _known_name(name: str, expected: Mapping[str, Tensor]) -> str:
    """Return a parameter's name of today: densenet's published files predate it."""
    if name in expected:
        return name
    modern = name
    for part in ("norm", "relu", "conv"):
        for number in ("1", "2"):
            modern = modern.replace(f".{part}.{number}.", f".{part}{number}.")
    return modern if modern in expected else name


def _from_callable(request: BackboneRequest) -> Backbone:
    module_name, _, attribute = request.name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        build: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            build = getattr(build, part)
    # It is the user's code, which may raise anything.
    except Exception as error:
        raise InputError(f"cannot import backbone {request.name}: {_reason(error)}") from error
    arguments = {} if request.classes is None else {"num_classes": request.classes}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(request.seed)
            module = build(**arguments)
    except Exception as error:
        raise InputError(f"cannot build backbone {request.name}: {_reason(error)}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{request.name} gave {type(module).__name__}; expected a torch module")
    if request.weights == "random":
        source = WeightsSource(f"random, as {request.name} builds it", random=True)
    elif request.weights == "default":
        source = WeightsSource(f"as {request.name} builds it")
    else:
        _load_state(module, _read_weights(request.weights), request.weights)
        source = _file_source(request.weights)
    return Backbone(request.name, module, ImageSpec(), None, source)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


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
