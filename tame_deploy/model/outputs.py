"""What classifiers and their layers return: a tensor, or something that holds one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tame_deploy.errors import InputError

__all__ = ["give_logits_only", "read_layer", "read_logits"]


def read_logits(output: Any) -> Tensor:
    """Return the logits (B, classes) in what a classifier returned.

    They are the tensor itself, the entry `logits` of a mapping or an object (transformers'
    ModelOutput), the only tensor of a mapping, or the first tensor of a tuple or list.

    Raises:
        InputError: if there is none of these.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        tensors = {key: value for key, value in output.items() if isinstance(value, Tensor)}
        if "logits" in tensors:
            return tensors["logits"]
        if len(tensors) == 1:
            return next(iter(tensors.values()))
        raise InputError(
            f"the backbone returns a mapping of {', '.join(map(str, output)) or 'nothing'}; "
            "expected an entry named logits, or one tensor alone"
        )
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, (tuple, list)):
        for item in output:
            if isinstance(item, Tensor):
                return item
    raise InputError(
        f"the backbone returns {_described(output)}; expected logits: a tensor, a tuple that "
        "starts with it, or a mapping with an entry named logits"
    )


def give_logits_only(module: nn.Module) -> None:
    """Let a classifier return its logits and nothing beside, whoever calls it."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        return read_logits(output)

    module.register_forward_hook(hook)


def read_layer(output: Any) -> Any:
    """Return what a layer gives out: of tuples, lists and mappings the first tensor, else all."""
    items = tuple(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(items, (tuple, list)):
        return output
    found = (read_layer(item) for item in items)
    return next((item for item in found if isinstance(item, Tensor)), output)


def _described(output: Any) -> str:
    if isinstance(output, (tuple, list)):
        inside = ", ".join(type(item).__name__ for item in output) or "nothing"
        return f"a {type(output).__name__} of {inside}"
    return type(output).__name__
