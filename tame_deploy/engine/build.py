"""ONNX file in, plan out: the builder's calls, and its failures in words."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tame_deploy.artifact.sidecar import EngineOptions, Profile
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.engine.layers import Layer, network_layers
from tame_deploy.engine.progress import BuildProgress, make_monitor
from tame_deploy.engine.timing import TimingCache
from tame_deploy.errors import BuildError, InputError
from tame_deploy.runtime.backends.tensorrt.cuda import Device
from tame_deploy.runtime.backends.tensorrt.flavours import Library, Messages

__all__ = ["BuildCancelledError", "Built", "build_plan", "check_options", "supported_capabilities"]

_WAIT_S = 0.1
_MIB = 2**20
#: The builder's messages where a layer's workspace is larger than allowed; the size that the first
#: of them names is the limit and the weights together, not what is needed.
_TOO_SMALL = re.compile(
    r"OutOfMemory.*Requested size|increase the workspace|within workspace limit"
)


class BuildCancelledError(BuildError):
    """The user stopped the build."""


@dataclass(frozen=True)
class Built:
    """A plan, the options as the builder read them back, the network's layers, seconds."""

    plan: bytes
    options: EngineOptions
    layers: tuple[Layer, ...]
    seconds: float


def supported_capabilities(library: Library) -> tuple[str, ...]:
    """Return the compute capabilities that a library builds for without a GPU, as "8.9"."""
    kinds = getattr(library.trt, "ComputeCapability", None)
    names = [name for name in getattr(kinds, "__members__", ()) if name.startswith("SM")]
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in names)


def check_options(library: Library, options: EngineOptions) -> None:
    """Refuse what a library cannot honour, before anything is built.

    Raises:
        InputError: naming the option and the reason.
    """
    defaults = EngineOptions(options.profiles)
    for name, reason in library.flavour.lacks.items():
        if getattr(options, name, None) != getattr(defaults, name, None):
            several = name == "compute_capabilities"  # one option of the command for each
            flag = "compute-capability" if several else name.replace("_", "-")
            raise InputError(f"{library.flavour.name} has no --{flag}: {reason}")
    if "7.5" in options.compute_capabilities:
        raise InputError(
            f"{library.flavour.name} multiplies no float32 matrices for compute capability 7.5, "
            "and the tail of the head is float32 in every precision; compile for 8.0 and later, or "
            "with --target tensorrt"
        )
    known = [text for text in supported_capabilities(library) if text != "7.5"]
    for text in options.compute_capabilities:
        if text not in known:
            more = "; H100, H200 and A100 belong to --target tensorrt" if text == "9.0" else ""
            raise InputError(
                f"{library.flavour.name} {library.version} builds for compute capability "
                f"{', '.join(known)}; found {text}{more}"
            )


def build_plan(
    library: Library,
    model: Path,
    inputs: Sequence[TensorSpec],
    options: EngineOptions,
    *,
    timing: TimingCache | None = None,
    tell: Callable[[float, str], None] = lambda *_: None,
    device: Device | None = None,
) -> Built:
    """Compile a graph; Ctrl-C stops the builder at its next step.

    Args:
        library: that compiles.
        model: the ONNX file.
        inputs: of the graph, whose free sizes the profiles fix.
        options: checked by `check_options`.
        timing: tactics of earlier builds, to go faster; extended afterwards.
        tell: how far it is, in [0, 1], and what is being done.
        device: the GPU that it is built on, where the library needs one.

    Raises:
        BuildError: for a graph that it cannot take, by node; for a workspace that is too small; for
            whatever else the builder says.
        BuildCancelledError: if it was stopped.
    """
    progress = BuildProgress(tell)
    with library.listening() as said:
        job = _Job(
            builds_with=library,
            model=model,
            inputs=inputs,
            options=options,
            timing=timing,
            progress=progress,
            said=said,
            device=device,
        )
        built = _interruptible(job.run, progress)
        if progress.cancelled.is_set():
            raise BuildCancelledError("the build was stopped; nothing was kept")
    if built is None:
        raise _failure(library, said, options)
    return built


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A build from first to last, in whichever thread."""

    builds_with: Library
    model: Path
    inputs: Sequence[TensorSpec]
    options: EngineOptions
    timing: TimingCache | None
    progress: BuildProgress
    said: Messages
    device: Device | None

    def run(self) -> Built | None:
        """Return what was built, or None where the builder failed or was stopped."""
        started, library = time.monotonic(), self.builds_with
        if self.device is not None:
            self.device.make_current()  # it belongs to the thread
        builder = library.trt.Builder(library.logger)
        network = _parse(library, builder, self.model, self.said)
        settings = _configure(library, builder, self.inputs, self.options, self.said)
        layers = network_layers(network)
        self.progress.layers = _names(network, layers)
        settings.progress_monitor = make_monitor(library.trt, self.progress)
        if self.timing is not None:
            self.timing.load_into(settings)
        if self.progress.cancelled.is_set():
            return None
        plan = builder.build_serialized_network(network, settings)
        if plan is None or self.progress.cancelled.is_set():
            return None
        if self.timing is not None:
            self.timing.save_from(settings)
        honoured = _read_back(library, settings, self.options)
        return Built(bytes(plan), honoured, layers, time.monotonic() - started)


def _names(network: Any, layers: Sequence[Layer]) -> list[str]:
    """Return what the builder goes through step by step: inputs, layers, outputs."""
    inputs = [network.get_input(number).name for number in range(network.num_inputs)]
    outputs = [network.get_output(number).name for number in range(network.num_outputs)]
    return [*inputs, *(layer.name for layer in layers), *outputs]


def _parse(library: Library, builder: Any, model: Path, said: Messages) -> Any:
    trt = library.trt
    kinds = trt.NetworkDefinitionCreationFlag
    # TensorRT 11 knows no other networks, and may have no flag for it.
    flags = 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, library.logger)
    if parser.parse_from_file(str(model)):
        return network
    reasons = [_parser_error(parser.get_error(number)) for number in range(parser.num_errors)]
    reasons = reasons or [said.first_error("no reason was given")]
    raise BuildError(
        f"{library.flavour.name} {library.version} cannot take {model}: {'; '.join(reasons[:3])}"
    )


def _parser_error(error: Any) -> str:
    operator, name = error.node_operator(), error.node_name()
    if not operator:
        return str(error.desc())
    where = f"node {name} ({operator})" if name else f"a node of type {operator}"
    return f"{where}: {error.desc()}"


def _configure(
    library: Library,
    builder: Any,
    inputs: Sequence[TensorSpec],
    options: EngineOptions,
    said: Messages,
) -> Any:
    trt = library.trt
    settings = builder.create_builder_config()
    for profile in options.profiles:
        shapes = builder.create_optimization_profile()
        for spec in inputs:
            shapes.set_shape(spec.name, *(_shape(spec, profile, place) for place in range(3)))
        if settings.add_optimization_profile(shapes) < 0:
            raise BuildError(f"profile {profile} was refused: {said.first_error('no reason')}")
    settings.builder_optimization_level = options.optimization_level
    settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        settings.set_memory_pool_limit(pool, options.workspace_mib * _MIB)
    if not options.tf32:
        settings.clear_flag(trt.BuilderFlag.TF32)
    for name in _flags(options):
        settings.set_flag(getattr(trt.BuilderFlag, name))
    if options.hardware_compatible:
        settings.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.compute_capabilities:
        settings.num_compute_capabilities = len(options.compute_capabilities)
        for place, text in enumerate(options.compute_capabilities):
            kind = getattr(trt.ComputeCapability, f"SM{text.replace('.', '')}")
            if not settings.set_compute_capability(kind, place):
                raise BuildError(f"compute capability {text} was refused")
    return settings


def _shape(spec: TensorSpec, profile: Profile, place: int) -> tuple[int, ...]:
    """Return an input's shape; its first free size is the batch, a second one the classes."""
    free = [profile.batch[place], *([profile.explained[place]] if profile.explained else [])]
    sizes = iter(free)
    return tuple(next(sizes) if isinstance(size, str) else size for size in spec.shape)


def _flags(options: EngineOptions) -> list[str]:
    flags = {
        "VERSION_COMPATIBLE": options.version_compatible,
        "REFIT": options.refit,
        "STRIP_PLAN": options.strip,
        # The weights that are put back are the same ones.
        "REFIT_IDENTICAL": options.strip and not options.refit,
    }
    return [name for name, wanted in flags.items() if wanted]


def _interruptible(work: Callable[[], Built | None], progress: BuildProgress) -> Built | None:
    """Run the builder beside this thread, where Ctrl-C arrives.

    Out of a callback an exception would be lost in C++, or tear through it; here it becomes a
    question that the builder is asked at each of its steps.
    """
    result: Future[Built | None] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as problem:  # handed over to the thread that waits
            result.set_exception(problem)

    threading.Thread(target=run, name="tame-deploy build").start()
    while True:
        try:
            # Not Thread.join: Ctrl-C within it can make a running thread count as ended.
            while not result.done():
                wait([result], _WAIT_S)
            return result.result()
        except KeyboardInterrupt:
            progress.cancelled.set()


def _failure(library: Library, said: Messages, options: EngineOptions) -> BuildError:
    limit = options.workspace_mib
    if limit is not None and any(_TOO_SMALL.search(message) for message in said.errors):
        return BuildError(
            f"a workspace of {limit} MiB is too small; raise --workspace, or leave it out"
        )
    reason = said.first_error("the builder gave no reason")
    return BuildError(f"{library.flavour.name} {library.version} cannot compile it: {reason:.400}")


def _read_back(library: Library, settings: Any, options: EngineOptions) -> EngineOptions:
    """Return the options as the builder has them, which is what the sidecar records.

    Raises:
        BuildError: if it took one otherwise than it was given.
    """
    trt = library.trt
    found = replace(
        options,
        optimization_level=int(settings.builder_optimization_level),
        tf32=bool(settings.get_flag(trt.BuilderFlag.TF32)),
        version_compatible=bool(settings.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)),
        refit=bool(settings.get_flag(trt.BuilderFlag.REFIT)),
        strip=bool(settings.get_flag(trt.BuilderFlag.STRIP_PLAN)),
    )
    if options.workspace_mib is not None:
        limit = int(settings.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE))
        found = replace(found, workspace_mib=limit // _MIB)
    if options.hardware_compatible:
        level = settings.hardware_compatibility_level
        taken = level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
        found = replace(found, hardware_compatible=bool(taken))
    if options.compute_capabilities:
        count = int(settings.num_compute_capabilities)
        kinds = [settings.get_compute_capability(place) for place in range(count)]
        names = (str(kind).rpartition("SM")[2] for kind in kinds)
        taken_for = tuple(f"{name[:-1]}.{name[-1]}" for name in names)
        found = replace(found, compute_capabilities=taken_for)
    if settings.num_optimization_profiles != len(options.profiles) or found != options:
        raise BuildError(f"{library.flavour.name} took other options than it was given: {found}")
    return found
