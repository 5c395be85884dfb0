"""Subjects on TensorRT and TensorRT-RTX: each graph's engine in the project's own backend.

Plain and reference graphs are no artifacts; they get a sidecar all the same, so that one runner
serves all three and only the graphs differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from candidate import Candidate, Opened
from graphs import NAMES, Graphs, feeds_for, output_shapes, specs_of
from place import Place

from tame_deploy.artifact.sidecar import EngineOptions, EngineSidecar, FlavourName, Profile
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.engine.build import build_plan, check_options
from tame_deploy.engine.timing import TimingCache
from tame_deploy.errors import BackendError, DeviceError
from tame_deploy.export.options import DEFAULT_RANKS
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.backends.tensorrt import cuda
from tame_deploy.runtime.backends.tensorrt.backend import TensorRTBackend
from tame_deploy.runtime.backends.tensorrt.device_arrays import DeviceArray
from tame_deploy.runtime.backends.tensorrt.engines import StoredEngine
from tame_deploy.runtime.backends.tensorrt.flavours import load_library
from tame_deploy.runtime.backends.tensorrt.loaded import LoadedEngine


@dataclass(frozen=True)
class _Case:
    """An engine of one graph for one batch size."""

    flavour: FlavourName
    precision: str
    name: str
    graphs: Graphs
    folder: Path
    batch: int

    @property
    def options(self) -> EngineOptions:
        """How it is compiled: as `tame-deploy compile --batch N,N,N` does."""
        extent = (self.batch, self.batch, self.batch)
        explained = (1, 1, DEFAULT_RANKS["selectable"]) if self.name == "fused" else None
        return EngineOptions((Profile(extent, explained),), tf32=self.precision == "tf32")

    @property
    def model(self) -> Path:
        """The graph."""
        return self.graphs.find(self.name, self.precision)

    def plan(self, version: str) -> Path:
        """Where the plan is kept."""
        word = f"{self.flavour}-{version}-{self.name}-{self.precision}-batch-{self.batch}"
        return self.folder / f"{word.replace('+', '-')}.plan"


def engine_subjects(
    flavour: FlavourName,
    graphs: Graphs,
    precisions: tuple[str, ...],
    pixels: np.ndarray,
    place: Place,
    folder: Path,
) -> list[Candidate]:
    """Return plain, fused and reference graph in each precision."""

    def candidate(name: str, precision: str) -> Candidate:
        case = _Case(flavour, precision, name, graphs, folder, len(pixels))
        opener: Callable[[Place], Opened] = lambda place: _open(case, pixels, place)  # noqa: E731
        return Candidate(flavour, precision, name, opener, lambda: _build(case, place))

    return [candidate(name, precision) for precision in precisions for name in NAMES]


def _build(case: _Case, place: Place) -> Path:
    """Compile the graph, unless its plan is there; TensorRT-RTX needs no GPU for it."""
    if case.flavour == "tensorrt":
        place.gpu()  # before the library: some of its parts crash without a driver
    library, model = load_library(case.flavour), case.model
    plan = case.plan(library.version)
    if plan.exists():
        return plan
    check_options(library, case.options)
    device = place.device if case.flavour == "tensorrt" else None
    timing = None
    if device is not None:
        timing = TimingCache(case.folder, library.version, device.name)
    built = build_plan(
        library, model, specs_of(model)[0], case.options, timing=timing, device=device
    )
    plan.write_bytes(built.plan)
    return plan


def _load(case: _Case, place: Place) -> TensorRTBackend:
    device, library = place.gpu(), load_library(case.flavour)
    plan = case.plan(library.version)
    inputs, outputs = specs_of(case.model)
    sidecar = EngineSidecar(
        flavour=case.flavour,
        version=library.version,
        precision="fp32" if case.precision == "tf32" else case.precision,
        compute_capabilities=(),
        device=device.name,
        options=case.options,
        inputs=inputs,
        outputs=outputs,
        manifest="",
        onnx_sha256="",
        plan=plan.name,
        plan_sha256="",
        plan_bytes=plan.stat().st_size,
        key="",
        build_s=0.0,
    )
    stored = StoredEngine(case.folder, sidecar)
    device.make_current()
    with library.listening() as said:
        engine = library.trt.Runtime(library.logger).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise BackendError(f"{plan.name} was refused: {said.first_error('no reason was given')}")
    loaded = LoadedEngine(library, engine, stored, True)
    return TensorRTBackend(loaded, stored, device, BackendOptions(streams=1))


def _open(case: _Case, pixels: np.ndarray, place: Place) -> Opened:
    if place.device is None:
        size = case.plan(load_library(case.flavour).version).stat().st_size
        raise DeviceError(f"its engine was built ({size >> 10} KiB); without a GPU it cannot run")
    backend = _load(case, place)
    try:
        feeds = feeds_for(backend.inputs, pixels)
        shapes = output_shapes(backend.outputs, backend.inputs, feeds)
        given = {
            spec.name: _uploaded(feeds[spec.name], spec, place.device.index)
            for spec in backend.inputs
        }
        out = {
            spec.name: _uploaded(np.zeros(shapes[spec.name], spec.dtype), spec, place.device.index)
            for spec in backend.outputs
        }
    except BaseException:
        backend.close()
        raise
    return Opened(
        lambda: backend.run_on_device(given, out=out, stream=place.stream),
        lambda: backend.run(feeds),
        backend.close,
        {"cuda_graphs": True},
    )


def _uploaded(array: np.ndarray, spec: TensorSpec, device: int) -> DeviceArray:
    """Return a host array's copy on the GPU."""
    array = np.ascontiguousarray(array)
    memory = cuda.DeviceMemory(array.nbytes)
    cuda.copy(memory.handle, array.ctypes.data, array.nbytes, 0)
    cuda.call("cudaStreamSynchronize", 0)
    return DeviceArray(memory.handle, array.shape, spec.dtype, device, None, memory)
