"""Running an engine: batches, threads, CUDA graphs and memory, on a GPU made of host memory."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tame_deploy import load
from tame_deploy.artifact.directory import open_artifact
from tame_deploy.errors import BackendError, DeviceError, IncompatibleArtifactError, InputError
from tame_deploy.runtime.backends import table
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.predict.predictor import Predictor
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.parity import check_parity
from tame_deploy.runtime.verify.reference import ParityReference
from tests.simulated.engines import opened, simulate, write_engine


@pytest.fixture
def gpu(monkeypatch):
    return simulate(monkeypatch)[0]


@pytest.fixture
def engine(demo_copy, gpu):
    write_engine(demo_copy)
    return demo_copy


def feeds_of(path, count, explained=1, seed=0):
    height, width = (
        getattr(open_artifact(path).manifest.image, side) for side in ("height", "width")
    )
    random = np.random.default_rng(seed)
    return {
        "images": random.integers(0, 256, (count, height, width, 3), np.uint8),
        "class_ids": np.tile(np.arange(explained, dtype=np.int64), (count, 1)),
    }


def expected_of(path, feeds):
    with open_backend(open_artifact(path), "onnxruntime") as backend:
        return backend.run(feeds)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 8, 9, 20])
def test_any_number_of_pictures_is_split_over_the_profile(engine, count):
    feeds = feeds_of(engine, count)
    with opened(engine) as backend:
        found = Predictor.of(open_artifact(engine).manifest, backend).predict(**feeds)
        shown = {"logits": found.logits, "explained": found.class_ids, "maps": found.maps}
        assert_same(shown, expected_of(engine, feeds))


def test_more_pictures_than_the_profile_in_one_call_are_refused(engine):
    with opened(engine) as backend:
        assert backend.max_batch == 8
        with pytest.raises(InputError, match="found {'batch': 9, .* no profile holds it"):
            backend.run(feeds_of(engine, 9))


def test_more_classes_than_the_profile_are_split(engine):
    feeds = feeds_of(engine, 8, explained=6)
    with opened(engine) as backend:
        assert_same(backend.run(feeds), expected_of(engine, feeds))
        feeds["class_ids"][:, 5] = -1
        with pytest.raises(InputError, match="place 6 or later; this engine ranks 5"):
            backend.run(feeds)


def test_fewer_pictures_than_the_profiles_min_are_filled_up(demo_copy, gpu):
    write_engine(demo_copy, batches=((4, 4, 4),), explained=(2, 2, 5))
    feeds = feeds_of(demo_copy, 3)
    with opened(demo_copy) as backend:
        assert_same(backend.run(feeds), expected_of(demo_copy, feeds))


def test_the_tightest_profile_runs(demo_copy, monkeypatch):
    _, trt = simulate(monkeypatch)
    write_engine(demo_copy, batches=((1, 1, 2), (4, 8, 16)))
    feeds = feeds_of(demo_copy, 2)
    with opened(demo_copy, cuda_graphs=False) as backend:
        backend.run(feeds)
        assert [context.profile for context in trt.contexts] == [0]
        more = feeds_of(demo_copy, 3)
        assert_same(backend.run(more), expected_of(demo_copy, more))
        assert [context.profile for context in trt.contexts] == [0, 1]


def test_a_size_is_captured_when_it_comes_back_and_answers_stay_its_own(demo_copy, monkeypatch):
    gpu, trt = simulate(monkeypatch)
    write_engine(demo_copy)
    with opened(demo_copy) as backend:
        for round_ in range(4):
            for count in (2, 5):
                feeds = feeds_of(demo_copy, count, seed=round_)
                assert_same(backend.run(feeds), expected_of(demo_copy, feeds))
        assert gpu.calls.count("cudaGraphInstantiate") == 2
        assert gpu.calls.count("cudaGraphLaunch") == 4
    # One for plain runs, one for each captured size.
    assert len(trt.contexts) == 3


def test_graphs_can_be_switched_off(engine, gpu):
    feeds = feeds_of(engine, 2)
    with opened(engine, cuda_graphs=False) as backend:
        for _ in range(3):
            backend.run(feeds)
    assert "cudaGraphLaunch" not in gpu.calls


def test_rtx_captures_by_itself(demo_copy, monkeypatch):
    gpu, trt = simulate(monkeypatch, rtx=True)
    write_engine(demo_copy)
    feeds = feeds_of(demo_copy, 2)
    with opened(demo_copy) as backend:
        for _ in range(3):
            assert_same(backend.run(feeds), expected_of(demo_copy, feeds))
    assert "cudaGraphLaunch" not in gpu.calls
    assert trt.contexts[0].settings.cuda_graph_strategy == 1


@pytest.mark.slow
@pytest.mark.parametrize("streams", [1, 3])
def test_threads_get_their_own_answers(engine, streams):
    asked = [feeds_of(engine, 1 + number % 4, seed=number) for number in range(24)]
    expected = [expected_of(engine, feeds) for feeds in asked]
    with opened(engine, streams=streams) as backend, ThreadPoolExecutor(6) as pool:
        for found, right in zip(pool.map(backend.run, asked), expected, strict=True):
            assert_same(found, right)


def test_close_frees_everything_and_ends_waiting_calls(engine, gpu):
    with opened(engine) as backend:
        for _ in range(3):
            backend.run(feeds_of(engine, 2))
        assert gpu.blocks
    assert not gpu.blocks
    assert not gpu.graphs
    assert not gpu.events
    assert set(gpu.streams) == {0, 1}
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run(feeds_of(engine, 1))


def test_close_waits_for_the_call_that_runs(engine, gpu, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    wait = type(gpu).cudaStreamSynchronize

    def slow(self, stream):
        entered.set()
        go_on.wait(10)
        return wait(self, stream)

    with opened(engine, streams=1) as backend:
        monkeypatch.setattr(type(gpu), "cudaStreamSynchronize", slow)
        with ThreadPoolExecutor(2) as pool:
            running = pool.submit(backend.run, feeds_of(engine, 1))
            assert entered.wait(10)
            closing = pool.submit(backend.close)
            assert not closing.done()
            go_on.set()
            assert running.result(10)["logits"].shape[0] == 1
            closing.result(10)
    assert not gpu.blocks


def test_a_device_that_is_too_small_is_an_error_that_leaves_nothing(demo_copy, monkeypatch):
    gpu, _ = simulate(monkeypatch, memory=100_000)
    write_engine(demo_copy)
    with pytest.raises(DeviceError, match="MiB left; compile a smaller profile"), opened(demo_copy):
        pass
    assert not gpu.blocks


def test_parity_holds_at_every_batch_size(engine):
    artifact = open_artifact(engine)
    reference = ParityReference.load(artifact)
    with opened(engine) as backend:
        for batch in (1, 4, 8, 11):
            report = check_parity(backend, reference, artifact, batches=[batch])
            assert (report.pictures, report.same_for_pictures) == (batch, 0)


def install_tensorrt(monkeypatch):
    """Have `auto` see this library as installed beside what is."""
    real = table.first_version
    monkeypatch.setattr(
        table,
        "first_version",
        lambda *packages: "10.13.2" if packages[0] == "tensorrt" else real(*packages),
    )


def test_load_takes_an_engine_before_the_graph(engine, monkeypatch):
    install_tensorrt(monkeypatch)
    with load(engine) as explainer:
        assert explainer.backend.name == "tensorrt fp32 on Simulated"
        found = explainer.explain("tame_deploy/data/pictures/ring-1.png")
    with load(engine, backend="onnxruntime") as explainer:
        expected = explainer.explain("tame_deploy/data/pictures/ring-1.png")
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-5)


def test_auto_goes_on_where_a_plan_is_damaged_and_says_so(engine, monkeypatch, caplog):
    install_tensorrt(monkeypatch)
    (plan,) = engine.rglob("*.plan")
    plan.write_bytes(plan.read_bytes()[:5])
    with open_backend(open_artifact(engine)) as backend:
        assert " on CPU" in backend.name
    assert "the tensorrt engine is not used" in caplog.text
    assert "has 5 bytes; expected" in caplog.text


def test_the_callers_device_stays_its_own(engine, gpu):
    with opened(engine) as backend:
        gpu.device = 3
        backend.run(feeds_of(engine, 1))
        assert gpu.device == 3
    assert gpu.device == 3


def test_a_capture_that_fails_costs_speed_and_nothing_else(engine, gpu, monkeypatch, caplog):
    def fails(self, graph, flags):
        return 900, None

    monkeypatch.setattr(type(gpu), "cudaGraphInstantiate", fails)
    feeds = feeds_of(engine, 2)
    with opened(engine) as backend:
        for _ in range(4):
            assert_same(backend.run(feeds), expected_of(engine, feeds))
    assert gpu.calls.count("cudaStreamBeginCapture") == 1
    assert "no CUDA graphs are used from here on" in caplog.text
    assert not gpu.blocks


def test_threads_share_the_lanes_that_fit(demo_copy, monkeypatch):
    gpu, _ = simulate(monkeypatch)
    write_engine(demo_copy)
    with opened(demo_copy, streams=4) as backend:
        gpu.memory = sum(len(block) for block in gpu.blocks.values()) + 1000
        asked = [feeds_of(demo_copy, 2, seed=seed) for seed in range(12)]
        with ThreadPoolExecutor(4) as pool:
            for feeds, found in zip(asked, pool.map(backend.run, asked), strict=True):
                assert_same(found, expected_of(demo_copy, feeds))
    assert not gpu.blocks


# Engines that do not fit


def test_an_engine_with_other_tensors_than_its_sidecar_is_refused(demo_copy, gpu):
    manifest = open_artifact(demo_copy).manifest
    wrong = (
        *manifest.outputs[:2],
        type(manifest.outputs[2])("maps", "float32", ("batch", "k", 9, 9)),
    )
    write_engine(demo_copy, outputs=wrong)
    with pytest.raises(IncompatibleArtifactError, match="its sidecar lists"), opened(demo_copy):
        pass


def test_a_plan_that_the_library_refuses_is_one_line(demo_copy, gpu):
    folder = write_engine(demo_copy)
    (folder / "model.plan").write_bytes(b"not a plan")
    from tame_deploy.artifact.directory import file_sha256
    from tame_deploy.runtime.backends.tensorrt.engines import read_engine

    sidecar = read_engine(folder).sidecar
    text = sidecar.to_json().replace(sidecar.plan_sha256, file_sha256(folder / "model.plan"))
    text = text.replace(f'"plan_bytes": {sidecar.plan_bytes}', '"plan_bytes": 10')
    (folder / "engine.json").write_text(text)
    refused = pytest.raises(IncompatibleArtifactError, match="magicTag failed.*--rebuild")
    with refused, opened(demo_copy):
        pass


def test_streams_and_device_are_checked():
    for wrong in ({"streams": 0}, {"device": -1}, {"threads": 0}, {"streams": 1000}):
        with pytest.raises(InputError):
            BackendOptions(**wrong)
