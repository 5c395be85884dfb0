import pytest

from tests.serving.running import running

for module in ("uvicorn", "starlette", "grpc", "grpc_health", "prometheus_client"):
    pytest.importorskip(module)


@pytest.fixture(scope="session")
def server(demo_export, tmp_path_factory):
    """A server of the demo network, called demo, that tests share and leave running."""
    folder = tmp_path_factory.mktemp("server")
    with running(folder, f"demo={demo_export}", "--backend", "onnxruntime", "--threads", 1) as one:
        yield one
