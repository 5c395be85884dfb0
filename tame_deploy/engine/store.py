"""Finished engines in the user's cache: same inputs, same engine; other inputs, another one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tame_deploy.artifact.directory import file_sha256
from tame_deploy.errors import ArtifactError, TameError
from tame_deploy.files import cache_directory
from tame_deploy.runtime.backends.tensorrt.engines import StoredEngine, read_engine

__all__ = ["engine_key", "engines_cache", "find_engine", "install", "locked", "new_folder"]

_TRY_S = 0.5


def engines_cache() -> Path:
    """Return the folder of finished engines, one for each key."""
    return cache_directory() / "engines"


def engine_key(inputs: dict[str, Any]) -> str:
    """Return the sha256 of everything that makes an engine what it is.

    Plans of the same inputs differ in their bytes, so the inputs name an engine.
    """
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def find_engine(folder: Path, key: str) -> StoredEngine | None:
    """Return the engine in a folder if it is of a key, and whole."""
    try:
        engine = read_engine(folder)
        whole = (
            engine.sidecar.key == key
            and engine.plan.is_file()
            and engine.plan.stat().st_size == engine.sidecar.plan_bytes
            and file_sha256(engine.plan) == engine.sidecar.plan_sha256
        )
    except TameError:
        return None
    return engine if whole else None


@contextmanager
def locked(name: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a name against other processes; `waiting` is called once if one of them has it.

    Raises:
        ArtifactError: if the cache's folder cannot be written.
    """
    from filelock import FileLock, Timeout

    folder = cache_directory() / "locks"
    lock = FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        waiting()
        while not lock.is_locked:
            try:
                lock.acquire(timeout=_TRY_S)  # in short turns, so that Ctrl-C is heard
            except Timeout:
                continue
    except OSError as error:
        raise ArtifactError(
            f"cannot write {folder}: {error.strerror or error}. Set TAME_DEPLOY_CACHE to a folder "
            "that can be written"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of `target` if the block succeeds, and vanishes if not.

    Raises:
        ArtifactError: if the place is full or read-only.
    """
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        staging.chmod(0o755)
        yield staging
        _replace(staging, target)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {target}: {error.strerror or error}. An engine lies in its artifact: "
            "copy that to where it can be written"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _replace(staging: Path, target: Path) -> None:
    if target.is_dir():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        os.replace(target, old)  # an empty folder may be replaced
        os.replace(staging, target)
        shutil.rmtree(old, ignore_errors=True)
        return
    os.replace(staging, target)


def install(engine: StoredEngine, target: Path) -> StoredEngine:
    """Copy an engine to another folder, and return it there."""
    with new_folder(target) as staging:
        shutil.copytree(engine.folder, staging, dirs_exist_ok=True)
    return read_engine(target)
