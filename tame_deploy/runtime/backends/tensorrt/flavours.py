"""One adapter over TensorRT 10, TensorRT 11 and TensorRT-RTX: what they have in common.

Their Python modules share classes and methods; they differ in what they leave out, which `Flavour`
lists. Both keep one logger a process, whichever came first, so there is one here.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from tame_deploy.artifact.sidecar import FlavourName
from tame_deploy.errors import BackendNotInstalledError

__all__ = ["FLAVOURS", "Flavour", "Library", "load_library"]

_log = logging.getLogger("tame_deploy.tensorrt")


@dataclass(frozen=True)
class Flavour:
    """A kind of TensorRT.

    Attributes:
        name: as a backend and a target.
        module: what is imported.
        lacks: options of a compilation that it cannot honour, and why.
    """

    name: FlavourName
    module: str
    lacks: Mapping[str, str]


_FROM_WEIGHTS = "its builder compiles weights in without a GPU, and fails to leave them open"

FLAVOURS: Mapping[FlavourName, Flavour] = MappingProxyType(
    {
        "tensorrt": Flavour(
            "tensorrt",
            "tensorrt",
            {"compute_capabilities": "it builds for the GPU that it finds, and for no other"},
        ),
        "tensorrt-rtx": Flavour(
            "tensorrt-rtx",
            "tensorrt_rtx",
            {
                "refit": _FROM_WEIGHTS,
                "strip": _FROM_WEIGHTS,
                "version_compatible": "it ships no lean runtime",
                "hardware_compatible": (
                    "its engines are portable anyway where no --compute-capability is given"
                ),
                "timing_cache": "it times nothing while building",
            },
        ),
    }
)


@dataclass
class Messages:
    """The errors that the library told in a stretch of time."""

    errors: list[str] = field(default_factory=list)

    def first_error(self, otherwise: str) -> str:
        """Return the first error, without the places in its source, or another text."""
        return _plain(self.errors[0]) if self.errors else otherwise


def _plain(message: str) -> str:
    """Leave out what only the library's developers can read."""
    text = " ".join(message.split())
    if text.startswith("[") and "]" in text:
        text = text.partition("]")[2].strip()
    _, found, after = text.partition("Error Code ")
    text = after if found else text
    text = text.partition(": ")[2] if found else text
    return text.partition(" In ")[0].rstrip(" .") or message


class Library:
    """An imported flavour: its module `trt`, its version, and its one logger."""

    def __init__(self, flavour: Flavour, trt: Any) -> None:
        self.flavour = flavour
        self.trt = trt
        self.version = str(trt.__version__)
        self._listeners: list[Messages] = []
        self._lock = threading.Lock()
        self.logger = _make_logger(trt, self._hear)

    def _hear(self, severity: int, message: str) -> None:
        _log.debug("%s: %s", self.flavour.name, message)
        if severity > _ERROR:
            return
        with self._lock:
            for listener in self._listeners:
                listener.errors.append(message)

    @contextmanager
    def listening(self) -> Iterator[Messages]:
        """Yield what the library says meanwhile, other threads' doings included."""
        messages = Messages()
        with self._lock:
            self._listeners.append(messages)
        try:
            yield messages
        finally:
            with self._lock:
                # By identity: messages of two listeners may be equal.
                self._listeners = [one for one in self._listeners if one is not messages]


_ERROR = 1
_WARNING = 2


def _make_logger(trt: Any, hear: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Passes on what is at least a warning."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Hear one message; the library calls it from any of its threads."""
            if int(severity) <= _WARNING:
                hear(int(severity), message)

    return Logger()


@cache
def load_library(name: FlavourName) -> Library:
    """Import a flavour; this needs no GPU.

    Raises:
        BackendNotInstalledError: if it is missing or broken.
    """
    flavour = FLAVOURS[name]
    if importlib.util.find_spec(flavour.module) is None:
        raise BackendNotInstalledError(
            f"backend {name} is not installed: pip install 'tame-deploy[{name}]'"
        )
    try:
        module = importlib.import_module(flavour.module)
    except Exception as error:  # a missing or mismatched shared library raises nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BackendNotInstalledError(
            f"backend {name} is installed and cannot be imported ({reason:.200}). "
            f"Install it anew: pip install --force-reinstall 'tame-deploy[{name}]'"
        ) from error
    return Library(flavour, module)
