"""Files of attention heads: every published form is read, safetensors are written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from tame_deploy.artifact.types import HeadConfig, TokenUse, Width, variant_config
from tame_deploy.errors import InputError
from tame_deploy.model.checkpoint import read_state
from tame_deploy.model.head import AttentionHead

__all__ = ["HeadCheckpoint", "read_head", "write_head"]

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


@dataclass(frozen=True)
class HeadCheckpoint:
    """A trained head: its weights, switches, and the backbone and layers it was trained on.

    `backbone` and `layers` are None where the file does not say.
    """

    head: AttentionHead
    backbone: str | None
    layers: tuple[str, ...] | None


def read_head(
    path: str | os.PathLike[str], *, variant: str | None = None, tokens: TokenUse | None = None
) -> HeadCheckpoint:
    """Read a head from safetensors, a TAME `.pt` or a T-TAME Lightning `.ckpt`.

    A file of tame-deploy says which variant it is. In others ReLU and sigmoid branches look
    alike: without `variant`, `tame` is taken where the shapes fit it.

    Raises:
        InputError: if the file is no head, or the variant asked for is not the file's.
    """
    tensors, metadata = read_state(path)
    state = _strip_prefix(tensors, Path(path))
    described = _described(metadata, Path(path))
    if described is None:
        config = _infer_config(state, variant, tokens or "patch", Path(path))
        backbone, layers = None, None
    else:
        config, backbone, layers = described
        if variant not in (None, config.variant) or tokens not in (None, config.tokens):
            raise InputError(
                f"{path} is a {config.variant} head with tokens {config.tokens!r}, "
                f"not {variant or config.variant} with {tokens or config.tokens!r}"
            )
    return HeadCheckpoint(_load(config, state, Path(path)), backbone, layers)


def _strip_prefix(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    for prefix in sorted(HEAD_PREFIXES, key=len, reverse=True):
        if f"{prefix}fuser.weight" in tensors and f"{prefix}convs.0.weight" in tensors:
            parts = tuple(f"{prefix}{part}." for part in ("convs", "bns", "fuser"))
            return {
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


def _described(
    metadata: Mapping[str, str], path: Path
) -> tuple[HeadConfig, str, tuple[str, ...]] | None:
    if METADATA_KEY not in metadata:
        return None
    try:
        raw = json.loads(metadata[METADATA_KEY])
        channels = tuple(int(count) for count in raw["channels"])
        switches = {k: raw[k] for k in ("width", "batch_norm", "skip", "activation", "tokens")}
        config = HeadConfig(channels, int(raw["classes"]), **switches)
        return config, str(raw["backbone"]), tuple(str(layer) for layer in raw["layers"])
    except (ValueError, KeyError, TypeError, RecursionError, InputError) as error:
        raise InputError(
            f"{path}: its head metadata cannot be read ({error!r:.80}). "
            "Make it again: tame-deploy import-checkpoint"
        ) from None


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
