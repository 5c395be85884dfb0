"""From the module that somebody's code returns to the plain one inside, in float32 on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tame_deploy.errors import InputError

__all__ = ["plain_module", "without_wrappers"]


def plain_module(built: Any, name: str) -> nn.Module:
    """Return a module without its wrappers, so that its layers have their plain names.

    Wrappers are those of DataParallel, DistributedDataParallel, torch.compile and averaged weights,
    anywhere in the module.

    Raises:
        InputError: if it is no module, or one whose layers cannot be seen.
    """
    if not isinstance(built, nn.Module):
        raise InputError(f"{name} gave {type(built).__name__}; expected a torch module")
    module = without_wrappers(built)
    for part, inner in module.named_modules():
        # In place, `module.compile()` leaves the compiled form here.
        inner._compiled_call_impl = None
        if isinstance(inner, torch.jit.ScriptModule):
            where = f", its part {part}," if part else ""
            raise InputError(
                f"{name} gave a TorchScript module{where} whose layers cannot be tapped; return "
                "the Python module that it was scripted or traced from"
            )
    try:
        return module.to("cpu", torch.float32)
    except (RuntimeError, NotImplementedError) as error:  # weights that are on no device yet
        raise InputError(f"{name} cannot be computed in float32 on the CPU: {error}") from None


def without_wrappers(module: nn.Module) -> nn.Module:
    """Return a module without those around it, or around its parts."""
    while (inner := _inside(module)) is not None:
        module = inner
    for parent in list(module.modules()):
        if isinstance(parent, torch.jit.ScriptModule):
            continue  # refused later; nothing can be set in it
        for child_name, child in list(parent.named_children()):
            plain = child
            while (inner := _inside(plain)) is not None:
                plain = inner
            if plain is not child:
                setattr(parent, child_name, plain)
    return module


def _inside(module: nn.Module) -> nn.Module | None:
    """Return what a wrapper wraps, or None if a module is none."""
    inner: Any = None
    wrappers = (
        nn.DataParallel,
        nn.parallel.DistributedDataParallel,
        torch.optim.swa_utils.AveragedModel,
    )
    if type(module).__name__ == "OptimizedModule":  # importing its class takes seconds
        inner = getattr(module, "_orig_mod", None)
    elif isinstance(module, wrappers) or type(module).__name__.startswith("ModelEma"):  # timm's
        inner = getattr(module, "module", None)
    return inner if isinstance(inner, nn.Module) else None
