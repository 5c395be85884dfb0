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

    It stays in the task that awaits it, as with `asyncio.timeout`, at a third of the cost.

    Raises:
        asyncio.TimeoutError: if it took longer; it was cancelled.
    """
    if timeout_s is None:
        return await work
    task, late = asyncio.current_task(), False
    assert task is not None

    def cancel() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(timeout_s, cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if late and not _cancelled_by_others(task):
            raise asyncio.TimeoutError from None
        raise
    finally:
        timer.cancel()


def _cancelled_by_others(task: asyncio.Task[Any]) -> bool:
    """Take our own cancellation back; whether somebody else asked for one as well (3.11+)."""
    return sys.version_info >= (3, 11) and task.uncancel() > 0
