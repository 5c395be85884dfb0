"""Engines, and ONNX Runtime on CUDA, on a real GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.artifact.sidecar import EngineOptions
from tame_deploy.engine.compile import CompileRequest, compile_artifact, profiles_for
from tame_deploy.engine.layers import engine_layers
from tame_deploy.engine.verify import batches_to_verify, verify_backend, write_verdict
from tame_deploy.errors import TameError
from tame_deploy.runtime.backends.protocol import CPU, CUDA, BackendOptions
from tame_deploy.runtime.backends.table import backend_spec
from tame_deploy.runtime.backends.tensorrt import cuda
from tame_deploy.runtime.backends.tensorrt.backend import TensorRTBackend
from tame_deploy.runtime.backends.tensorrt.engines import choose_engine
from tame_deploy.runtime.backends.tensorrt.flavours import load_library
from tame_deploy.runtime.backends.tensorrt.loaded import load_engine
from tame_deploy.runtime.predict.predictor import Predictor
from tame_deploy.runtime.selection.auto import prospects
from tame_deploy.runtime.selection.selection import open_backend

try:
    DEVICE = cuda.probe()
except TameError as reason:
    pytest.skip(f"needs a GPU: {reason}", allow_module_level=True)

TOLERANCE = {"fp32": 2e-3, "tf32": 3e-2}


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def flavour(request):
    if backend_spec(request.param, BackendOptions()).version is None:
        pytest.skip(f"needs {request.param}")
    return request.param


@pytest.fixture
def engine(demo_copy, flavour, tmp_path, monkeypatch):
    """The demo with an engine of two profiles for this GPU."""
    monkeypatch.setenv("TAME_DEPLOY_CACHE", str(tmp_path / "cache"))
    return compiled(demo_copy, flavour)


def compiled(path, flavour, **settings):
    artifact = open_artifact(path)
    profiles = profiles_for(artifact, [(1, 1, 4), (8, 16, 32)], None)
    request = CompileRequest(flavour=flavour, options=EngineOptions(profiles, **settings))
    compile_artifact(artifact, request)
    return artifact


def feeds_of(artifact, count, seed=0):
    random = np.random.default_rng(seed)
    shape = artifact.manifest.image.input_shape(count)
    return {
        "images": random.integers(0, 256, shape, np.uint8),
        "class_ids": np.zeros((count, 1), np.int64),
    }


def expected_of(artifact, feeds):
    with open_backend(artifact, "onnxruntime") as backend:
        return backend.run(feeds)


def assert_close(found, expected, tolerance=TOLERANCE["fp32"]):
    for name, value in expected.items():
        assert found[name].shape == value.shape
        spread = max(float(np.ptp(value)), 1.0)
        np.testing.assert_allclose(found[name], value, atol=tolerance * spread)


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("count", [1, 3, 5, 16, 40])
def test_an_engine_gives_what_the_graph_gives(engine, flavour, graphs, count):
    with open_backend(engine, flavour, BackendOptions(cuda_graphs=graphs)) as backend:
        for seed in range(4):  # plain, captured, replayed twice
            feeds = feeds_of(engine, count, seed)
            found = Predictor.of(engine.manifest, backend).predict(**feeds)
            shown = {"logits": found.logits, "explained": found.class_ids, "maps": found.maps}
            assert_close(shown, expected_of(engine, feeds))


def test_auto_takes_the_engine(engine, flavour):
    best = next(one for one in prospects(engine, BackendOptions()) if one.refusal is None)
    assert best.spec.name == flavour


def test_it_is_verified_at_all_its_batch_sizes(engine, flavour):
    with TensorRTBackend.of_artifact(engine, flavour, BackendOptions()) as backend:
        batches = batches_to_verify(backend.stored.sidecar)
        verdict = verify_backend(engine, backend, batches)
        assert set(verdict.parity) == {"1", "16", "32"}
        assert write_verdict(backend.stored, verdict, str(DEVICE)).verified_on == str(DEVICE)


def test_threads_get_their_own_answers(engine, flavour):
    asked = [feeds_of(engine, 1 + seed % 4, seed) for seed in range(32)]
    expected = [expected_of(engine, feeds) for feeds in asked]
    options = BackendOptions(streams=3)
    with open_backend(engine, flavour, options) as backend, ThreadPoolExecutor(6) as pool:
        for found, right in zip(pool.map(backend.run, asked), expected, strict=True):
            assert_close(found, right)


def test_torch_tensors_go_in_and_come_out_without_a_copy(engine, flavour):
    feeds = feeds_of(engine, 2)
    images = torch.from_numpy(feeds["images"]).cuda()
    maps = torch.zeros(expected_of(engine, feeds)["maps"].shape, device="cuda")
    stream = torch.cuda.Stream()
    with TensorRTBackend.of_artifact(engine, flavour, BackendOptions()) as backend:
        for _ in range(4):
            with torch.cuda.stream(stream):
                brighter = images.clone()  # work of this stream, that must come first
                found = backend.run_on_device(
                    {"images": brighter, "class_ids": feeds["class_ids"]},
                    out={"maps": maps},
                    stream=stream.cuda_stream,
                )
                logits = torch.from_dlpack(found["logits"]) * 1
                same = torch.as_tensor(found["maps"], device="cuda")
            stream.synchronize()
            assert same.data_ptr() == maps.data_ptr()
            expected = expected_of(engine, feeds)
            assert_close({"maps": maps.cpu().numpy()}, {"maps": expected["maps"]})
            assert_close({"logits": logits.cpu().numpy()}, {"logits": expected["logits"]})
        del found, same


def test_memory_comes_back(engine, flavour):
    torch.cuda.synchronize()
    with open_backend(engine, flavour):
        pass  # the library keeps some for itself the first time
    before = torch.cuda.mem_get_info()[0]
    for _ in range(5):
        with open_backend(engine, flavour) as backend:
            for _ in range(3):
                backend.run(feeds_of(engine, 4))
    assert before - torch.cuda.mem_get_info()[0] < 64 << 20


def test_the_inspector_tells_the_fused_layers(engine, flavour):
    library = load_library(flavour)
    stored = choose_engine(engine, flavour, library.version, DEVICE)
    loaded = load_engine(engine, stored, library, DEVICE, graphs=False)
    assert engine_layers(library.trt, loaded.engine)


def test_tf32_is_near(demo_copy, flavour, tmp_path, monkeypatch):
    monkeypatch.setenv("TAME_DEPLOY_CACHE", str(tmp_path / "cache"))
    artifact = compiled(demo_copy, flavour, tf32=True)
    feeds = feeds_of(artifact, 4)
    with open_backend(artifact, flavour) as backend:
        assert_close(backend.run(feeds), expected_of(artifact, feeds), TOLERANCE["tf32"])


@pytest.mark.parametrize(
    "options", [{"strip": True}, {"refit": True}, {"version_compatible": True}]
)
def test_what_only_tensorrt_has(demo_copy, tmp_path, monkeypatch, options):
    if backend_spec("tensorrt", BackendOptions()).version is None:
        pytest.skip("needs tensorrt")
    monkeypatch.setenv("TAME_DEPLOY_CACHE", str(tmp_path / "cache"))
    artifact = compiled(demo_copy, "tensorrt", **options)
    feeds = feeds_of(artifact, 4)
    with open_backend(artifact, "tensorrt") as backend:
        assert_close(backend.run(feeds), expected_of(artifact, feeds))
    monkeypatch.setenv("TAME_DEPLOY_CACHE", str(tmp_path / "other"))
    # A second build starts from the first one's timings.
    assert compiled(demo_copy, "tensorrt", **options)


@pytest.mark.parametrize("graphs", [True, False])
def test_onnxruntime_on_cuda_gives_what_the_cpu_gives(demo_export, graphs):
    ort = pytest.importorskip("onnxruntime")
    if CUDA not in ort.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    artifact = open_artifact(demo_export)
    options = BackendOptions(providers=(CUDA, CPU), cuda_graphs=graphs)
    with open_backend(artifact, "onnxruntime", options) as backend:
        for count in (1, 4, 1, 4, 1, 4):
            feeds = feeds_of(artifact, count, seed=count)
            assert_close(backend.run(feeds), expected_of(artifact, feeds))
