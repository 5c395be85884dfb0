"""CUDA's runtime through cuda-python: the one place that knows its calls.

Nothing here starts CUDA when it is imported; `probe` is safe on a machine without a driver, where
TensorRT's own runtimes are not (one of them takes the process down).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.errors import BackendNotInstalledError, DeviceError

__all__ = [
    "Device",
    "DeviceMemory",
    "Event",
    "Graph",
    "PinnedMemory",
    "Stream",
    "copy",
    "device_of",
    "probe",
]

_INSUFFICIENT_DRIVER = 35
_NO_DEVICE = 100
_OUT_OF_MEMORY = 2


@cache
def _cudart() -> Any:
    """Import cuda-python when it is needed: that takes a tenth of a second."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:  # or a version from before 12.6
        raise BackendNotInstalledError(
            "CUDA's Python bindings are not installed: pip install 'tame-deploy[tensorrt]' "
            "(or 'tame-deploy[tensorrt-rtx]', 'tame-deploy[cuda]')"
        ) from error
    return runtime


@dataclass(frozen=True)
class Device:
    """A GPU: its number, name, compute capability, memory in bytes, and the driver's CUDA."""

    index: int
    name: str
    capability: tuple[int, int]
    memory_bytes: int
    driver_cuda: tuple[int, int]

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name} (compute capability {major}.{minor}, {self.memory_bytes >> 30} GiB)"

    def make_current(self) -> None:
        """Make it this thread's device."""
        call("cudaSetDevice", self.index)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it this thread's device for a while: other libraries have a device, too."""
        before = call("cudaGetDevice")
        self.make_current()
        try:
            yield
        finally:
            call("cudaSetDevice", before)


def probe(index: int = 0) -> Device:
    """Return a GPU that can be used.

    Raises:
        BackendNotInstalledError: without cuda-bindings.
        DeviceError: without a driver, a GPU, or a GPU of that number.
    """
    cudart = _cudart()
    error, count = cudart.cudaGetDeviceCount()
    _, driver = cudart.cudaDriverGetVersion()
    if int(error) == _INSUFFICIENT_DRIVER:
        _, needed = cudart.cudaRuntimeGetVersion()
        raise DeviceError(_driver_words(driver, needed))
    if int(error) == _NO_DEVICE or (not int(error) and not count):
        raise DeviceError("found an NVIDIA driver and no GPU; check CUDA_VISIBLE_DEVICES")
    if int(error):
        raise DeviceError(f"CUDA cannot be used: {_reason(error)}")
    if not 0 <= index < count:
        raise DeviceError(f"device {index} was asked for; found GPUs 0 to {count - 1}")
    facts = call("cudaGetDeviceProperties", index)
    name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
    capability = (int(facts.major), int(facts.minor))
    version = (driver // 1000, driver % 1000 // 10)
    return Device(index, name, capability, int(facts.totalGlobalMem), version)


def _driver_words(found: int, needed: int) -> str:
    """Say which driver is missing; within a major version, an older one does as well."""
    major = needed // 1000
    if not found:
        return f"found no NVIDIA driver; expected one for CUDA {major}.0 or later"
    return (
        f"found an NVIDIA driver for CUDA {_dotted(found)}; expected one for CUDA {major}.0 or "
        f"later. Update it, or pip install 'cuda-bindings<{major}'"
    )


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _reason(error: Any) -> str:
    _, text = _cudart().cudaGetErrorString(error)
    return text.decode() if isinstance(text, bytes) else str(text)


def call(name: str, *arguments: Any) -> Any:
    """Call a function of CUDA's runtime and return what it gives.

    Raises:
        DeviceError: with CUDA's words for what went wrong.
    """
    error, *values = getattr(_cudart(), name)(*arguments)
    if int(error):
        raise DeviceError(f"CUDA: {name}: {_reason(error)}")
    return values[0] if values else None


class _Resource:
    """Something of CUDA's that is freed once."""

    def __init__(self, handle: int, free: str) -> None:
        self.handle = handle
        self._free = free

    def close(self) -> None:
        """Free it; calling it again does nothing."""
        if self.handle:
            handle, self.handle = self.handle, 0
            call(self._free, handle)


class DeviceMemory(_Resource):
    """Bytes on the GPU; `handle` is their address."""

    def __init__(self, size: int) -> None:
        error, address = _cudart().cudaMalloc(max(size, 1))
        if int(error) == _OUT_OF_MEMORY:
            raise DeviceError(
                f"the GPU has no {size / 2**20:.0f} MiB left; compile a smaller profile (--batch), "
                "or end what else uses it"
            )
        if int(error):
            raise DeviceError(f"CUDA: cudaMalloc: {_reason(error)}")
        super().__init__(int(address), "cudaFree")
        self.size = size

    def __del__(self) -> None:
        # Outputs handed to a caller are freed when the last view of them goes.
        if getattr(self, "handle", 0) and not sys.is_finalizing():
            handle, self.handle = self.handle, 0
            _cudart().cudaFree(handle)


class PinnedMemory(_Resource):
    """Bytes on the host that the GPU reads and writes by itself, at the bus's full speed."""

    def __init__(self, size: int) -> None:
        super().__init__(int(call("cudaHostAlloc", max(size, 1), 0)), "cudaFreeHost")
        self.size = size

    def array(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return its beginning as an array."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        raw = (ctypes.c_uint8 * size).from_address(self.handle)
        array: NDArray[Any] = np.ctypeslib.as_array(raw).view(kind).reshape(shape)
        return array


class Stream(_Resource):
    """A queue of work on the GPU."""

    def __init__(self) -> None:
        # Not the legacy default stream's slave: other libraries' work does not hold it up.
        flags = _cudart().cudaStreamNonBlocking
        super().__init__(int(call("cudaStreamCreateWithFlags", flags)), "cudaStreamDestroy")

    def synchronize(self) -> None:
        """Wait until all of its work is done."""
        call("cudaStreamSynchronize", self.handle)


class Event(_Resource):
    """A point in a stream's work that another stream can wait for."""

    def __init__(self) -> None:
        flags = _cudart().cudaEventDisableTiming
        super().__init__(int(call("cudaEventCreateWithFlags", flags)), "cudaEventDestroy")

    def record(self, stream: int) -> None:
        """Mark what a stream has been given so far."""
        call("cudaEventRecord", self.handle, stream)

    def hold(self, stream: int) -> None:
        """Let a stream go on only when the marked work is done."""
        call("cudaStreamWaitEvent", stream, self.handle, 0)

    def synchronize(self) -> None:
        """Wait for the marked work."""
        call("cudaEventSynchronize", self.handle)


def device_of(address: int) -> int | None:
    """Return the number of the GPU that an address is on; None where it is on none."""
    found = call("cudaPointerGetAttributes", address)
    kinds = _cudart().cudaMemoryType
    on_device = found.type in (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged)
    return int(found.device) if on_device else None


def copy(target: int, source: int, size: int, stream: int) -> None:
    """Queue a copy of `size` bytes between addresses of host or GPU."""
    kind = _cudart().cudaMemcpyKind.cudaMemcpyDefault
    call("cudaMemcpyAsync", target, source, size, kind, stream)


class Graph:
    """Work that was captured once and is started as one."""

    def __init__(self, stream: Stream, enqueue: Callable[[], None]) -> None:
        mode = _cudart().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", stream.handle, mode)
        try:
            enqueue()
        except BaseException:
            # A capture that went wrong must end, or its stream is of no more use.
            _cudart().cudaStreamEndCapture(stream.handle)
            raise
        captured = call("cudaStreamEndCapture", stream.handle)
        try:
            self._executable = call("cudaGraphInstantiate", captured, 0)
        finally:
            call("cudaGraphDestroy", captured)

    def launch(self, stream: int) -> None:
        """Queue it on a stream."""
        call("cudaGraphLaunch", self._executable, stream)

    def close(self) -> None:
        """Free it; calling it again does nothing."""
        if self._executable is not None:
            executable, self._executable = self._executable, None
            call("cudaGraphExecDestroy", executable)
