"""transformers' image classifiers, from the hub or a folder, with their image processors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.errors import InputError, require_extra
from tame_deploy.model.backbones.backbone import Loaded, random_source
from tame_deploy.model.backbones.declared import declared_by_processor, processor_transform
from tame_deploy.model.backbones.hub import hub_errors, offline_if_refused
from tame_deploy.model.backbones.preprocessing import NOTHING_SAID, Preprocessing
from tame_deploy.model.backbones.request import BackboneRequest
from tame_deploy.model.backbones.state_dict import load_state, read_weights
from tame_deploy.model.outputs import give_logits_only

__all__ = ["load_transformers"]

PREFIX = "hf:"


def load_transformers(request: BackboneRequest) -> Loaded:
    """Return hf:OWNER/NAME or hf:FOLDER.

    Raises:
        InputError: for an unknown name, a model that is no image classifier or would run code, or
            weights, classes or a size that do not fit.
        DownloadError: if the hub is not to be reached and the cache lacks the model.
        MissingExtraError: if transformers is not installed.
    """
    require_extra("transformers", "transformers")
    where = request.name.removeprefix(PREFIX)
    folder = os.path.isdir(where)
    if not folder and (where.startswith((".", "/", "~")) or where.count("/") > 1):
        raise InputError(f"{where}: no such folder; expected one, or a name on the hub, OWNER/NAME")
    # A folder's place is no part of what the model is.
    name = f"{PREFIX}{Path(where).resolve().name}" if folder else request.name
    reached = contextlib.nullcontext() if folder else offline_if_refused()
    with hub_errors(request.name), reached, _quiet():
        config = _configuration(where, request)
        declared, processor = _preprocessing(where, request, config)
        module = _build(where, request, config)
    give_logits_only(module)
    common: dict[str, Any] = {"name": name, "module": module, "labels": _labels(config)}
    if request.weights == "random":
        common |= {"labels": None, "source": random_source(request)}
        return Loaded(declared=declared, **common)
    if request.weights == "default":
        return Loaded(
            source=WeightsSource(f"transformers {name.removeprefix(PREFIX)}"),
            declared=declared,
            transform=processor_transform(processor) if processor is not None else None,
            **common,
        )
    weights = read_weights(request.weights)
    notes = load_state(module, weights.state, request.weights)
    if processor is not None:
        common |= {"fallback": declared, "fallback_name": f"as of {name}"}
    else:
        common["declared"] = declared
    return Loaded(source=weights.source, notes=(*weights.notes, *notes), **common)


def _configuration(where: str, request: BackboneRequest) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(where, trust_remote_code=request.trust_remote_code)
    if request.classes is not None and request.classes != config.num_labels:
        if request.weights == "default":
            raise InputError(
                f"{request.name} has {config.num_labels} classes, not {request.classes}; "
                "pass --weights PATH with your own"
            )
        config.num_labels = request.classes
    config.architectures = config.architectures or []  # looked through without a check
    own = getattr(config, "image_size", None)
    if request.image_size is not None and own is not None and request.weights != "default":
        height, width = request.image_size
        square = height == width and isinstance(own, int)
        config.image_size = height if square else (height, width)
    return config


def _preprocessing(
    where: str, request: BackboneRequest, config: Any
) -> tuple[Preprocessing, Any | None]:
    """Return what the image processor says, and itself; where there is none, the network's size."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(
            where, trust_remote_code=request.trust_remote_code
        )
    except OSError as error:
        if "preprocessor_config" in str(error) or "processor_config" in str(error):
            return _size_alone(config), None
        raise
    try:
        return declared_by_processor(processor), processor
    except InputError as error:
        if request.preprocessing is not None:
            return _size_alone(config), None
        raise InputError(
            f"{request.name} has an image processor {error}; say how pictures are prepared "
            "with --preprocessing FILE"
        ) from None


def _size_alone(config: Any) -> Preprocessing:
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        size = (size, size)
    return Preprocessing(image_size=tuple(size)) if size else NOTHING_SAID


def _build(where: str, request: BackboneRequest, config: Any) -> nn.Module:
    from transformers import AutoModelForImageClassification as Classifiers

    trusted = {"trust_remote_code": request.trust_remote_code}
    if request.weights != "default":
        with torch.random.fork_rng():
            torch.manual_seed(request.seed)
            built = Classifiers.from_config(config, dtype=torch.float32, **trusted)
        return cast(nn.Module, built)
    module, report = Classifiers.from_pretrained(
        where, config=config, dtype=torch.float32, output_loading_info=True, **trusted
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"{request.name} lacks weights of the classifier ({', '.join(missing[:3])}): it was "
            "made for something else, and must be trained to classify first"
        )
    return cast(nn.Module, module)


def _labels(config: Any) -> tuple[str, ...] | None:
    """Return the names of the classes, or None where they are only numbered."""
    names = [str(config.id2label.get(i, "")) for i in range(config.num_labels)]
    if all(name in ("", f"LABEL_{i}") for i, name in enumerate(names)):
        return None
    return tuple(names)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting and drawing bars on its own."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
