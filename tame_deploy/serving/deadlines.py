"""Waiting no longer than one should."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["within"]

_T = TypeVar("_T")


async def within(work: Coroutine[Any, Any, _T], timeout_s: float | None) -> _T:
    """Await work for so long at most; None is for ever.

    Raises:
        asyncio.TimeoutError: if it took longer; it was cancelled.
    """
    if sys.version_info >= (3, 11):
        async with asyncio.timeout(timeout_s):  # in this task, where wait_for makes another
            return await work
    return await asyncio.wait_for(work, timeout_s)
