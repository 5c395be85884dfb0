"""Checkpoints, read without ever running code that a file brings."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from tame_deploy.errors import InputError

__all__ = ["find_tensors", "load_checkpoint", "read_state"]

#: What training frameworks store beside the weights. These names are bound to an inert class
#: instead of the real one, so that nothing of them runs; any other name is refused.
_HARMLESS_PACKAGES = frozenset(
    [
        "pytorch_lightning",
        "lightning",
        "lightning_fabric",
        "lightning_utilities",
        "omegaconf",
        "argparse",
        "pathlib",
        "typing",
        "collections",
        "numpy",
        "yacs",
    ]
)


class _Inert:
    """Stands in for a class that a checkpoint names; takes anything, does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a checkpoint's tensors by name, and its metadata (safetensors only).

    Reads safetensors and PyTorch files. A PyTorch file may hold the state dict itself or under
    `state_dict`, `model_state_dict` or `model`.

    Raises:
        InputError: if the file is missing, truncated, holds code, or holds no tensors.
    """
    loaded, metadata = load_checkpoint(path)
    return find_tensors(loaded, Path(path)), metadata


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[Any, dict[str, str]]:
    """Return what a file holds beside and around its tensors too, and its metadata.

    Everything is a tensor or plain Python; objects of training frameworks are empty stand-ins.

    Raises:
        InputError: if the file is missing, truncated, or holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickled(path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from None


def _read_pickled(path: Path) -> Any:
    foreign = _foreign_names(path)
    refused = [name for name in foreign if name.split(".")[0] not in _HARMLESS_PACKAGES]
    if refused:
        raise InputError(
            f"{path} holds code ({', '.join(sorted(refused)[:3])}); only tensors are read. "
            "Nothing of it was run"
        )
    # The restricted unpickler sets items on no other mapping than its own few.
    inert: list[Any] = [
        (OrderedDict if name.casefold().endswith("dict") else _Inert, name) for name in foreign
    ]
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)
    # The restricted unpickler meets arbitrary bytes here; whatever it raises, the file is no good.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "weights only" in reason.lower():
            reason = "it holds something besides tensors. Nothing of it was run"
        raise InputError(f"{path} is not a readable checkpoint: {reason:.160}") from None


def _foreign_names(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []  # the old format, which torch.load restricts by itself
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is truncated or no checkpoint: {reason:.160}") from None


def find_tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors by name of what `load_checkpoint` gave for a file.

    Raises:
        InputError: if there are none.
    """
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if isinstance(loaded, Mapping):
        tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            return tensors
    raise InputError(f"{path} holds {type(loaded).__name__} without tensors; expected a state dict")
