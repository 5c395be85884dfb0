"""Arrays that are on the GPU already, and results that stay there, on a GPU of host memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tame_deploy.errors import InputError
from tame_deploy.runtime.backends.tensorrt.device_arrays import DeviceArray
from tests.simulated.engines import opened, simulate, write_engine
from tests.simulated.tensorrt import at
from tests.unit.runtime.backends.test_tensorrt import assert_same, expected_of, feeds_of


@pytest.fixture
def gpu(monkeypatch):
    return simulate(monkeypatch)[0]


@pytest.fixture
def engine(demo_copy, gpu):
    write_engine(demo_copy)
    return demo_copy


class OnDevice:
    """An array on the simulated GPU, as PyCUDA and Numba offer theirs."""

    def __init__(self, gpu, values, stream=None, **changes):
        _, self.address = gpu.cudaMalloc(values.nbytes)
        at(self.address, values.shape, values.dtype)[...] = values
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": stream,
            "version": 3,
            **changes,
        }


def read(array):
    return at(array.address, array.shape, array.dtype).copy()


def test_inputs_and_outputs_stay_on_the_device(engine, gpu):
    feeds = feeds_of(engine, 3)
    with opened(engine) as backend:
        gpu.calls.clear()
        found = backend.run_on_device({name: OnDevice(gpu, value) for name, value in feeds.items()})
        assert "cudaMemcpyAsync" not in gpu.calls
        assert_same(
            {name: read(array) for name, array in found.items()}, expected_of(engine, feeds)
        )
        described = found["maps"].__cuda_array_interface__
        assert described["shape"] == found["maps"].shape
        assert described["data"] == (found["maps"].address, False)
        kept = found.pop("maps")
        blocks = len(gpu.blocks)
        del found
        assert len(gpu.blocks) == blocks - 2
        assert read(kept).any()


def test_the_callers_stream_orders_the_work(engine, gpu):
    feeds, stream = feeds_of(engine, 2), gpu.cudaStreamCreateWithFlags(1)[1]
    images = OnDevice(gpu, np.zeros_like(feeds["images"]), stream=None)
    # The caller's earlier work, still waiting, fills the pictures.
    target = at(images.address, feeds["images"].shape, np.uint8)
    gpu.push(stream, lambda: np.copyto(target, feeds["images"]))
    out = {"maps": OnDevice(gpu, np.zeros(expected_of(engine, feeds)["maps"].shape, np.float32))}
    with opened(engine) as backend:
        found = backend.run_on_device({**feeds, "images": images}, out=out, stream=stream)
        assert found["maps"].address == out["maps"].address
        assert not read(found["maps"]).any()  # queued, not done
        # Host memory that the queued work reads is not written over by the next call.
        others = feeds_of(engine, 2, seed=9)
        backend.run({**others, "class_ids": others["class_ids"] + 1})
        gpu.cudaStreamSynchronize(stream)
        assert_same(
            {name: read(array) for name, array in found.items()}, expected_of(engine, feeds)
        )
        del found
        gpu.cudaStreamSynchronize(stream)


def test_an_array_of_another_stream_is_waited_for(engine, gpu):
    feeds, producer = feeds_of(engine, 2), gpu.cudaStreamCreateWithFlags(1)[1]
    images = OnDevice(gpu, np.zeros_like(feeds["images"]), stream=producer)
    target = at(images.address, feeds["images"].shape, np.uint8)
    gpu.push(producer, lambda: np.copyto(target, feeds["images"]))
    with opened(engine) as backend:
        found = backend.run_on_device({**feeds, "images": images})
        assert_same(
            {name: read(array) for name, array in found.items()}, expected_of(engine, feeds)
        )


def test_captured_graphs_serve_the_device_path_too(engine, gpu):
    feeds = feeds_of(engine, 2)
    images = OnDevice(gpu, feeds["images"])
    expected = expected_of(engine, feeds)
    out = {name: OnDevice(gpu, np.zeros_like(value)) for name, value in expected.items()}
    with opened(engine) as backend:
        for _ in range(4):
            found = backend.run_on_device({**feeds, "images": images}, out=out)
        assert gpu.calls.count("cudaGraphLaunch") == 2
        assert_same({name: read(array) for name, array in found.items()}, expected)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda gpu, a: OnDevice(gpu, a, strides=(1, 2, 3, 4)), "C-contiguous"),
        (lambda gpu, a: OnDevice(gpu, a, typestr="<f4"), "expected images: uint8"),
        (lambda gpu, a: OnDevice(gpu, a, data=None), "malformed __cuda_array_interface__"),
        (
            lambda gpu, a: OnDevice(gpu, np.concatenate([a] * 5)),
            r"expected class_ids: int64 \[batch",
        ),
        (lambda _, a: a.tolist(), "images is list; expected a numpy array"),
        (lambda _, a: torch.from_numpy(a), "images is on the CPU"),
    ],
)
def test_device_arrays_that_do_not_fit_are_refused(engine, gpu, spoil, message):
    feeds = feeds_of(engine, 2)
    with opened(engine) as backend, pytest.raises(InputError, match=message):
        backend.run_on_device({**feeds, "images": spoil(gpu, feeds["images"])})


def test_what_is_not_aligned_is_copied_and_no_output_is(engine, gpu):
    feeds = feeds_of(engine, 3)
    images = OnDevice(gpu, feeds["images"])
    one = feeds["images"][0].nbytes
    assert one % 256 == 0
    shifted = OnDevice(gpu, np.concatenate([[0], feeds["class_ids"].ravel()]))
    part = dict(shifted.__cuda_array_interface__, shape=(3, 1), data=(shifted.address + 8, False))
    shifted.__cuda_array_interface__ = part
    with opened(engine) as backend:
        found = backend.run_on_device({"images": images, "class_ids": shifted})
        expected = expected_of(engine, feeds)
        assert_same({name: read(array) for name, array in found.items()}, expected)
        room = OnDevice(gpu, np.zeros((4, *expected["logits"].shape[1:]), np.float32))
        room.__cuda_array_interface__ = dict(
            room.__cuda_array_interface__,
            shape=expected["logits"].shape,
            data=(room.address + 4, False),
        )
        with pytest.raises(InputError, match="multiple of 256"):
            backend.run_on_device(feeds, out={"logits": room})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": (0, True)}, "logits is read-only"),
        ({"mask": object()}, "logits has a mask"),
        ({"typestr": ">f4"}, "logits has type >f4"),
        ({"data": (4096, False)}, "logits is at an address of no GPU"),
    ],
    ids=["read-only", "mask", "byte order", "host"],
)
def test_memory_that_cannot_be_written_is_refused(engine, gpu, changes, message):
    feeds = feeds_of(engine, 2)
    room = OnDevice(gpu, np.zeros_like(expected_of(engine, feeds)["logits"]), **changes)
    with opened(engine) as backend, pytest.raises(InputError, match=message):
        backend.run_on_device(feeds, out={"logits": room})


def test_an_array_on_another_gpu_is_refused(engine, gpu):
    feeds = feeds_of(engine, 2)
    images = OnDevice(gpu, feeds["images"])
    gpu.elsewhere[images.address] = 1
    with opened(engine) as backend, pytest.raises(InputError, match="on GPU 1; expected GPU 0"):
        backend.run_on_device({**feeds, "images": images})


def test_ever_new_addresses_do_not_crowd_out_what_comes_back(engine, gpu):
    feeds = feeds_of(engine, 1)
    with opened(engine) as backend:
        for seed in range(20):
            images = OnDevice(gpu, feeds_of(engine, 1, seed=seed)["images"])
            out = {"logits": OnDevice(gpu, np.zeros((1, 6), np.float32))}
            for _ in range(2):
                backend.run_on_device({**feeds, "images": images}, out=out)
        gpu.calls.clear()
        for _ in range(3):
            assert_same(backend.run(feeds), expected_of(engine, feeds))
        assert "cudaGraphLaunch" in gpu.calls


def test_more_than_a_profile_is_not_split_on_the_device(engine, gpu):
    feeds = {name: OnDevice(gpu, value) for name, value in feeds_of(engine, 9).items()}
    with (
        opened(engine) as backend,
        pytest.raises(InputError, match="no profile holds it .batch 1,4,8"),
    ):
        backend.run_on_device(feeds)


def test_outputs_that_do_not_fit_are_refused(engine, gpu):
    feeds = feeds_of(engine, 2)
    with opened(engine) as backend:
        out = {"logits": OnDevice(gpu, np.zeros(1, np.float32))}
        with pytest.raises(InputError, match=r"out has logits: float32 \[1\]"):
            backend.run_on_device(feeds, out=out)
        with pytest.raises(InputError, match="out names \\['x'\\]"):
            backend.run_on_device(feeds, out={"x": None})


def test_a_device_array_describes_itself():
    array = DeviceArray(4096, (2, 3), "float32", device=1, stream=0)
    assert (array.ndim, array.size_bytes, array.__dlpack_device__()) == (2, 24, (2, 1))
    assert array.__cuda_array_interface__["stream"] == 1
