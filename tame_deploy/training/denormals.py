"""Numbers next to zero, which processors are slow with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["flushed_denormals"]


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Round denormal numbers to zero for a while: masks near zero are full of them.

    Afterwards the process is as it was.
    """
    before = bool((torch.tensor([1e-40]) * 1.0 == 0).item())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
