"""Arrays that are on the GPU already, from whichever library, and results that stay there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tame_deploy.errors import InputError
from tame_deploy.runtime.backends.tensorrt.cuda import Event, device_of

__all__ = ["DeviceArray", "view_of"]

_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged
_UNORDERED = -1


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array on the GPU.

    Any library that speaks DLPack or `__cuda_array_interface__` takes it without a copy:
    `torch.from_dlpack`, `cupy.from_dlpack`, `numba.cuda.as_cuda_array`.

    Attributes:
        address: of its first byte, on the GPU.
        shape: of the array.
        dtype: numpy's name of its elements' type.
        device: number of the GPU.
        stream: whose work must be done before it is read; None where all of it is.
        owner: what keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: int = 0
    stream: int | None = None
    owner: Any = field(default=None, repr=False, compare=False)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size_bytes(self) -> int:
        """Its size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """CUDA Array Interface, version 3."""
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.address, False),
            "strides": None,
            # The protocol forbids 0: the legacy default stream is 1 there.
            "stream": self.stream or (1 if self.stream == 0 else None),
            "version": 3,
        }

    def __dlpack__(self, *, stream: int | None = None, **arguments: Any) -> Any:
        """Return a DLPack capsule; work of `stream` from now on comes after what fills the array.

        Args:
            stream: the consumer's, as DLPack numbers them: None and 1 are the legacy default
                stream, -1 leaves the order to the caller.
            arguments: passed on.
        """
        if stream != _UNORDERED:
            _order(self.stream, 1 if stream is None else stream)
        return self._view().__dlpack__(stream=_UNORDERED, **arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's kind of device and its number."""
        return _DLPACK_CUDA[0], self.device

    def _view(self) -> Any:
        from cuda.core import Buffer
        from cuda.core.utils import StridedMemoryView

        buffer = Buffer.from_handle(self.address, self.size_bytes, owner=self)
        return StridedMemoryView.from_buffer(buffer, self.shape, dtype=np.dtype(self.dtype))


def view_of(
    name: str, array: Any, device: int, stream: int, *, writable: bool = False
) -> DeviceArray:
    """Return an array of any library as it lies on the GPU, without a copy.

    Work that a stream is given from now on comes after what fills the array: DLPack sees to that,
    and the stream that `__cuda_array_interface__` may name.

    Args:
        name: of the input, for messages.
        array: torch, CuPy, Numba, PyCUDA's GPUArray, a `DeviceArray`.
        device: number of the GPU where it must be.
        stream: that will read or write it.
        writable: whether it will be written.

    Raises:
        InputError: if it is elsewhere, not C-contiguous, or must not be written.
    """
    if isinstance(array, DeviceArray):
        _order(array.stream, stream)
        found = array
    elif hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        found = _of_dlpack(name, array, stream, writable)
    elif hasattr(array, "__cuda_array_interface__"):
        found = _of_interface(name, array, stream, writable)
    else:
        raise InputError(
            f"{name} is {type(array).__name__}; expected a numpy array, or one on the GPU with "
            "DLPack or __cuda_array_interface__"
        )
    if found.device != device:
        raise InputError(f"{name} is on GPU {found.device}; expected GPU {device}")
    return found


def _of_dlpack(name: str, array: Any, stream: int, writable: bool) -> DeviceArray:
    from cuda.core.utils import StridedMemoryView

    kind, device = array.__dlpack_device__()
    if int(kind) not in _DLPACK_CUDA:
        raise InputError(f"{name} is on the CPU; expected it on the GPU, or a numpy array")
    try:
        # The legacy default stream is 1 to DLPack, which means "none given" by 0.
        view = StridedMemoryView.from_dlpack(array, stream_ptr=stream or 1)
        shape = tuple(int(size) for size in view.shape)
        dtype = np.dtype(view.dtype)
    except Exception as error:  # producers raise what they like
        raise InputError(f"{name} cannot be read through DLPack: {error!s:.200}") from error
    if writable and view.readonly:
        raise InputError(f"{name} is read-only; expected memory to write into")
    strides = view.strides and tuple(int(step) * dtype.itemsize for step in view.strides)
    _check_contiguous(name, shape, strides, dtype)
    return DeviceArray(int(view.ptr), shape, dtype.name, int(device), None, (view, array))


def _of_interface(name: str, array: Any, stream: int, writable: bool) -> DeviceArray:
    described = array.__cuda_array_interface__
    try:
        shape = tuple(int(size) for size in described["shape"])
        dtype = np.dtype(described["typestr"])
        address, read_only = described["data"]
        strides, mask = described.get("strides"), described.get("mask")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name} has a malformed __cuda_array_interface__: {error!r}") from None
    if mask is not None or not dtype.isnative:
        odd = "a mask" if mask is not None else f"type {dtype.str}"
        raise InputError(f"{name} has {odd}; expected a plain array of this machine's byte order")
    if writable and read_only:
        raise InputError(f"{name} is read-only; expected memory to write into")
    _check_contiguous(name, shape, strides, dtype)
    # The protocol does not say where the memory is; CUDA does.
    device = device_of(int(address))
    if device is None:
        raise InputError(f"{name} is at an address of no GPU")
    _order(described.get("stream"), stream)
    return DeviceArray(int(address), shape, dtype.name, device, None, array)


def _check_contiguous(
    name: str, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: np.dtype[Any]
) -> None:
    if strides is None or 0 in shape:
        return
    expected = dtype.itemsize
    for size, step in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if size > 1 and step != expected:
            raise InputError(
                f"{name} has shape {list(shape)} and strides {list(strides)} bytes; expected a "
                "C-contiguous array (.contiguous(), cupy.ascontiguousarray)"
            )
        expected *= size


def _order(producer: int | None, consumer: int) -> None:
    """Let a stream wait for what another was given so far."""
    if producer is None or producer == consumer:
        return
    event = Event()
    try:
        event.record(producer)
        event.hold(consumer)
    finally:
        event.close()
