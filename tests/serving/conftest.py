from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

import tame_deploy
from tests.serving.clients import TOKEN
from tests.serving.running import PLAIN, running

for module in ("uvicorn", "starlette", "grpc", "grpc_health", "prometheus_client"):
    pytest.importorskip(module)


@pytest.fixture(scope="session")
def serve(demo_export, tmp_path_factory):
    """Return what gives a server of the demo, called demo, that was started with these options.

    Tests with the same options share it, and leave it running and as it was. One that a test has
    ended is started again.
    """
    started = {}
    with ExitStack() as stack:

        def server_with(*options):
            key = tuple(map(str, options))
            if key not in started or started[key].process.poll() is not None:
                folder = tmp_path_factory.mktemp("server")
                one = running(folder, f"demo={demo_export}", *PLAIN, *options)
                started[key] = stack.enter_context(one)
            return started[key]

        yield server_with
        for one in started.values():
            one.process.kill()  # all at once: each would take a second to end well


@pytest.fixture(scope="session")
def server(serve):
    """A server as it is by default."""
    return serve()


@pytest.fixture(scope="session")
def impatient(serve):
    """A server with little patience, which takes little."""
    return serve("--max-body-mb", 1, "--body-timeout-s", 1, "--max-pixels", 20_000, "--no-grpc")


@pytest.fixture(scope="session")
def crowded(serve):
    """A server with few places, which waits for nobody for long."""
    return serve("--max-connections", 3, "--timeout-s", 2, "--keep-alive-s", 1)


@pytest.fixture(scope="session")
def delaying(serve):
    """A server that waits for batches of three pictures, longer than it has time for a request."""
    queue = ("--max-queue-delay-ms", 10_000, "--max-queue-size", 2)
    return serve(*queue, "--max-batch", 3, "--timeout-s", 3)


@pytest.fixture(scope="session")
def token_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"# ours\n{TOKEN}\n")
    return path


@pytest.fixture(scope="session")
def guarded(serve, token_file):
    """A server that asks for a token, with not very many places."""
    return serve("--token-file", token_file, "--max-connections", 16)


@pytest.fixture(scope="session")
def expected(demo_export):
    """What the runtime itself says of a black picture: its logits."""
    with tame_deploy.load(demo_export, backend="onnxruntime", threads=1) as explainer:
        return explainer.explain(np.zeros((128, 128, 3), np.uint8)).logits[0]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """PEM files: of an authority, and a certificate that it signed with its key."""
    trustme = pytest.importorskip("trustme")
    authority, folder = trustme.CA(), tmp_path_factory.mktemp("certificates")
    ours = authority.issue_cert("localhost", "127.0.0.1")
    blobs = {"cert": ours.cert_chain_pems, "key": [ours.private_key_pem],
             "ca": [authority.cert_pem]}  # fmt: skip
    for name, parts in blobs.items():
        (folder / f"{name}.pem").write_bytes(b"".join(part.bytes() for part in parts))
    return {name: str(folder / f"{name}.pem") for name in blobs}
