"""The user's files: reading one, replacing one at once, and where the cache is."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from tame_deploy.errors import InputError

__all__ = ["cache_directory", "is_writable", "keep_json", "read_file", "replaced_file"]

_log = logging.getLogger("tame_deploy")


def cache_directory() -> Path:
    """Return where downloads and measurements are kept: TAME_DEPLOY_CACHE, or the user's cache."""
    if chosen := os.environ.get("TAME_DEPLOY_CACHE"):
        return Path(chosen)
    return Path(platformdirs.user_cache_dir("tame-deploy", appauthor=False))


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def read_file(path: str | os.PathLike[str], what: str) -> bytes:
    """Return the bytes of a file that the user named; `what` says what it should hold.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot read {what} {os.fspath(path)}: {reason}") from error


def keep_json(path: Path, found: Mapping[str, Any], what: str) -> None:
    """Keep what was measured in a file of the cache; where that cannot be, say so in the log.

    Args:
        path: the file.
        found: plain JSON types.
        what: it is, in a word.
    """
    text = json.dumps(found, indent=1, allow_nan=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as stream:
            stream.write(text.encode())
    except OSError as error:
        _log.warning("the %s is not kept, and will be measured again: %s", what, error)


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file beside `path` that takes its place once it is written whole.

    A reader sees the old file or the new one, never a part, and a failure leaves the old one.

    Raises:
        OSError: if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
