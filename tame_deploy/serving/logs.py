"""Logs a person or a collector can read; every line of a request has its id."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextvars import ContextVar
from datetime import datetime, timezone

__all__ = ["access", "request_id", "set_up_logs", "usable_id"]

#: The id of the request that is being answered.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_LONGEST_ID = 128


def usable_id(told: str) -> str:
    """Return a client's id for its request if it can stand in a log, or else a new one."""
    if told.isascii() and told.isprintable() and " " not in told and 0 < len(told) <= _LONGEST_ID:
        return told
    return os.urandom(16).hex()


_access = logging.getLogger("tame_deploy.serving.access")
#: What a record has besides its message, if it is about a request.
_FIELDS = ("addresses", "transport", "method", "path", "status", "ms", "client", "bytes", "error")


class _TextFormat(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(" ", "milliseconds")
        line = f"{when[:23]} {record.levelname.lower():7} {_one_line(record.getMessage())}"
        if request_id.get():
            line += f" [{request_id.get()}]"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _JsonFormat(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat()
        told = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
        told |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if request_id.get():
            told["request_id"] = request_id.get()
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told)


def _one_line(text: str) -> str:
    """Return a text that cannot pass for lines of the log, as a client might wish."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def set_up_logs(log_format: str, level: str) -> None:
    """Send the package's log to standard error, in place of what was set up before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormat() if log_format == "json" else _TextFormat())
    root, own = logging.getLogger(), logging.getLogger("tame_deploy")
    root.handlers[:] = [handler]  # what libraries say too
    own.handlers.clear()
    own.propagate = True
    own.setLevel(level.upper())


def access(*, transport: str, method: str, path: str, status: object, ms: float,
           client: str = "", size: int = 0, error: str = "") -> None:  # fmt: skip
    """Log a request that is over; `error` says what was wrong with one that nobody could read."""
    if not _access.isEnabledFor(logging.INFO):
        return
    told = {"transport": transport, "method": method, "path": path, "status": status,
            "ms": round(ms, 3), "client": client, "bytes": size}  # fmt: skip
    if error:
        told["error"] = error
    words = "".join(f", {said}" for said in (client, error) if said)
    _access.info("%s %s %s %s %.1f ms%s", transport, method, path, status, ms, words, extra=told)
