"""What "auto" takes, and what it says of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from tame_deploy import load
from tame_deploy.artifact.directory import open_artifact
from tame_deploy.errors import (
    BackendNotInstalledError,
    DeviceError,
    IncompatibleArtifactError,
    InputError,
)
from tame_deploy.runtime.backends import table
from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tame_deploy.runtime.backends.onnxruntime.binding import BoundSession
from tame_deploy.runtime.backends.protocol import CPU, BackendOptions
from tame_deploy.runtime.backends.tensorrt import cuda
from tame_deploy.runtime.selection.auto import prospects
from tame_deploy.runtime.selection.selection import open_backend
from tests.simulated.cudart import SimulatedCuda
from tests.simulated.engines import write_engine


def test_the_order_is_fastest_first():
    found = [one.spec.title for one in prospects(None, BackendOptions())]
    assert found == [
        "tensorrt",
        "tensorrt-rtx",
        "onnxruntime (CUDA)",
        "openvino",
        "onnxruntime (CPU)",
    ]


def test_auto_runs_on_the_cpu_where_nothing_faster_can(demo_export, monkeypatch):
    monkeypatch.setattr(cuda, "_cudart", lambda: SimulatedCuda(driver=0))
    with open_backend(open_artifact(demo_export)) as backend:
        assert backend.name.startswith(("onnxruntime on CPU", "openvino on CPU"))


def test_every_refusal_has_a_reason(monkeypatch):
    monkeypatch.setattr(cuda, "_cudart", lambda: SimulatedCuda(driver=0))
    monkeypatch.setattr(table, "first_version", lambda *_: "10.13")
    *gpus, _, cpu = prospects(None, BackendOptions())
    assert cpu.refusal is None
    assert [one.refusal for one in gpus[:2]] == [
        "found no NVIDIA driver; expected one for CUDA 13.0 or later"
    ] * 2


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ({"driver": 0}, "found no NVIDIA driver; expected one for CUDA 13.0"),
        (
            {"driver": 12040},
            r"driver for CUDA 12.4; expected one for CUDA 13.0 or later. .*cuda-bindings<13",
        ),
        ({"count": 0}, "found an NVIDIA driver and no GPU"),
    ],
)
def test_what_is_missing_of_a_gpu_is_told(monkeypatch, device, message):
    monkeypatch.setattr(cuda, "_cudart", lambda: SimulatedCuda(**device))
    with pytest.raises(DeviceError, match=message):
        cuda.probe()


def test_a_device_is_described_and_counted(monkeypatch):
    monkeypatch.setattr(cuda, "_cudart", lambda: SimulatedCuda(capability=(8, 9), memory=2 << 30))
    device = cuda.probe()
    assert (device.capability, device.driver_cuda) == ((8, 9), (13, 5))
    assert str(device) == "Simulated (compute capability 8.9, 2 GiB)"
    with pytest.raises(DeviceError, match="device 1 was asked for; found GPUs 0 to 0"):
        cuda.probe(1)


def test_this_machine_can_be_probed_whatever_it_has():
    reason = ""
    try:
        cuda.probe()
    except (DeviceError, BackendNotInstalledError) as error:
        reason = str(error)
    assert reason == "" or reason.startswith(("found", "CUDA"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("onnxruntime", {"engine": "x"}, "engine has no meaning for backend onnxruntime"),
        ("tensorrt", {"providers": (CPU,)}, "providers has no meaning for backend tensorrt"),
        ("tensorrt-rtx", {"threads": 2}, "threads has no meaning"),
        ("onnxruntime", {"device": 1}, r"device has no meaning for backend onnxruntime \(CPU\)"),
        ("openvino", {"cuda_graphs": False}, "cuda_graphs has no meaning for backend openvino"),
        ("auto", {"threads": 2, "engine": "tensorrt-fp32"}, "honours engine and threads together"),
    ],
)
def test_options_that_mean_nothing_are_refused(demo_copy, name, options, message):
    write_engine(demo_copy, folder="tensorrt-fp32")
    with pytest.raises(InputError, match=message):
        open_backend(open_artifact(demo_copy), name, BackendOptions(**options))


def test_auto_gives_a_backend_only_the_options_that_it_honours(demo_export, monkeypatch):
    monkeypatch.setattr(cuda, "_cudart", lambda: SimulatedCuda(driver=0))
    options = BackendOptions(threads=1, device=1, cuda_graphs=False, streams=3)
    with open_backend(open_artifact(demo_export), "auto", options) as backend:
        assert " on CPU" in backend.name


def test_an_engine_by_name_is_never_replaced_by_the_graph(demo_copy, monkeypatch):
    monkeypatch.setattr(cuda, "_cudart", lambda: SimulatedCuda(driver=0))
    write_engine(demo_copy, folder="tensorrt-fp32")
    artifact = open_artifact(demo_copy)
    with pytest.raises(BackendNotInstalledError, match="no backend can be used: tensorrt:"):
        open_backend(artifact, "auto", BackendOptions(engine="tensorrt-fp32"))
    with pytest.raises(IncompatibleArtifactError, match="no engine 'nope'; found: tensorrt-fp32"):
        open_backend(artifact, "auto", BackendOptions(engine="nope"))


def test_bound_tensors_give_what_a_plain_session_gives(demo_export):
    artifact = open_artifact(demo_export)
    random = np.random.default_rng(0)
    manifest = artifact.manifest
    with OnnxRuntimeBackend.of_artifact(artifact, BackendOptions()) as backend:
        bound = BoundSession(backend._session, manifest.outputs, "cpu", 0, captures=False)
        for count in (2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 2):  # more sizes than are kept
            shape = manifest.image.input_shape(count)
            feeds = {
                "images": random.integers(0, 256, shape, np.uint8),
                "class_ids": np.full((count, 2), -1, np.int64),
            }
            first, expected = bound.run(feeds), backend.run(feeds)
            bound.run({**feeds, "images": 255 - feeds["images"]})  # must not change `first`
            for name, value in expected.items():
                np.testing.assert_array_equal(first[name], value)
        assert len(bound._kept) == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": 2.0}, "threads is 2.0; expected a whole number"),
        ({"threads": "2"}, "threads is '2'; expected a whole number"),
        ({"threads": True}, "threads is True; expected a whole number"),
        ({"providers": "CPUExecutionProvider"}, "expected a list, such as"),
    ],
)
def test_options_of_other_types_are_refused_before_anything_is_opened(options, words):
    with pytest.raises(InputError, match=words):
        load("nowhere", **options)
