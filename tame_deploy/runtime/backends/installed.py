"""What is installed, found without importing it."""

from __future__ import annotations

__all__ = ["first_version"]


def first_version(*packages: str) -> str | None:
    """Return the version of the first of some distributions that is installed; None if none is."""
    # Here, because the command line imports this to list names, and it takes a tenth of its start.
    from importlib.metadata import PackageNotFoundError, version

    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
