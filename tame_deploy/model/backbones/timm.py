"""timm's classifiers: preprocessing, classes and labels come from the pretrained configuration."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.errors import InputError, require_extra
from tame_deploy.model.backbones.backbone import Loaded, Transform, random_source
from tame_deploy.model.backbones.declared import declared_by_timm
from tame_deploy.model.backbones.hub import hub_errors, offline_if_refused
from tame_deploy.model.backbones.labels import imagenet_labels
from tame_deploy.model.backbones.request import BackboneRequest
from tame_deploy.model.backbones.state_dict import load_state, read_weights

__all__ = ["load_timm"]

PREFIX = "timm:"


def load_timm(request: BackboneRequest) -> Loaded:
    """Return timm:NAME, timm:NAME.TAG, timm:hf-hub:OWNER/NAME or timm:local-dir:FOLDER.

    Raises:
        InputError: for an unknown name, or weights, classes or a size that do not fit.
        DownloadError: if published weights are neither cached nor to be had.
        MissingExtraError: if timm is not installed.
    """
    require_extra("timm", "timm")
    name = request.name.removeprefix(PREFIX)
    if ":" not in name:
        _check_name(name)
    published = request.weights == "default"
    weights = None if request.weights in ("default", "random") else read_weights(request.weights)
    classes = request.classes
    if weights is not None and classes is None:
        classes = _classes_of(weights.state, name)
    module = _build(request, name, classes, pretrained=published)
    config: Mapping[str, Any] = cast(Any, module).pretrained_cfg
    if published and request.classes not in (None, config.get("num_classes")):
        raise InputError(
            f"{request.name} has {config.get('num_classes')} classes, not {request.classes}; "
            "pass --weights PATH with your own"
        )
    declared = declared_by_timm(config)
    if weights is None:
        return Loaded(
            name=request.name,
            module=module,
            source=_source(module, request),
            declared=declared,
            transform=_transform(config) if published else None,
            labels=_labels(config) if published else None,
        )
    notes = load_state(module, weights.state, request.weights)
    return Loaded(
        name=request.name,
        module=module,
        source=weights.source,
        fallback=declared,
        fallback_name=f"as of timm's {_title(config)}",
        notes=(*weights.notes, *notes),
    )


def _check_name(name: str) -> None:
    import timm

    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, timm.list_models(), 3, 0.4)
        hint = f"Nearest: {', '.join(f'{PREFIX}{one}' for one in near)}" if near else ""
        raise InputError(f"timm has no model {plain!r}. {hint}".rstrip(". "))
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{plain}.*")]
    if tag and tag not in tags:
        raise InputError(
            f"timm's {plain} has no weights {tag!r}; it has {', '.join(tags) or 'none'}"
        )


def _build(
    request: BackboneRequest, name: str, classes: int | None, *, pretrained: bool
) -> nn.Module:
    import timm
    from timm.models import resolve_model_input_args

    asks = pretrained or name.startswith("hf-hub:")
    reached = offline_if_refused() if asks else contextlib.nullcontext()
    with hub_errors(request.name), reached, torch.random.fork_rng():
        torch.manual_seed(request.seed)
        arguments: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        if request.image_size is not None:
            # Where position embeddings have a fixed number of places, the size is one of the model.
            size = (3, *request.image_size)
            asked = resolve_model_input_args(name, {"input_size": size})
            if "img_size" in asked:
                arguments["img_size"] = request.image_size
        module: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    if not hasattr(module, "pretrained_cfg"):
        raise InputError(f"{request.name} has no pretrained configuration to prepare pictures by")
    return module


def _classes_of(state: Mapping[str, torch.Tensor], name: str) -> int | None:
    """Return how many classes a state dict's classifier has, if the model says which that is."""
    from timm.models import get_pretrained_cfg

    config = None if ":" in name else get_pretrained_cfg(name)
    heads = getattr(config, "classifier", None) or ()
    for head in (heads,) if isinstance(heads, str) else heads:
        for key, tensor in state.items():
            if key.endswith((f".{head}.weight",)) or key == f"{head}.weight":
                return int(tensor.shape[0])
    return None


def _source(module: nn.Module, request: BackboneRequest) -> WeightsSource:
    if request.weights == "random":
        return random_source(request)
    config = cast(Any, module).pretrained_cfg
    return WeightsSource(f"timm {_title(config)}", licence=config.get("license"))


def _title(config: Mapping[str, Any]) -> str:
    name = config.get("architecture") or "model"
    return f"{name}.{config['tag']}" if config.get("tag") else str(name)


def _labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    names, described = config.get("label_names"), config.get("label_descriptions") or {}
    if names:
        return tuple(str(described.get(name, name)) for name in names)
    if config.get("num_classes") == 1000 and "in1k" in str(config.get("tag")):
        return imagenet_labels()
    if config.get("num_classes") in (11821, 21841):  # ImageNet-12k and -22k
        from timm.data import ImageNetInfo, infer_imagenet_subset

        subset = infer_imagenet_subset(dict(config))
        return tuple(ImageNetInfo(subset).label_descriptions()) if subset else None
    return None


def _transform(config: Mapping[str, Any]) -> Transform:
    from timm.data import create_transform, resolve_data_config

    return cast(Transform, create_transform(**resolve_data_config({}, pretrained_cfg=dict(config))))
