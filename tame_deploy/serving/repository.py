"""The models by name: opened, ready or not, and opened anew when their artifact is replaced."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tame_deploy.artifact.directory import MANIFEST_NAME
from tame_deploy.errors import InputError, TameError
from tame_deploy.serving.contract import VERSION
from tame_deploy.serving.faults import Fault, RequestError
from tame_deploy.serving.model import ServedModel, open_model
from tame_deploy.serving.options import ModelOptions
from tame_deploy.serving.statistics import Metrics, ModelStatistics

__all__ = ["EXTENSIONS", "SERVER_NAME", "Repository", "named_artifacts"]

SERVER_NAME = "tame-deploy"
#: What the server can do beyond the protocol's core, by the names that Triton gives it.
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
    "tame_explain",
)

_log = logging.getLogger("tame_deploy.serving")

_READY, _LOADING, _FAILED = "READY", "LOADING", "UNAVAILABLE"
_GONE = "the artifact is gone from disk; the model answers from memory"
_LONGEST_NAME = 128
#: How long a replaced model may take for what it accepted.
_PATIENCE_S = 600.0
#: After which an artifact that could not be opened is tried again: there may be memory now.
_AGAIN_S = 60.0


def named_artifacts(arguments: list[str]) -> dict[str, Path]:
    """Return artifacts by name, of "NAME=PATH" or "PATH", which is called as its folder is.

    Raises:
        InputError: for a name that is given twice or cannot stand in a URL.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        if not separator or "/" in name:
            name, path = Path(argument).absolute().name, argument
        allowed = name.replace("-", "").replace("_", "").replace(".", "")
        if not (allowed.isascii() and allowed.isalnum() and len(name) <= _LONGEST_NAME):
            raise InputError(
                f"model name {name!r} is no good in a URL; expected letters, digits, - _ and ., "
                "as in NAME=PATH"
            )
        if name in found:
            raise InputError(f"two artifacts are called {name!r}; say NAME=PATH for one of them")
        found[name] = Path(path)
        if not (found[name] / MANIFEST_NAME).is_file():
            raise InputError(f"{path} is no artifact: it has no {MANIFEST_NAME}")
    if not found:
        raise InputError("found no artifact; expected at least one")
    return found


@dataclass(kw_only=True)
class _Entry:
    path: Path
    statistics: ModelStatistics
    model: ServedModel | None = None
    state: str = _LOADING
    reason: str = ""
    gone: bool = False
    stamp: tuple[int, ...] | None = None
    again_at: float = 0.0


class Repository:
    """The served models. It lives on one event loop."""

    def __init__(
        self, artifacts: Mapping[str, Path], options: ModelOptions, metrics: Metrics
    ) -> None:
        self.metrics, self._options = metrics, options
        self._entries = {
            name: _Entry(path=path, statistics=ModelStatistics(name=name, metrics=metrics))
            for name, path in artifacts.items()
        }
        self._draining = False
        self._closing: set[asyncio.Task[None]] = set()
        for name in artifacts:
            metrics.ready.labels(name).set(0)

    @property
    def ready(self) -> bool:
        """Whether every model answers, and the server is not about to end."""
        return not self._draining and all(e.state == _READY for e in self._entries.values())

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        return self._draining

    @property
    def names(self) -> tuple[str, ...]:
        """The models, in the order they were given."""
        return tuple(self._entries)

    @property
    def most_values(self) -> int:
        """Numbers in the pictures of the largest request that a model takes."""
        models = (entry.model for entry in self._entries.values())
        return max((model.contract.json_bounds.values for model in models if model), default=0)

    @property
    def backends(self) -> dict[str, str]:
        """What runs each model that is open, in words."""
        models = {name: entry.model for name, entry in self._entries.items()}
        return {name: model.explainer.backend.name for name, model in models.items() if model}

    def get(self, name: str, version: str = "") -> ServedModel:
        """Return a model that answers.

        Raises:
            RequestError: if there is none of that name and version, or it is not ready.
        """
        entry = self._known(name, version)
        if entry.model is None:
            raise RequestError(f"model {name!r} is not ready", Fault.UNAVAILABLE)
        return entry.model

    def _known(self, name: str, version: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            served = ", ".join(self._entries)
            raise RequestError(f"unknown model {name!r:.80}; expected {served}", Fault.NOT_FOUND)
        if version not in ("", VERSION):
            raise RequestError(
                f"model {name!r} has no version {version!r:.40}; expected {VERSION}",
                Fault.NOT_FOUND,
            )
        return entry

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether a model answers.

        Raises:
            RequestError: if there is none of that name and version.
        """
        return self._known(name, version).state == _READY and not self._draining

    def index(self, *, only_ready: bool = False) -> list[dict[str, str]]:
        """Return every model with its state, as Triton's repository index."""
        return [
            {
                "name": name,
                "version": VERSION,
                "state": entry.state,
                "reason": _GONE if entry.gone else entry.reason,
            }
            for name, entry in self._entries.items()
            if entry.state == _READY or not only_ready
        ]

    def statistics(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """Return the statistics of one model, or of all.

        Raises:
            RequestError: if there is none of that name and version.
        """
        if name:
            self._known(name, version)
        chosen = [name] if name else self._entries
        return [self._entries[one].statistics.to_dict(VERSION) for one in chosen]

    async def open_all(self) -> None:
        """Open the models one after another.

        Raises:
            TameError: if one cannot be opened: a server that cannot answer should not start.
        """
        for name, entry in self._entries.items():
            entry.stamp = _stamp(entry.path)
            await self._open(name, entry)

    async def _open(self, name: str, entry: _Entry) -> None:
        try:
            model = await asyncio.to_thread(
                open_model, str(entry.path), self._options, entry.statistics
            )
        except Exception:
            self.metrics.loads.labels(name, "failed").inc()
            raise
        model.start()
        before, entry.model = entry.model, model
        entry.state, entry.reason = _READY, ""
        self.metrics.loads.labels(name, "ok").inc()
        self.metrics.ready.labels(name).set(1)
        word = "ready" if before is None else "replaced, and ready"
        _log.info("%s: %s with %s", name, word, model.explainer.backend.name)
        if before is not None:
            # Whoever holds it already is answered by it; nobody new gets it.
            task = asyncio.create_task(before.close(_PATIENCE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def watch(self, every_s: float) -> None:
        """Open anew what was replaced on disk, for ever; the old one answers until then."""
        while True:
            await asyncio.sleep(every_s)
            for name, entry in self._entries.items():
                await self._look_at(name, entry)

    async def _look_at(self, name: str, entry: _Entry) -> None:
        stamp = await asyncio.to_thread(_stamp, entry.path)
        if stamp is None and not entry.gone:
            _log.warning("%s: %s", name, _GONE)
        entry.gone = stamp is None
        failed = entry.reason and time.monotonic() > entry.again_at
        if stamp is None or (stamp == entry.stamp and not failed):
            return
        entry.stamp, entry.again_at = stamp, time.monotonic() + _AGAIN_S
        try:
            await self._open(name, entry)
        except Exception as error:
            entry.reason = "the artifact was replaced, and the new one cannot be opened"
            unforeseen = None if isinstance(error, TameError) else error
            _log.error("%s: the new artifact is not taken: %s", name, error, exc_info=unforeseen)

    def begin_drain(self) -> None:
        """Say "not ready" from now on; requests are answered all the same."""
        self._draining = True
        for name in self._entries:
            self.metrics.ready.labels(name).set(0)

    async def idle(self) -> None:
        """Return when no accepted request is without its answer."""
        for entry in self._entries.values():
            if entry.model is not None:
                await entry.model.idle()

    async def close(self, timeout_s: float) -> None:
        """Wait for every accepted request, but not for ever, and free the models."""
        models = [entry.model for entry in self._entries.values() if entry.model is not None]
        closing = [asyncio.ensure_future(model.close(timeout_s)) for model in models]
        if closing or self._closing:
            # What is not over by then ends with the process.
            await asyncio.wait([*closing, *self._closing], timeout=timeout_s + 1)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes when an artifact is replaced; None while it is not there."""
    try:
        found = (path / MANIFEST_NAME).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
