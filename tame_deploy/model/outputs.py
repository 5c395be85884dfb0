"""What classifiers and their layers return: a tensor, or something that holds one."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn

from tame_deploy.errors import InputError

__all__ = [
    "find_logits",
    "give_logits_only",
    "noting_choice",
    "read_layer",
    "read_logits",
    "replace_layer",
]

log = logging.getLogger(__name__)

_Kind = TypeVar("_Kind")


def read_logits(output: Any) -> Tensor:
    """Return the logits (B, classes) in what a classifier returned.

    They are the tensor itself, the entry `logits` of a mapping or an object (transformers'
    ModelOutput), the only tensor of a mapping, or the first tensor of a tuple or list.

    Raises:
        InputError: if there is none of these.
    """
    return find_logits(output, Tensor)


def find_logits(output: Any, kind: type[_Kind]) -> _Kind:
    """Return the logits in what a classifier returned, be it tensors or what stands for them.

    Args:
        output: what it returned.
        kind: what stands for a tensor, such as a node of a traced graph.

    Raises:
        InputError: if nothing in it is what `read_logits` takes for logits.
    """
    if isinstance(output, kind):
        return output
    if isinstance(output, Mapping):
        tensors = {key: value for key, value in output.items() if isinstance(value, kind)}
        if "logits" in tensors:
            return tensors["logits"]
        if len(tensors) == 1:
            return next(iter(tensors.values()))
        raise InputError(
            f"the backbone returns a mapping of {', '.join(map(str, output)) or 'nothing'}; "
            "expected an entry named logits, or one tensor alone"
        )
    logits = getattr(output, "logits", None)
    if isinstance(logits, kind):
        return logits
    if isinstance(output, (tuple, list)):
        for item in output:
            if isinstance(item, kind):
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


@contextmanager
def noting_choice(module: nn.Module) -> Iterator[None]:
    """Say which tensor of a tuple was taken for the logits, where another could be meant."""
    seen: list[Any] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output)

    handle = module.register_forward_hook(hook, prepend=True)  # before others choose
    try:
        yield
    finally:
        handle.remove()
    found = seen[-1] if seen and isinstance(seen[-1], (tuple, list)) else ()
    if hasattr(found, "logits"):
        return
    widths = [item.shape[1] for item in found if isinstance(item, Tensor) and item.ndim == 2]
    if len(set(widths)) > 1:
        log.info(
            "the backbone returns a %s of tensors, %s wide; the first was taken for the logits. "
            "If they are another, return them first or under the key logits",
            type(found).__name__,
            " and ".join(map(str, widths)),
        )


def read_layer(output: Any) -> Any:
    """Return what a layer gives out: of tuples, lists and mappings the first tensor, else all."""
    items = tuple(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(items, (tuple, list)):
        return output
    found = (read_layer(item) for item in items)
    return next((item for item in found if isinstance(item, Tensor)), output)


def replace_layer(output: Any, tensor: Tensor) -> Any:
    """Return what a layer gave out, with another tensor for the one that `read_layer` takes."""
    if isinstance(output, Mapping):
        key = next(key for key, item in output.items() if isinstance(read_layer(item), Tensor))
        replaced: Any = copy.copy(output)
        replaced[key] = replace_layer(output[key], tensor)
        return replaced
    if isinstance(output, (tuple, list)):
        place = next(i for i, item in enumerate(output) if isinstance(read_layer(item), Tensor))
        items = [*output[:place], replace_layer(output[place], tensor), *output[place + 1 :]]
        named = hasattr(output, "_fields")
        return type(output)(*items) if named else type(output)(items)
    return tensor


def _described(output: Any) -> str:
    if isinstance(output, (tuple, list)):
        inside = ", ".join(type(item).__name__ for item in output) or "nothing"
        return f"a {type(output).__name__} of {inside}"
    return type(output).__name__
