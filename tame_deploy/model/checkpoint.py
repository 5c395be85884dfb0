"""Checkpoints, read without ever running code that a file brings."""

from __future__ import annotations

import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from tame_deploy.errors import InputError

__all__ = ["choose_part", "find_tensors", "is_averaged", "load_checkpoint", "read_state"]

#: Where files keep a network's weights, the likeliest first.
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "params", "net", "network", "weights")
#: Parts of names whose tensors are no network's.
_NO_WEIGHTS = ("optim", "sched", "callback", "loop", "scaler", "hyper", "rng", "args", "config")

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

    Reads safetensors and PyTorch files. A PyTorch file may hold the state dict itself or under a
    key, such as `state_dict`, `model` or `params`.

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
    _refuse_code(path)
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
        elif not isinstance(
            error, (RuntimeError, PermissionError)
        ):  # what pickle trips over says nothing to a user
            reason = "it is truncated, or neither safetensors nor a file of torch.save"
        raise InputError(f"{path} is not a readable checkpoint: {reason:.160}") from None


def _refuse_code(path: Path) -> None:
    """Refuse what torch keeps whole programs in; each is a zip file as a checkpoint is."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    script = "constants.pkl" in names and any(name.startswith("code/") for name in names)
    program = any(name.endswith(("serialized_exported_program.json", ".pt2")) for name in names)
    program = program or "archive_format" in names
    if script or program:
        raise InputError(
            f"{path} is {'TorchScript' if script else 'a program of torch.export'}, a program and "
            "not a state dict; build the network in Python, and save its weights alone: "
            "torch.save(network.state_dict(), 'weights.pth')"
        )


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
    return choose_part(loaded, path)[0]


def choose_part(
    loaded: Any, path: Path, asked: str | None = None
) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
    """Return one of a file's state dicts, its key in the file, and the keys of others like it.

    Plain weights come before averaged ones (EMA), unless `asked` is the key of those; it may also
    be what stands before the first dot of some names. The file itself has the key "".

    Raises:
        InputError: if there are no tensors, or none of that key.
    """
    parts = _parts(loaded)
    if not parts:
        kind = type(loaded).__name__
        raise InputError(f"{path} holds {kind} without tensors; expected a state dict")
    if asked is not None:
        return _asked_part(parts, path, asked), asked, ()
    chosen = min(parts, key=lambda key: _rank(key, len(parts[key])))
    # Beside two forms of one network there may be a loss or a discriminator, which is much smaller.
    alike = [key for key in parts if 2 * len(parts[key]) > len(parts[chosen]) and key != chosen]
    return parts[chosen], chosen, tuple(alike)


def _asked_part(
    parts: Mapping[str, dict[str, Tensor]], path: Path, asked: str
) -> dict[str, Tensor]:
    if asked in parts:
        return parts[asked]
    prefix = f"{asked}."
    for tensors in parts.values():
        inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if inside:
            return inside
    known = sorted({*filter(None, parts), *(n.partition(".")[0] for n in parts.get("", ()))})
    raise InputError(f"{path} has no {asked!r}; it has {', '.join(known[:8])}")


def _parts(loaded: Any, depth: int = 2) -> dict[str, dict[str, Tensor]]:
    """Return the tensors by name under every key of a file, keys of inner mappings dotted."""
    if not isinstance(loaded, Mapping):
        return {}
    named = {key: value for key, value in loaded.items() if isinstance(key, str)}
    own = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    parts = {"": own} if own else {}
    for key, value in named.items() if depth else ():
        if not any(word in key.casefold() for word in _NO_WEIGHTS):
            inner = _parts(value, depth - 1)
            parts |= {".".join(filter(None, (key, name))): held for name, held in inner.items()}
    return parts


def _rank(key: str, tensors: int) -> tuple[int, int]:
    """Return a number that is lower for what more likely holds the network."""
    if key in _USUAL_KEYS:
        return _USUAL_KEYS.index(key), 0
    return len(_USUAL_KEYS) + is_averaged(key), -tensors


def is_averaged(name: str) -> bool:
    """Whether a name is one of averaged weights, such as state_dict_ema or ema_model."""
    words = re.split(r"[^a-z]+", name.casefold())
    return any(word in ("ema", "swa", "averaged", "shadow") for word in words)
