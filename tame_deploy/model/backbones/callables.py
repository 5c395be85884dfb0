"""Backbones of one's own: package.module:callable, or file.py:callable."""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.errors import InputError
from tame_deploy.model.backbones.backbone import Loaded, first_line
from tame_deploy.model.backbones.declared import read_declaration
from tame_deploy.model.backbones.preprocessing import NOTHING_SAID
from tame_deploy.model.backbones.request import BackboneRequest
from tame_deploy.model.backbones.state_dict import load_file
from tame_deploy.model.backbones.unwrapping import plain_module
from tame_deploy.model.outputs import give_logits_only

__all__ = ["load_callable"]


def load_callable(request: BackboneRequest) -> Loaded:
    """Return the module that a callable builds, or that a name stands for, unwrapped.

    Raises:
        InputError: if it cannot be imported or built, or what it gives, declares or is loaded with
            cannot be used.
    """
    where, _, attribute = request.name.rpartition(":")
    # A file's place is no part of what the model is.
    name = f"{Path(where).name}:{attribute}" if where.endswith(".py") else request.name
    with torch.random.fork_rng():
        torch.manual_seed(request.seed)  # the file itself may build the network
        found = _find(where, attribute, request.name)
        torch.manual_seed(request.seed)
        built = _built(found, request)
    module = plain_module(built, request.name)
    give_logits_only(module)
    notes: tuple[str, ...] = ()
    if request.weights == "random":
        source = WeightsSource(f"random, as {name} builds it", random=True)
    elif request.weights == "default":
        source = WeightsSource(f"as {name} builds it")
    else:
        source, notes = load_file(module, request.weights)
    declared, transform = NOTHING_SAID, None
    if request.preprocessing is None:
        declared, transform = read_declaration((module, built, found), request.name)
    return Loaded(
        name=name,
        module=module,
        source=source,
        declared=declared,
        transform=transform,
        notes=notes,
    )


def _built(found: Any, request: BackboneRequest) -> Any:
    """Return what a callable gives; of a network that is there already, a copy."""
    arguments = {} if request.classes is None else {"num_classes": request.classes}
    try:
        # What is done to a backbone must not be done to what the user's code holds.
        return copy.deepcopy(found) if isinstance(found, nn.Module) else found(**arguments)
    # It is the user's code, which may raise anything.
    except Exception as error:
        hint = ""
        if arguments and "num_classes" in str(error):
            hint = "; leave --classes out, or let it take num_classes"
        raise InputError(
            f"cannot build backbone {request.name}: {first_line(error)}{hint}"
        ) from error


def _find(where: str, attribute: str, name: str) -> Any:
    try:
        found: Any = _import_file(Path(where)) if where.endswith(".py") else _import(where)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot import backbone {name}: {first_line(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [one for one in dir(found) if not one.startswith("_")]
            near = difflib.get_close_matches(part, public, 3, 0.4) or public[:5]
            hint = f"; it has {', '.join(near)}" if near else ""
            raise InputError(f"cannot import backbone {name}: {where} has no {part!r}{hint}")
        found = getattr(found, part)
    if not callable(found):
        kind = type(found).__name__
        raise InputError(f"{name} is {kind}; expected a function or class that builds the network")
    return found


def _import(where: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    return importlib.import_module(where)


def _import_file(path: Path) -> ModuleType:
    """Run a Python file as a module; what lies beside it can be imported, as for a script."""
    if not path.is_file():
        raise InputError(f"{path}: no such Python file; expected file.py:callable")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = f"tame_deploy_backbone_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look it up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
