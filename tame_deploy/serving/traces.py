"""OpenTelemetry's traces, for who installed them and named a collector; nothing otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tame_deploy import __version__
from tame_deploy.errors import require_extra

__all__ = ["note_status", "set_up_traces", "span"]

_tracer: Any = None
#: To send the last spans.
_END_S = 2.0


def set_up_traces(endpoint: str) -> Callable[[], None]:
    """Send a span for every request to an OTLP endpoint (HTTP); return what ends that.

    Raises:
        MissingExtraError: without OpenTelemetry.
    """
    require_extra("traces", "opentelemetry")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    global _tracer  # noqa: PLW0603  # one server a process
    resource = Resource.create({"service.name": "tame-deploy", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    _tracer = provider.get_tracer("tame_deploy")

    def end() -> None:
        # In a thread that nobody waits for: a collector that is gone must not hold the process.
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(_END_S)

    return end


def span(name: str, headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """Time what is done inside as part of the trace that the client's headers name."""
    return nullcontext() if _tracer is None else _span(name, headers)


def note_status(current: Any, status: object, *, failed: bool) -> None:
    """Say in a span how its request ended; without traces, nothing."""
    if current is None:
        return
    from opentelemetry.trace import Status, StatusCode

    current.set_attribute("response.status", str(status))
    if failed:
        current.set_status(Status(StatusCode.ERROR))


@contextmanager
def _span(name: str, headers: Mapping[str, str]) -> Iterator[Any]:
    from opentelemetry.propagate import extract

    with _tracer.start_as_current_span(name, context=extract(headers)) as current:
        yield current
