"""What a server is told, by options or a TOML file with the same names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tame_deploy.artifact.decoding import TOML, decode, read_toml
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import MAX_PIXELS, MOST_PIXELS
from tame_deploy.runtime.backends.protocol import BackendOptions

__all__ = ["ModelOptions", "ServeOptions", "read_options"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How models are run.

    Attributes:
        backend: as `tame_deploy.load` takes it.
        backend_options: likewise.
        max_batch: pictures in a batch, and in a request; an engine's profile may allow fewer.
        instances: batches that run at a time.
        max_queue_delay_ms: how long a request may wait for others to share its batch.
        max_queue_size: requests that wait or are run at a time; more are told to come back.
        max_pixels: of an encoded picture.
        decoders: threads that decode pictures and draw overlays; None is one for each processor
            that the process may use, up to four.
    """

    backend: str = "auto"
    backend_options: BackendOptions = field(default_factory=BackendOptions)
    max_batch: int = 8
    instances: int = 1
    max_queue_delay_ms: float = 0.0
    max_queue_size: int = 2000
    max_pixels: int = MAX_PIXELS
    decoders: int | None = None


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How a server listens, and what it lets through.

    Attributes:
        host: address to listen on; the loopback, unless said otherwise.
        allowed_hosts: names that HTTP requests may name in `Host`, without scheme and port; `*` is
            any. If there are none: any, but on the loopback `localhost` and `host` alone. Addresses
            in numbers always may.
        http_port: 0 takes a free one.
        grpc_port: likewise; None is no gRPC.
        backend: as `tame_deploy.load` takes it.
        device: number of the GPU.
        precision: what OpenVINO computes in.
        threads: for one operation on the CPU.
        max_batch: pictures in a batch, and in a request.
        instances: batches that run at a time.
        max_queue_delay_ms: how long a request may wait for others to share its batch.
        max_queue_size: requests of a model that wait or are run at a time; more get 503. None is
            as many as the connections let in (see `queue_size`).
        max_body_mb: size of a request, in MiB, packed or not.
        max_pixels: of an encoded picture.
        decoders: threads a model that decode pictures and draw overlays; None is one for each
            processor that the process may use, and at most four.
        max_connections: of HTTP, and requests at a time of gRPC; more are refused.
        timeout_s: for a request from its last byte to its answer.
        body_timeout_s: for a request's head, and for its body, to arrive.
        keep_alive_s: how long an idle HTTP connection is kept.
        drain_s: how long a server that was told to end waits for what it accepted.
        reload_s: how often to look for replaced artifacts; 0 is never.
        tls_cert: PEM file of the server's certificates; with tls_key.
        tls_key: PEM file of its key.
        client_ca: PEM file of who signs clients' certificates, which are asked for then.
        token_file: bearer tokens, one a line.
        open_health: whether health and metrics need no token.
        page: whether there is a page at /.
        log_format: "text", or "json" for one object a line.
        log_level: "debug", "info", "warning" or "error".
        traces: OTLP endpoint for OpenTelemetry's traces.

    Raises:
        InputError: for numbers out of range, or options that do not belong together.
    """

    host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()
    http_port: int = 8000
    grpc_port: int | None = 8001
    backend: str = "auto"
    device: int = 0
    precision: Literal["fp32", "bf16"] | None = None
    threads: int | None = None
    max_batch: int = 8
    instances: int = 1
    max_queue_delay_ms: float = 0.0
    max_queue_size: int | None = None
    max_body_mb: int = 64
    max_pixels: int = MAX_PIXELS
    decoders: int | None = None
    max_connections: int = 1000
    timeout_s: float = 60.0
    body_timeout_s: float = 30.0
    keep_alive_s: float = 75.0
    drain_s: float = 30.0
    reload_s: float = 5.0
    tls_cert: str | None = None
    tls_key: str | None = None
    client_ca: str | None = None
    token_file: str | None = None
    open_health: bool = True
    page: bool = True
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    traces: str | None = None

    @property
    def queue_size(self) -> int:
        """How many requests of a model may wait or be run at a time.

        Unless it was said, as many as each transport lets in: nobody is refused who was let in.
        """
        transports = 1 if self.grpc_port is None else 2
        return self.max_queue_size or self.max_connections * transports

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise InputError(f"{name} is {_shown(value)}; expected {least:g} to {_shown(most)}")
        for name in self.allowed_hosts:
            if name != "*" and not _NAME.fullmatch(name):
                raise InputError(
                    f"allowed_hosts has {name!r}; expected a name such as tame.example.com, "
                    "without scheme and port, or *"
                )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("found one of tls_cert and tls_key; expected both or neither")
        if self.client_ca is not None and self.tls_cert is None:
            raise InputError("client_ca has no meaning without tls_cert and tls_key")
        if not self.open_health and self.token_file is None:
            raise InputError("closed health has no meaning without token_file")
        if self.grpc_port and self.grpc_port == self.http_port:
            raise InputError(f"http_port and grpc_port are both {self.http_port}")


def _shown(number: float) -> str:
    """Return a number as one says it: 300 million, and not 3e+08."""
    return f"{number / 1e6:.9g} million" if number >= 10**6 else f"{number:.9g}"


_NAME = re.compile(r"[\w.-]+")
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("http_port", 0, 65535),
    ("grpc_port", 0, 65535),
    ("device", 0, 1024),
    ("threads", 1, 1024),
    ("max_batch", 1, 1024),
    ("instances", 1, 64),
    ("max_queue_delay_ms", 0, 10_000),
    ("max_queue_size", 1, 1_000_000),
    ("max_body_mb", 1, 2047),  # gRPC counts in 32 bits
    ("max_pixels", 1, MOST_PIXELS),
    ("decoders", 1, 64),
    ("max_connections", 1, 1_000_000),
    ("timeout_s", 0.001, 86_400),
    ("body_timeout_s", 0.001, 86_400),
    ("keep_alive_s", 0, 86_400),
    ("drain_s", 0, 86_400),
    ("reload_s", 0, 86_400),
)


def read_options(path: str | None, given: Mapping[str, Any]) -> tuple[list[str], ServeOptions]:
    """Return artifacts and options of a TOML file; what was `given` besides comes before it.

    Args:
        path: the file, or none. Its keys are the options' names, and `artifacts`, a list. No gRPC
            is `grpc_port = false`.
        given: options by name.

    Raises:
        InputError: for a file that cannot be read, an unknown key, or a value of another type.
    """
    told = read_toml(Path(path)) if path is not None else {}
    artifacts = list(decode(tuple[str, ...], told.pop("artifacts", []), "artifacts", TOML))
    if told.get("grpc_port") is False:
        told["grpc_port"] = None
    return artifacts, decode(ServeOptions, {**told, **given}, "", TOML)
