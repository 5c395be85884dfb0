"""A plan turned into an engine that can run; every check that spares a crash comes first."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.sidecar import Profile
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.errors import BackendError, DeviceError, IncompatibleArtifactError
from tame_deploy.runtime.backends.tensorrt.cuda import Device, DeviceMemory
from tame_deploy.runtime.backends.tensorrt.engines import StoredEngine, check_plan, compile_command
from tame_deploy.runtime.backends.tensorrt.flavours import Library

__all__ = ["LoadedEngine", "load_engine"]


class LoadedEngine:
    """A deserialised engine.

    Attributes:
        runtime: the library whose it is.
        profiles: what it was built for, in the builder's order.
        inputs, outputs: its tensors.
        scratch_bytes: device memory that one execution needs besides its tensors.
        own_graphs: whether the library captures CUDA graphs by itself (TensorRT-RTX).
    """

    def __init__(self, library: Library, engine: Any, stored: StoredEngine, graphs: bool) -> None:
        sidecar = stored.sidecar
        self.runtime = library
        self.engine = engine
        self.profiles: tuple[Profile, ...] = sidecar.options.profiles
        self.inputs, self.outputs = sidecar.inputs, sidecar.outputs
        self.scratch_bytes = int(engine.device_memory_size_v2)
        self.own_graphs = graphs and hasattr(library.trt, "CudaGraphStrategy")
        self._kernels: Any = None
        _check_tensors(library, engine, (*self.inputs, *self.outputs), stored.folder)
        if engine.num_optimization_profiles != len(self.profiles):
            raise IncompatibleArtifactError(
                f"{stored.folder} has {engine.num_optimization_profiles} profiles; its sidecar "
                f"lists {len(self.profiles)}"
            )

    def context(self, profile: int, scratch: DeviceMemory, stream: int) -> Any:
        """Return a new execution context for a profile; contexts of one lane share scratch.

        Args:
            profile: its number.
            scratch: memory of at least `scratch_bytes`.
            stream: where it runs first: the profile is set there.

        Raises:
            DeviceError: if it cannot be made.
        """
        trt = self.runtime.trt
        with self.runtime.listening() as said:
            settings: Any = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            if hasattr(trt, "CudaGraphStrategy"):
                strategy = trt.CudaGraphStrategy
                allocation, settings = settings, self.engine.create_runtime_config()
                settings.set_execution_context_allocation_strategy(allocation)
                # Kernels are compiled when they are first needed: once for all contexts.
                if self._kernels is None:
                    self._kernels = settings.create_runtime_cache()
                settings.set_runtime_cache(self._kernels)
                settings.cuda_graph_strategy = (
                    strategy.WHOLE_GRAPH_CAPTURE if self.own_graphs else strategy.DISABLED
                )
            context = self.engine.create_execution_context(settings)
            if context is None:
                reason = said.first_error("no reason was given")
                raise DeviceError(f"an execution context could not be made: {reason:.300}")
            context.set_device_memory(scratch.handle, scratch.size)
            if not context.set_optimization_profile_async(profile, stream):
                raise DeviceError(f"profile {profile} was refused: {said.first_error('no reason')}")
        return context

    def close(self) -> None:
        """Free the engine."""
        self.engine = self._kernels = None


def load_engine(
    artifact: Artifact, stored: StoredEngine, library: Library, device: Device, graphs: bool
) -> LoadedEngine:
    """Deserialise a plan that fits this machine, on a GPU that was probed.

    Raises:
        ChecksumError: if the plan is missing, truncated or altered.
        IncompatibleArtifactError: if the library refuses it, or it is not what its sidecar says.
        BackendError: if its weights cannot be put back.
    """
    check_plan(artifact, stored)
    with device.current():
        return _deserialize(artifact, stored, library, device, graphs)


def _deserialize(
    artifact: Artifact, stored: StoredEngine, library: Library, device: Device, graphs: bool
) -> LoadedEngine:
    trt = library.trt
    with library.listening() as said:
        runtime = trt.Runtime(library.logger)
        if stored.sidecar.options.version_compatible:
            # Such a plan brings its runtime along, as machine code.
            runtime.engine_host_code_allowed = True
        with stored.plan.open("rb") as file, _mapped(file.fileno()) as plan:
            engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise IncompatibleArtifactError(
                f"{stored.plan}: {library.flavour.name} {library.version} cannot load it on "
                f"{device}: {said.first_error('no reason was given'):.300}. "
                f"Rebuild: {compile_command(artifact, stored.sidecar)}"
            )
    if stored.sidecar.options.strip:
        _refit(library, engine, artifact.model)
    return LoadedEngine(library, engine, stored, graphs)


def _mapped(descriptor: int) -> mmap.mmap:
    """Read the file where it lies: the library copies what it keeps."""
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


def _refit(library: Library, engine: Any, model: Path) -> None:
    trt = library.trt
    with library.listening() as said:
        refitter = trt.Refitter(engine, library.logger)
        parser = trt.OnnxParserRefitter(refitter, library.logger)
        if not (parser.refit_from_file(str(model)) and refitter.refit_cuda_engine()):
            raise BackendError(
                f"the weights of {model} cannot be put back into the stripped engine: "
                f"{said.first_error('no reason was given'):.300}"
            )


def _check_tensors(
    library: Library, engine: Any, specs: tuple[TensorSpec, ...], folder: Path
) -> None:
    """Hold the engine's tensors to its sidecar's: their addresses are written to blindly."""
    found = {}
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        dtype = np.dtype(library.trt.nptype(engine.get_tensor_dtype(name))).name
        found[name] = (dtype, tuple(engine.get_tensor_shape(name)))
    expected = {
        spec.name: (spec.dtype, tuple(-1 if isinstance(size, str) else size for size in spec.shape))
        for spec in specs
    }
    if found != expected:
        raise IncompatibleArtifactError(
            f"{folder}: the engine has tensors {found}; its sidecar lists {expected}"
        )
