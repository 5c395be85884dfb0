"""What is installed, found without importing it."""

from __future__ import annotations

import importlib.metadata

__all__ = ["first_version"]


def first_version(*packages: str) -> str | None:
    """Return the version of the first of some distributions that is installed; None if none is."""
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
