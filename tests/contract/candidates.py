"""Everything that runs a graph, and what each is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.runtime.backends.protocol import Backend, BackendOptions
from tame_deploy.runtime.backends.table import backend_spec, graph_backend_names
from tests.simulated.engines import opened, simulate, write_engine


@dataclass(frozen=True)
class Candidate:
    """Something that runs a graph.

    Attributes:
        open: a context manager from an artifact's folder, which it may write to, and pytest's
            monkeypatch to a backend.
        logits: how far logits may be from PyTorch's, as a share of their range.
        maps: how far maps may be, in [0, 1].
        skips: which tests of the contract do not apply, and why.
    """

    name: str
    open: Callable[[Path, pytest.MonkeyPatch], Iterator[Backend]]
    logits: float = 1e-3
    maps: float = 5e-3
    skips: dict[str, str] = field(default_factory=dict)


@contextmanager
def _by_name(name: str, path: Path, patched: pytest.MonkeyPatch) -> Iterator[Backend]:
    from tame_deploy.runtime.selection.selection import open_backend

    if backend_spec(name, BackendOptions()).version is None:
        pytest.skip(f"needs {name}")
    with open_backend(open_artifact(path), name, BackendOptions(threads=1)) as backend:
        yield backend


@contextmanager
def _pytorch(path: Path, patched: pytest.MonkeyPatch) -> Iterator[Backend]:
    from tame_deploy.model.backbones import BackboneRequest, load_backbone
    from tame_deploy.model.network import HeadRequest, build_network
    from tame_deploy.model.torch_backend import TorchBackend

    network = build_network(load_backbone(BackboneRequest("demo")), HeadRequest())
    with TorchBackend(network, graph_input="uint8") as backend:
        yield backend


@contextmanager
def _tensorrt(path: Path, patched: pytest.MonkeyPatch) -> Iterator[Backend]:
    simulate(patched)
    write_engine(path, batches=((1, 2, 4),), explained=(1, 1, 5))
    with opened(path) as backend:
        yield backend


@contextmanager
def _server(scheme: str, path: Path, patched: pytest.MonkeyPatch) -> Iterator[Backend]:
    from tame_deploy.runtime.backends.remote import open_remote
    from tests.serving.running import running

    for module in ("uvicorn", "grpc_health", "tritonclient"):
        if find_spec(module) is None:
            pytest.skip(f"needs {module}")
    folder = path.parent / scheme
    folder.mkdir()
    served = running(
        folder, f"demo={path}", "--backend", "onnxruntime", "--threads", 1, "--max-batch", 4
    )
    with served as server:
        address = server.http if scheme == "http" else f"grpc://{server.grpc}"
        _, backend = open_remote(f"{address}/demo")
        with backend:
            yield backend


@contextmanager
def _libtame(path: Path, patched: pytest.MonkeyPatch) -> Iterator[Backend]:
    from tests.contract.libtame import LibtameBackend
    from tests.cpp.build import find_inference_libraries_of_this_python

    find_inference_libraries_of_this_python(patched)
    with LibtameBackend(open_artifact(path)) as backend:
        yield backend


CANDIDATES = (
    # Whatever the table of backends runs graphs with; a new entry is held to the contract, too.
    *(Candidate(name, partial(_by_name, name)) for name in graph_backend_names()),
    Candidate("tensorrt", _tensorrt),
    Candidate("pytorch", _pytorch),
    Candidate("http", partial(_server, "http")),
    Candidate("grpc", partial(_server, "grpc")),
    Candidate(
        "libtame",
        _libtame,
        skips={"ill-fitting": "ctypes passes the arrays that Python has checked"},
    ),
)
