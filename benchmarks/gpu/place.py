"""The GPU with its one stream, events and memory; in a smoke run, the CPU in its place."""

from __future__ import annotations

import gc
import re
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tame_deploy.errors import DeviceError
from tame_deploy.runtime.backends.tensorrt import cuda

_VERSIONS = {
    "torch": ("torch",),
    "grad-cam": ("grad-cam",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    "cuda-bindings": ("cuda-bindings",),
    "tame-deploy": ("tame-deploy",),
}


class _TimedEvent:
    """An event that notes when the GPU comes to it."""

    def __init__(self) -> None:
        self.handle = int(cuda.call("cudaEventCreateWithFlags", 0))  # cudaEventDefault: timed

    def record(self, stream: int) -> None:
        cuda.call("cudaEventRecord", self.handle, stream)


class Place:
    """Where candidates run; every one of them queues its work on the same stream.

    Args:
        device: the GPU; None is a smoke run on the CPU.
    """

    def __init__(self, device: cuda.Device | None) -> None:
        self.device = device
        self._stream: cuda.Stream | None = None
        if device is not None:
            device.make_current()
            self._stream = cuda.Stream()
            self._events = (_TimedEvent(), _TimedEvent())

    @property
    def torch_device(self) -> str:
        """torch's word for it."""
        return "cpu" if self.device is None else f"cuda:{self.device.index}"

    @property
    def stream(self) -> int:
        """Address of the stream."""
        if self._stream is None:
            raise DeviceError("there is no GPU")
        return self._stream.handle

    def gpu(self) -> cuda.Device:
        """Return the GPU.

        Raises:
            DeviceError: in a smoke run.
        """
        if self.device is None:
            raise DeviceError("there is no GPU")
        return self.device

    def device_ms(self, call: Callable[[], Any]) -> float:
        """Return milliseconds between two events around a call; it waits for both."""
        if self.device is None:
            return self.host_ms(call)
        start, end = self._events
        start.record(self.stream)
        call()
        end.record(self.stream)
        cuda.call("cudaEventSynchronize", end.handle)
        return float(cuda.call("cudaEventElapsedTime", start.handle, end.handle))

    def host_ms(self, call: Callable[[], Any]) -> float:
        """Return milliseconds on the wall clock of a call that returns when all is done."""
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3

    def synchronize(self) -> None:
        """Wait until the GPU is idle."""
        if self.device is not None:
            cuda.call("cudaDeviceSynchronize")

    def free_bytes(self) -> int | None:
        """Return the GPU's free memory, after giving back what nothing holds any more."""
        import torch

        gc.collect()
        if self.device is None:
            return None
        self.synchronize()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return device_free_bytes()

    def torch_peak_bytes(self, call: Callable[[], Any], held_before: int) -> int:
        """Return the most that torch's tensors take during a call, beyond what was held."""
        import torch

        torch.cuda.reset_peak_memory_stats()
        call()
        self.synchronize()
        return int(torch.cuda.max_memory_allocated()) - held_before

    def torch_held_bytes(self) -> int:
        """Return what torch's tensors take now."""
        import torch

        return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else 0


def device_free_bytes() -> int:
    """Return the current GPU's free memory as it is."""
    return int(cuda.call("cudaMemGetInfo"))  # the first of two values; the other is the total


def gpu_facts(device: cuda.Device) -> dict[str, Any]:
    """Return what identifies a GPU and its driver."""
    return {
        "name": device.name,
        "compute_capability": ".".join(map(str, device.capability)),
        "memory_bytes": device.memory_bytes,
        "driver": _driver(),
        "driver_cuda": ".".join(map(str, device.driver_cuda)),
    }


def library_versions() -> dict[str, str | None]:
    """Return the versions of what takes part; None where it is not installed."""
    return {name: _first_version(packages) for name, packages in _VERSIONS.items()}


def slug(name: str) -> str:
    """Return a device's name for a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _first_version(packages: tuple[str, ...]) -> str | None:
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return (said.stdout.split() or [None])[0]
