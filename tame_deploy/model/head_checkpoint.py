"""Files of attention heads: every published form is read, safetensors are written."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tame_deploy.artifact.types import HeadConfig, TokenUse, Width, variant_config
from tame_deploy.errors import InputError
from tame_deploy.model.checkpoint import find_tensors, load_checkpoint
from tame_deploy.model.head import AttentionHead

__all__ = ["AuxiliaryIdentity", "HeadCheckpoint", "read_head", "write_head"]

METADATA_KEY = "tame_deploy.head"

#: Where published TAME and T-TAME checkpoints keep the head's keys.
HEAD_PREFIXES = (
    "",
    "attn.",
    "attn_mech.attn.",
    "attn_mech.",
    "generic.attn_mech.",
    "generic.attn_mech.1.",
)

#: The variants by T-TAME's names, which its Lightning checkpoints keep as `attention_version`.
#: TTAME is TAME with a transformer's patch tokens multiplied by the class token.
ATTENTION_VERSIONS = {
    "TAME": "tame",
    "TTAME": "tame",
    "NoskipNobatchnorm": "no-skip-no-batchnorm",
    "Sigmoidinfeaturebranch": "sigmoid-branch",
    "Noskipconnection": "no-skip",
}

#: What a layer or a backbone may be called; anything else would garble messages.
_PLAIN_NAME = re.compile(r"[\w./:-]{1,200}")


@dataclass(frozen=True)
class AuxiliaryIdentity:
    """The auxiliary network whose layers a head reads: its name and the sha256 of its weights."""

    name: str
    sha256: str


@dataclass(frozen=True)
class HeadCheckpoint:
    """A trained head: its weights, switches, and the backbone and layers it was trained on.

    `backbone` and `layers` are None where the file does not say. `says_tokens`: whether it says
    what the head makes of a transformer's class token. `auxiliary` is the network that the layers
    belong to, None where it is the backbone.
    """

    head: AttentionHead
    backbone: str | None
    layers: tuple[str, ...] | None
    says_tokens: bool = True
    auxiliary: AuxiliaryIdentity | None = None


@dataclass(frozen=True)
class _Described:
    """What a file says of its head, and in which words; None where it says nothing."""

    variant: str | None = None
    tokens: TokenUse | None = None
    backbone: str | None = None
    layers: tuple[str, ...] | None = None
    words: str = ""
    auxiliary: AuxiliaryIdentity | None = None


def read_head(
    path: str | os.PathLike[str], *, variant: str | None = None, tokens: TokenUse | None = None
) -> HeadCheckpoint:
    """Read a head from safetensors, a TAME `.pt` or a T-TAME Lightning `.ckpt`.

    Files of tame-deploy and Lightning checkpoints of T-TAME say which variant they are. In others
    ReLU and sigmoid branches look alike: without `variant`, `tame` is taken where the shapes fit.

    Raises:
        InputError: if the file is no head, or not the one that `variant` and `tokens` ask for.
    """
    path = Path(path)
    loaded, metadata = load_checkpoint(path)
    config, described = _read_metadata(metadata, path)
    branches = config is None or config.branch == "attention"
    prefix, state = _strip_prefix(find_tensors(loaded, path), path, branches=branches)
    if config is None:
        described = _read_hyper_parameters(loaded, prefix, variant, path)
    for option, asked in (("variant", variant), ("tokens", tokens)):
        said = getattr(described, option)
        if None not in (asked, said) and asked != said:
            raise InputError(
                f"{path} holds a head of --{option} {said}{described.words}, not {asked}; "
                f"leave --{option} out"
            )
    if config is None:
        asked_tokens = tokens or described.tokens or "patch"
        config = _infer_config(state, variant or described.variant, asked_tokens, path)
    head = _load(config, state, path)
    return HeadCheckpoint(
        head,
        described.backbone,
        described.layers,
        says_tokens=described.tokens is not None,
        auxiliary=described.auxiliary,
    )


def _strip_prefix(
    tensors: Mapping[str, Tensor], path: Path, *, branches: bool
) -> tuple[str, dict[str, Tensor]]:
    """Return what the head's names begin with, and its tensors without that."""
    needed = ("fuser.weight", "convs.0.weight") if branches else ("fuser.weight",)
    for prefix in sorted(HEAD_PREFIXES, key=len, reverse=True):
        if all(f"{prefix}{name}" in tensors for name in needed):
            parts = tuple(f"{prefix}{part}." for part in ("convs", "bns", "fuser"))
            return prefix, {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(parts)
            }
    found = sorted(tensors)
    listed = ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
    raise InputError(
        f"{path} holds no attention head: found {listed}; expected convs.N.weight, convs.N.bias, "
        "bns.N.* and fuser.weight, fuser.bias, bare or under "
        f"{', '.join(prefix for prefix in HEAD_PREFIXES if prefix)}"
    )


def _read_metadata(metadata: Mapping[str, str], path: Path) -> tuple[HeadConfig | None, _Described]:
    """Return what a file of tame-deploy says; None for others."""
    if METADATA_KEY not in metadata:
        return None, _Described()
    try:
        raw = json.loads(metadata[METADATA_KEY])
        channels = tuple(int(count) for count in raw["channels"])
        switches = {k: raw[k] for k in ("batch_norm", "skip", "activation", "tokens")}
        wide = raw["width"]
        switches["width"] = tuple(map(int, wide)) if isinstance(wide, list) else wide
        # Files from before there were heads without branches do not say which they have.
        branch = raw.get("branch", "attention")
        if branch not in ("attention", "identity"):
            raise ValueError(f"{branch!r} has no weights")
        config = HeadConfig(channels, int(raw["classes"]), **switches, branch=branch)
        layers = tuple(str(layer) for layer in raw["layers"])
        backbone, auxiliary = str(raw["backbone"]), raw.get("auxiliary")
        if auxiliary is not None:
            auxiliary = AuxiliaryIdentity(str(auxiliary["name"]), str(auxiliary["sha256"]))
        return config, _Described(
            config.variant, config.tokens, backbone, layers, auxiliary=auxiliary
        )
    except (ValueError, KeyError, TypeError, RecursionError, InputError) as error:
        raise InputError(
            f"{path}: its head metadata cannot be read ({error!r:.80}). "
            "Make it again: tame-deploy import-checkpoint"
        ) from None


def _read_hyper_parameters(loaded: Any, prefix: str, variant: str | None, path: Path) -> _Described:
    """Return what a Lightning checkpoint of T-TAME says of its head; nothing for other files."""
    values = loaded.get("hyper_parameters") if isinstance(loaded, Mapping) else None
    version = values.get("attention_version") if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping) or not isinstance(version, str):
        return _Described()
    if version not in ATTENTION_VERSIONS and variant is None:
        raise InputError(
            f"{path} was trained with attention_version {version!r:.60}; known are "
            f"{', '.join(ATTENTION_VERSIONS)}. If it is one of these, say which with --variant"
        )
    # The class token is multiplied in by a module before the head, which only transformers have.
    times_class = version == "TTAME" and prefix.endswith(".1.")
    tokens: TokenUse = "patch-times-class" if times_class else "patch"
    backbone, layers = values.get("model_name"), values.get("layers")
    return _Described(
        ATTENTION_VERSIONS.get(version),
        tokens if version in ATTENTION_VERSIONS else None,
        _plain_names([backbone], path)[0] if isinstance(backbone, str) else None,
        _plain_names(layers, path) if layers and isinstance(layers, (list, tuple)) else None,
        words=f" (its attention_version is {version!r:.60})",
    )


def _plain_names(names: Sequence[Any], path: Path) -> tuple[str, ...]:
    for name in names:
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise InputError(
                f"{path}: its hyper_parameters hold {name!r:.60}; expected a layer's or a "
                "backbone's name"
            )
    return tuple(names)


def _infer_config(
    state: Mapping[str, Tensor], variant: str | None, tokens: TokenUse, path: Path
) -> HeadConfig:
    count = sum(name.startswith("convs.") and name.endswith(".weight") for name in state)
    shapes = [tuple(state[f"convs.{i}.weight"].shape) for i in range(count) if _has(state, i)]
    fuser = tuple(state["fuser.weight"].shape)
    if len(shapes) != count or any(len(shape) != 4 for shape in [*shapes, fuser]):
        raise InputError(f"{path}: its convolutions have shapes {shapes} and {fuser}; expected 1x1")
    channels, classes = tuple(shape[1] for shape in shapes), fuser[0]
    width: Width = "channels" if all(s[0] == s[1] for s in shapes) else "classes"
    batch_norm = any(name.startswith("bns.") for name in state)
    guess = {
        ("channels", True): "tame",
        ("channels", False): "no-skip-no-batchnorm",
        ("classes", True): "no-skip",
    }.get((width, batch_norm))
    if variant is None and guess is None:
        raise InputError(f"{path}: no published variant has branches one class wide and no norm")
    return variant_config(variant or str(guess), channels, classes, tokens)


def _has(state: Mapping[str, Tensor], layer: int) -> bool:
    return f"convs.{layer}.weight" in state


def _load(config: HeadConfig, state: Mapping[str, Tensor], path: Path) -> AttentionHead:
    # Without memory until the shapes agree: a small file can claim any size.
    with torch.device("meta"):
        head = AttentionHead(config)
    expected = head.state_dict()
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(expected.keys() - state.keys() - optional)
    unexpected = sorted(state.keys() - expected.keys())
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(expected[name].shape)}"
        for name in sorted(expected.keys() & state.keys())
        if state[name].shape != expected[name].shape
    ]
    problems = [
        f"{what}: {', '.join(names[:4])}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("shape", shapes))
        if names
    ]
    if problems:
        raise InputError(f"{path} is no {config.variant} head ({'; '.join(problems)})")
    bad = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise InputError(f"{path}: {bad[0]} holds NaN or infinity")
    counted = {name: torch.tensor(0) for name in optional}
    whole = {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}
    head.load_state_dict(counted | whole, assign=True)
    return head.eval().requires_grad_(False)


def write_head(
    checkpoint: HeadCheckpoint, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a head as safetensors with its configuration in the metadata, all at once.

    Raises:
        InputError: if the file exists (and `overwrite` is off) or cannot be written, is not called
            .safetensors, or the checkpoint names no backbone or layers.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: a head is written as safetensors; end its name in .safetensors")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; pass --overwrite to replace it, or another -o")
    if checkpoint.backbone is None or checkpoint.layers is None:
        raise InputError("a head is stored with its backbone and layers; name them")
    described = asdict(checkpoint.head.config) | {
        "backbone": checkpoint.backbone,
        "layers": checkpoint.layers,
    }
    if checkpoint.auxiliary is not None:
        described["auxiliary"] = asdict(checkpoint.auxiliary)
    tensors = {k: v.detach().contiguous() for k, v in checkpoint.head.state_dict().items()}
    data = safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(described)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
            part = Path(folder) / path.name
            part.write_bytes(data)
            part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    return path
