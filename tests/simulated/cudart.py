"""CUDA's runtime over host memory. Work waits in its stream until somebody synchronises, as on a
device: what reads too early finds old bytes, and what captures wrongly is caught."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

SUCCESS = 0
INVALID = 1
OUT_OF_MEMORY = 2
INSUFFICIENT_DRIVER = 35
ALIGNMENT = 256


class SimulatedCuda:
    """Has the functions of cuda.bindings.runtime that are used, with its conventions."""

    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)
    cudaMemoryType = SimpleNamespace(cudaMemoryTypeDevice=2, cudaMemoryTypeManaged=3)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, capability=(8, 6), memory=1 << 30, driver=13050, count=1):
        self.capability, self.memory, self.driver, self.count = capability, memory, driver, count
        self.blocks: dict[int, ctypes.Array] = {}
        self.streams: dict[int, list] = {0: [], 1: []}
        self.events: dict[int, tuple[int, int] | None] = {}
        self.done: dict[int, int] = {0: 0, 1: 0}
        self.graphs: dict[int, list] = {}
        self.capturing: dict[int, list] = {}
        self.calls: list[str] = []
        self.device = 0
        self.elsewhere: dict[int, int] = {}
        self._next = 100

    def __getattribute__(self, name):
        if name.startswith("cuda") and callable(value := object.__getattribute__(self, name)):
            object.__getattribute__(self, "calls").append(name)
            return value
        return object.__getattribute__(self, name)

    def _number(self):
        self._next += 1
        return self._next

    # The device

    def cudaGetDeviceCount(self):
        return (SUCCESS, self.count) if self.driver >= 13000 else (INSUFFICIENT_DRIVER, None)

    def cudaDriverGetVersion(self):
        return SUCCESS, self.driver

    def cudaRuntimeGetVersion(self):
        return SUCCESS, 13050

    def cudaGetErrorString(self, error):
        return SUCCESS, f"error {int(error)}".encode()

    def cudaGetDeviceProperties(self, device):
        major, minor = self.capability
        return SUCCESS, SimpleNamespace(
            name=b"Simulated", major=major, minor=minor, totalGlobalMem=self.memory
        )

    def cudaSetDevice(self, device):
        self.device = device
        return (SUCCESS,)

    def cudaGetDevice(self):
        return SUCCESS, self.device

    # Memory

    def cudaPointerGetAttributes(self, address):
        for start, block in self.blocks.items():
            if start <= address < start + ctypes.sizeof(block):
                return SUCCESS, SimpleNamespace(type=2, device=self.elsewhere.get(start, 0))
        return SUCCESS, SimpleNamespace(type=0, device=0)

    def cudaMalloc(self, size):
        if sum(map(ctypes.sizeof, self.blocks.values())) + size > self.memory:
            return OUT_OF_MEMORY, None
        room = (ctypes.c_uint8 * (size + ALIGNMENT))()
        skipped = -ctypes.addressof(room) % ALIGNMENT
        address = ctypes.addressof(room) + skipped
        self.blocks[address] = (ctypes.c_uint8 * size).from_buffer(room, skipped)
        return SUCCESS, address

    def cudaHostAlloc(self, size, flags):
        return self.cudaMalloc(size)

    def cudaFree(self, address):
        return (SUCCESS if self.blocks.pop(int(address), None) is not None else INVALID,)

    def cudaFreeHost(self, address):
        return self.cudaFree(address)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        self.push(stream, lambda: ctypes.memmove(target, source, size))
        return (SUCCESS,)

    # Streams and events

    def cudaStreamCreateWithFlags(self, flags):
        stream = self._number()
        self.streams[stream], self.done[stream] = [], 0
        return SUCCESS, stream

    def cudaStreamDestroy(self, stream):
        assert not self.streams.pop(stream), "work is lost with its stream"
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream):
        self.drain(stream)
        return (SUCCESS,)

    def cudaEventCreateWithFlags(self, flags):
        event = self._number()
        self.events[event] = None
        return SUCCESS, event

    def cudaEventDestroy(self, event):
        del self.events[event]
        return (SUCCESS,)

    def cudaEventRecord(self, event, stream):
        self.events[event] = (stream, self.done[stream] + len(self.streams[stream]))
        return (SUCCESS,)

    def cudaEventSynchronize(self, event):
        if self.events[event] is not None:
            self.drain(*self.events[event])
        return (SUCCESS,)

    def cudaStreamWaitEvent(self, stream, event, flags):
        marked = self.events[event]
        if marked is not None and marked[0] != stream:
            self.push(stream, lambda: self.drain(*marked))
        return (SUCCESS,)

    def push(self, stream, work):
        """Queue work on a stream, or record it where the stream is captured."""
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            self.streams[stream].append(work)

    def drain(self, stream, until=None):
        """Do a stream's work, up to a point."""
        queue = self.streams.get(stream, [])
        while queue and (until is None or self.done[stream] < until):
            work = queue.pop(0)
            work()
            self.done[stream] += 1

    # Graphs

    def cudaStreamBeginCapture(self, stream, mode):
        self.capturing[stream] = []
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream):
        graph = self._number()
        self.graphs[graph] = self.capturing.pop(stream)
        return SUCCESS, graph

    def cudaGraphInstantiate(self, graph, flags):
        executable = self._number()
        self.graphs[executable] = list(self.graphs[graph])
        return SUCCESS, executable

    def cudaGraphDestroy(self, graph):
        del self.graphs[graph]
        return (SUCCESS,)

    def cudaGraphLaunch(self, executable, stream):
        for work in self.graphs[executable]:
            self.push(stream, work)
        return (SUCCESS,)

    def cudaGraphExecDestroy(self, executable):
        del self.graphs[executable]
        return (SUCCESS,)
