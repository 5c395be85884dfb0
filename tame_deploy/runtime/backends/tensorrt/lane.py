"""One stream with all it needs to run: buffers for the largest profile, contexts, CUDA graphs."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.types import TensorSpec
from tame_deploy.errors import BackendError, DeviceError
from tame_deploy.runtime.backends.tensorrt.cuda import (
    DeviceMemory,
    Event,
    Graph,
    PinnedMemory,
    Stream,
    copy,
)
from tame_deploy.runtime.backends.tensorrt.device_arrays import DeviceArray
from tame_deploy.runtime.backends.tensorrt.loaded import LoadedEngine

__all__ = ["ALIGNMENT", "Lane", "Sizes", "largest_sizes", "shape_of"]

_log = logging.getLogger("tame_deploy.tensorrt")

#: TensorRT takes addresses that are multiples of this many bytes.
ALIGNMENT = 256

#: Sizes of a call: pictures and, where the graph takes class ids, classes, by their symbols.
Sizes: TypeAlias = Mapping[str, int]
Key: TypeAlias = "tuple[int, tuple[tuple[int, ...], ...], tuple[int, ...]]"

#: Each captured graph keeps a context; of more, the one that was used longest ago goes.
_MOST_GRAPHS = 16
_MOST_SEEN = 64


def shape_of(spec: TensorSpec, sizes: Sizes) -> tuple[int, ...]:
    """Return a tensor's shape for the sizes of a call."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)


@dataclass
class _Captured:
    """A CUDA graph; its context holds what the graph reads, and serves nothing else."""

    context: Any
    graph: Graph


class Lane:
    """Runs one call at a time; threads take turns, or each has its own.

    Everything is allocated here, once, for the largest profile.
    """

    def __init__(self, engine: LoadedEngine, largest: Sizes, capture: bool) -> None:
        self._engine = engine
        self._capture = capture and not engine.own_graphs
        self._contexts: dict[int, Any] = {}
        self._captured: OrderedDict[Key, _Captured] = OrderedDict()
        # Contexts whose capture failed have work in flight until the lane is closed.
        self._kept_contexts: list[Any] = []
        self._seen: OrderedDict[Key, None] = OrderedDict()
        self._open: list[Any] = []
        self._pinned_in_use = False
        try:
            self.stream: Stream = self._kept(Stream())
            self._done: Event = self._kept(Event())
            self._scratch = self._kept(DeviceMemory(engine.scratch_bytes))
            self._device: dict[str, DeviceMemory] = {}
            self._host: dict[str, PinnedMemory] = {}
            for spec in (*engine.inputs, *engine.outputs):
                size = _bytes(spec, largest)
                self._device[spec.name] = self._kept(DeviceMemory(size))
                self._host[spec.name] = self._kept(PinnedMemory(size))
        except BaseException:
            self.close()
            raise

    def _kept(self, resource: Any) -> Any:
        self._open.append(resource)
        return resource

    def run(
        self, profile: int, sizes: Sizes, feeds: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Return new arrays of the outputs for arrays of the inputs.

        Raises:
            BackendError: if the engine fails.
        """
        stream = self.stream.handle
        self.wait_for_last(stream)
        try:
            for spec in self._engine.inputs:
                self.stage(spec, feeds[spec.name], stream)
            addresses = {name: memory.handle for name, memory in self._device.items()}
            self.enqueue(profile, sizes, addresses, stream)
            found = {}
            for spec in self._engine.outputs:
                pinned = self._host[spec.name]
                found[spec.name] = pinned.array(shape_of(spec, sizes), spec.dtype)
                size = found[spec.name].nbytes
                copy(pinned.handle, self._device[spec.name].handle, size, stream)
        finally:
            self.stream.synchronize()
            self._pinned_in_use = False
        return {name: array.copy() for name, array in found.items()}

    def stage(self, spec: TensorSpec, array: NDArray[Any], stream: int) -> int:
        """Queue the copy of a host array to the GPU; return its address there."""
        if self._pinned_in_use:
            # The host writes it at once, which no stream's order holds back.
            self._done.synchronize()
        pinned = self._host[spec.name].array(array.shape, spec.dtype)
        np.copyto(pinned, array, casting="no")
        address = self._device[spec.name].handle
        copy(address, self._host[spec.name].handle, pinned.nbytes, stream)
        return address

    def place_input(self, spec: TensorSpec, array: DeviceArray | NDArray[Any], stream: int) -> int:
        """Return an address of an array's values that TensorRT takes: its own, or a copy's."""
        if not isinstance(array, DeviceArray):
            return self.stage(spec, array, stream)
        if array.address % ALIGNMENT == 0:
            return array.address
        address = self._device[spec.name].handle
        copy(address, array.address, array.size_bytes, stream)
        return address

    def wait_for_last(self, stream: int) -> None:
        """Let a stream go on only when this lane's last work is done."""
        self._done.hold(stream)

    def mark_done(self, stream: int) -> None:
        """Note that this lane is in use until a stream has done what it was given so far."""
        self._done.record(stream)
        self._pinned_in_use = True

    def enqueue(
        self, profile: int, sizes: Sizes, addresses: Mapping[str, int], stream: int
    ) -> None:
        """Queue one execution: as a CUDA graph, where the same was asked for twice before.

        The first time runs plainly. The second runs in a context of its own and is captured from
        it: a graph refers to its context, which must not see other sizes afterwards.

        Raises:
            BackendError: if the engine fails.
        """
        specs = (*self._engine.inputs, *self._engine.outputs)
        shapes = {spec.name: shape_of(spec, sizes) for spec in specs}
        key = (profile, tuple(shapes.values()), tuple(addresses[spec.name] for spec in specs))
        known = self._captured.get(key)
        if known is not None:
            self._captured.move_to_end(key)
            known.graph.launch(stream)
        elif self._worth_capturing(key):
            self._capture_now(key, shapes, addresses, stream)
        else:
            self._execute(self._context(profile, stream), shapes, addresses, stream)

    def _worth_capturing(self, key: Key) -> bool:
        if not self._capture:
            return False
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        return False

    def _capture_now(
        self,
        key: Key,
        shapes: Mapping[str, tuple[int, ...]],
        addresses: Mapping[str, int],
        stream: int,
    ) -> None:
        """Run in a new context, and capture the same from it for the next time."""
        context = self._engine.context(key[0], self._scratch, stream)
        self._execute(context, shapes, addresses, stream)
        try:
            graph = Graph(self.stream, lambda: self._start(context, self.stream.handle))
        except BackendError as error:
            # What was asked for has run; it goes on as well, if slower.
            _log.warning("no CUDA graphs are used from here on: %s", error)
            self._capture = False
            self._kept_contexts.append(context)
            return
        if len(self._captured) == _MOST_GRAPHS:
            self._finish()
            self._captured.popitem(last=False)[1].graph.close()
        self._captured[key] = _Captured(context, graph)

    def _finish(self) -> None:
        """Wait for all that this lane was given, on whichever stream."""
        self.stream.synchronize()
        self._done.synchronize()

    def _context(self, profile: int, stream: int) -> Any:
        if profile not in self._contexts:
            self._contexts[profile] = self._engine.context(profile, self._scratch, stream)
        return self._contexts[profile]

    def _execute(
        self,
        context: Any,
        shapes: Mapping[str, tuple[int, ...]],
        addresses: Mapping[str, int],
        stream: int,
    ) -> None:
        with self._engine.runtime.listening() as said:
            for spec in self._engine.inputs:
                if not context.set_input_shape(spec.name, shapes[spec.name]):
                    reason = said.first_error("no reason was given")
                    raise BackendError(f"{spec.name} {shapes[spec.name]} was refused: {reason}")
            missing = context.infer_shapes()
            if missing:
                raise BackendError(f"the engine needs more to know the shape of {missing}")
            for name, address in addresses.items():
                if tuple(context.get_tensor_shape(name)) != shapes[name]:
                    found = tuple(context.get_tensor_shape(name))
                    raise BackendError(f"the engine gives {name} {found}; expected {shapes[name]}")
                if not context.set_tensor_address(name, address):
                    reason = said.first_error("no reason was given")
                    raise BackendError(f"the memory of {name} was refused: {reason}")
            self._start(context, stream)

    def _start(self, context: Any, stream: int) -> None:
        with self._engine.runtime.listening() as said:
            if not context.execute_async_v3(stream):
                reason = said.first_error("no reason was given")
                raise BackendError(f"{self._engine.runtime.flavour.name} failed: {reason:.300}")

    def close(self) -> None:
        """Free everything, after the work that still uses it; what fails is left to the driver."""
        if not self._open:
            return
        with suppress(DeviceError):
            self._finish()
        # Graphs before contexts, contexts before the memory that they use.
        for captured in self._captured.values():
            with suppress(DeviceError):
                captured.graph.close()
        self._captured.clear()
        self._contexts.clear()
        self._kept_contexts.clear()
        for resource in reversed(self._open):
            with suppress(DeviceError):
                resource.close()
        self._open = []


def _bytes(spec: TensorSpec, sizes: Sizes) -> int:
    count = int(np.prod(shape_of(spec, sizes), dtype=np.int64))
    return count * np.dtype(spec.dtype).itemsize


def largest_sizes(extents: Sequence[Sizes]) -> dict[str, int]:
    """Return the largest of each size."""
    return {name: max(extent[name] for extent in extents) for name in extents[0]}
