"""A served model asked as if it were here, over Triton's own client.

with connect("grpc://localhost:8001/vgg16") as explainer:
    explainer.explain("cat.jpg")[0].overlay().save("cat-explained.png")

What comes back is an `Explainer` like that of `tame_deploy.load`: pictures are read and prepared
here, by the served manifest, and travel as the graph's input, a third as large as JPEG's pixels in
float32 would be. Anything that runs a backend runs this one, evaluation included.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.manifest import Manifest
from tame_deploy.artifact.types import TensorSpec, check_feeds
from tame_deploy.closing import Closing
from tame_deploy.errors import BackendError, InputError, require_extra
from tame_deploy.files import read_file

__all__ = ["ConnectOptions", "RemoteBackend", "open_remote", "options_from_environment"]

_SCHEMES = {"http": False, "https": True, "grpc": False, "grpcs": True}
#: Without one in the URL: where serve-engine listens, or where TLS is usually ended.
_PORTS = {"http": 8000, "https": 443, "grpc": 8001, "grpcs": 443}
_HINT = (
    "Does it run, is this its port for HTTP or gRPC, does it use TLS (https, grpcs; "
    "ConnectOptions(ca=FILE), or --tls-ca FILE on the command line)?"
)
#: Statuses by which a server says that the request was wrong, not itself.
_OUR_FAULT = ("400", "StatusCode.INVALID_ARGUMENT")


@dataclass(frozen=True)
class ConnectOptions:
    """How a server is reached.

    Attributes:
        token: sent as a bearer token.
        ca: PEM file of who signed the server's certificate; the system's authorities by default.
        cert: PEM file of the client's own certificate, with `key`.
        key: PEM file of its key.
        timeout_s: for one batch.

    Raises:
        InputError: for one of cert and key, or a timeout that is none.
    """

    token: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InputError("found one of cert and key; expected both or neither")
        if not self.timeout_s > 0:
            raise InputError(f"timeout_s is {self.timeout_s}; expected more than 0")


@dataclass(frozen=True)
class _ServedArtifact(Artifact):
    """What a server tells of an artifact; its files stay there."""

    labels: tuple[str, ...]

    def read_labels(self) -> tuple[str, ...]:
        return self.labels


def options_from_environment() -> ConnectOptions:
    """Return options of TAME_DEPLOY_TOKEN, TAME_DEPLOY_CA, TAME_DEPLOY_CERT and TAME_DEPLOY_KEY."""
    token, ca, cert, key = (
        os.environ.get(f"TAME_DEPLOY_{name}") for name in ("TOKEN", "CA", "CERT", "KEY")
    )
    return ConnectOptions(token, ca, cert, key)


def open_remote(url: str, options: ConnectOptions | None = None) -> tuple[Artifact, RemoteBackend]:
    """Return what a server tells of its artifact, and a backend that asks the server.

    Args:
        url: http, https, grpc or grpcs://HOST[:PORT]/MODEL; the model may be left out where the
            server has one.
        options: tokens, certificates, time; by default as the environment says
            (`options_from_environment`).

    Raises:
        InputError: for a URL that names no server or model.
        BackendError: if the server cannot be reached, refuses, or is another's.
        MissingExtraError: without tritonclient.
    """
    options = options or options_from_environment()
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.query:
        raise InputError(f"found {url!r}; expected {' or '.join(_SCHEMES)}, ://HOST:PORT/MODEL")
    if not _SCHEMES[parts.scheme] and (options.ca or options.cert):
        raise InputError(
            f"certificates have no meaning for {parts.scheme}; expected {parts.scheme}s://…"
        )
    require_extra("client", "tritonclient")
    for path in (options.ca, options.cert, options.key):
        if path is not None:
            read_file(path, "certificates")
    connection = _Connection(parts.scheme, _address(url), options)
    try:
        path = parts.path.strip("/").removeprefix("v2/models/")  # as the server prints it
        model = path or _only_model(connection, url)
        config = connection.config(model)
        artifact = _artifact(config, url)
    except BaseException:
        connection.close()
        raise
    name = f"{model} at {parts.scheme}://{connection.address}"
    return artifact, RemoteBackend(name, model, artifact, config, connection)


def _address(url: str) -> str:
    parts = urlsplit(url)
    try:
        port = parts.port or _PORTS[parts.scheme]
    except ValueError:
        raise InputError(f"found {url!r}, whose port is no number up to 65535") from None
    host = str(parts.hostname)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _only_model(connection: _Connection, url: str) -> str:
    names = connection.models()
    if len(names) != 1:
        raise InputError(
            f"{url} serves {', '.join(names) or 'nothing'}; expected /MODEL at its end"
        )
    return names[0]


def _artifact(config: Mapping[str, Any], url: str) -> _ServedArtifact:
    told = {key: one.get("string_value", "") for key, one in config.get("parameters", {}).items()}
    if "manifest" not in told or "labels" not in told:
        raise BackendError(f"{url} tells no manifest; expected a server started by tame-deploy")
    manifest = Manifest.from_json(told["manifest"])
    return _ServedArtifact(Path(url), manifest, tuple(told["labels"].split("\n")))


class RemoteBackend(Closing):
    """Runs a graph that is elsewhere; safe for threads."""

    def __init__(
        self,
        name: str,
        model: str,
        artifact: Artifact,
        config: Mapping[str, Any],
        connection: _Connection,
    ) -> None:
        self.name = name
        self.inputs: tuple[TensorSpec, ...] = artifact.manifest.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.manifest.outputs
        self._model, self._connection = model, connection
        self.max_batch: int | None = max(1, int(config.get("max_batch_size", 1)))

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name (see `Backend.run`)."""
        check_feeds(self.inputs, feeds)
        outputs = [spec.name for spec in self.outputs]
        return self._connection.infer(self._model, feeds, outputs)

    def close(self) -> None:
        """Hang up; calling it again does nothing."""
        self._connection.close()


class _Connection:
    """tritonclient's HTTP or gRPC client. That of HTTP is bound to its thread: each has its own."""

    def __init__(self, scheme: str, address: str, options: ConnectOptions) -> None:
        self.address, self._options = address, options
        self._secure, self._is_grpc = _SCHEMES[scheme], scheme.startswith("grpc")
        self._triton: ModuleType = _triton_module(self._is_grpc)
        self._threads = threading.local()
        self._lock = threading.Lock()
        self._clients: list[Any] = []
        self._shared = self._open() if self._is_grpc else None
        self._closed = False

    def config(self, model: str) -> dict[str, Any]:
        """Return a model's configuration."""
        found = self._call("get_model_config", model, **self._as_json())
        config: dict[str, Any] = found["config"] if self._is_grpc else found
        return config

    def models(self) -> list[str]:
        """Return the names of the models."""
        found = self._call("get_model_repository_index", **self._as_json())
        listed = found.get("models", []) if self._is_grpc else found
        return [one["name"] for one in listed]

    def infer(
        self, model: str, feeds: Mapping[str, NDArray[Any]], outputs: list[str]
    ) -> dict[str, NDArray[Any]]:
        """Return the outputs of one request."""
        from tritonclient.utils import np_to_triton_dtype

        inputs = []
        for name, array in feeds.items():
            tensor = self._triton.InferInput(
                name, list(array.shape), np_to_triton_dtype(array.dtype)
            )
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            inputs.append(tensor)
        wanted = [self._triton.InferRequestedOutput(name) for name in outputs]
        found = self._call("infer", model, inputs, outputs=wanted)
        return {name: np.array(found.as_numpy(name)) for name in outputs}

    def close(self) -> None:
        """Close every client."""
        with self._lock:
            self._closed = True
            clients, self._clients = self._clients, []
        for client in clients:
            client.close()

    def _as_json(self) -> dict[str, Any]:
        return {"as_json": True} if self._is_grpc else {}

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        if self._closed:
            raise BackendError("this backend is closed; connect again")
        token, limit = self._options.token, self._options.timeout_s
        if token is not None:
            key = "authorization" if self._is_grpc else "Authorization"
            named["headers"] = {key: f"Bearer {token}"}
        if self._is_grpc:
            named["client_timeout"] = limit
        from tritonclient.utils import InferenceServerException

        try:
            return getattr(self._client(), method)(*arguments, **named)
        except InferenceServerException as error:
            refused = error.status() in _OUR_FAULT
            words = error.message() or "no reason was given"
            if error.status() == "StatusCode.UNAVAILABLE" and "connect" in words:
                words = f"{words}. {_HINT}"
            kind = InputError if refused else BackendError
            raise kind(f"{self.address}: {words}") from error
        except Exception as error:  # sockets, greenlets and TLS raise what they like
            reason = str(error) or type(error).__name__
            raise BackendError(f"cannot reach {self.address}: {reason:.300}. {_HINT}") from error

    def _client(self) -> Any:
        if self._shared is not None:
            return self._shared
        if not hasattr(self._threads, "client"):
            self._threads.client = self._open()
        return self._threads.client

    def _open(self) -> Any:
        client = self._open_grpc() if self._is_grpc else self._open_http()
        with self._lock:
            self._clients.append(client)
        return client

    def _open_grpc(self) -> Any:
        import grpc

        options, credentials = self._options, None
        if self._secure:
            ca, key, cert = (
                read_file(path, "certificates") if path else None
                for path in (options.ca, options.key, options.cert)
            )
            credentials = grpc.ssl_channel_credentials(ca, key, cert)
        size = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        return self._triton.InferenceServerClient(
            self.address, creds=credentials, ssl=self._secure, channel_args=size
        )

    def _open_http(self) -> Any:
        options, secure = self._options, {}
        if self._secure:
            import ssl

            def context() -> ssl.SSLContext:
                found = ssl.create_default_context(cafile=options.ca)
                if options.cert is not None:
                    found.load_cert_chain(options.cert, options.key)
                return found

            secure = {"ssl": True, "ssl_context_factory": context}
        return self._triton.InferenceServerClient(
            self.address,
            connection_timeout=options.timeout_s,
            network_timeout=options.timeout_s,
            **secure,
        )


def _triton_module(is_grpc: bool) -> ModuleType:
    if is_grpc:
        # gRPC's core would write lines of its own; what fails is told by exceptions.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        import tritonclient.grpc as triton
    else:
        import tritonclient.http as triton
    found: ModuleType = triton
    return found
