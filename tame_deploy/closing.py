"""Whatever holds something that must be freed is a context manager by the same two methods."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["Closing"]

_T = TypeVar("_T", bound="Closing")


class Closing:
    """A context manager that calls `close` at its end; `close` may be called again."""

    def close(self) -> None:
        """Free what is held; calling it again does nothing."""
        raise NotImplementedError

    def __enter__(self: _T) -> _T:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
