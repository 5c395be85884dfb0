"""Which backend runs an artifact, and why the faster ones do not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.sidecar import FlavourName
from tame_deploy.errors import (
    ArtifactError,
    BackendError,
    BackendNotInstalledError,
    IncompatibleArtifactError,
    InputError,
    ParityError,
    TameError,
)
from tame_deploy.runtime.backends.installed import first_version
from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tame_deploy.runtime.backends.openvino import OpenVinoBackend
from tame_deploy.runtime.backends.protocol import (
    CPU,
    CUDA,
    DEFAULT_STREAMS,
    Backend,
    BackendOptions,
)
from tame_deploy.runtime.backends.tensorrt import cuda
from tame_deploy.runtime.backends.tensorrt.backend import TensorRTBackend
from tame_deploy.runtime.backends.tensorrt.engines import (
    check_engine_name,
    check_plan,
    choose_engine,
    engine_folders,
)
from tame_deploy.runtime.backends.tensorrt.flavours import FLAVOURS, installed_version, load_library
from tame_deploy.runtime.selection.backend_benchmark import fastest_backend
from tame_deploy.runtime.verify.parity import check_answers

__all__ = ["BACKENDS", "BackendName", "Prospect", "open_backend", "prospects"]

BackendName = Literal["auto", "tensorrt", "tensorrt-rtx", "openvino", "onnxruntime"]
BACKENDS: tuple[BackendName, ...] = (
    "auto",
    "tensorrt",
    "tensorrt-rtx",
    "openvino",
    "onnxruntime",
)

_log = logging.getLogger("tame_deploy")

_ORT_PACKAGES = ("onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True)
class Prospect:
    """A backend, what is installed for it, and why it cannot be used, if it cannot."""

    backend: BackendName
    provider: str | None
    version: str | None
    refusal: str | None

    @property
    def title(self) -> str:
        """Its name for the screen."""
        place = self.provider and self.provider.removesuffix("ExecutionProvider")
        return f"{self.backend} ({place})" if place else self.backend

    @property
    def on_cpu(self) -> bool:
        """Whether it is for CPUs."""
        return self.backend == "openvino" or self.provider == CPU


def open_backend(
    artifact: Artifact, name: str = "auto", options: BackendOptions | None = None
) -> Backend:
    """Open the artifact's graph, or an engine of it, on a backend.

    "auto" takes the first that can be used of TensorRT, TensorRT-RTX and ONNX Runtime on CUDA; on a
    CPU the faster of OpenVINO and ONNX Runtime, measured once. Options narrow it down: `engine` to
    TensorRT, `providers` to ONNX Runtime, `precision` and `mode` to OpenVINO, `threads` to CPUs.

    Raises:
        BackendNotInstalledError: if there is no such backend, or its package is missing.
        BackendError: if the graph cannot be loaded, or a provider is not obtained.
        IncompatibleArtifactError: if graph and manifest do not belong together, or there is no
            engine for this machine.
        InputError: for an option that the backend cannot honour.
    """
    options = options or BackendOptions()
    if options.engine is not None and name != "onnxruntime":
        check_engine_name(artifact, options.engine)
    if name not in BACKENDS:
        raise BackendNotInstalledError(f"unknown backend {name!r}; expected {', '.join(BACKENDS)}")
    if name == "auto":
        return _open_first(artifact, options)
    _check_options(name, options)
    if name == "onnxruntime":
        return OnnxRuntimeBackend.of_artifact(artifact, options)
    if name == "openvino":
        return _open_openvino(artifact, options)
    return TensorRTBackend.of_artifact(artifact, name, options)


def _open_openvino(artifact: Artifact, options: BackendOptions) -> Backend:
    """Open OpenVINO, and hold it to the artifact's reference where the graph is quantized.

    Its own transformations of quantized graphs have been seen to spoil maps and logits silently.
    """
    backend = OpenVinoBackend.of_artifact(artifact, options)
    if artifact.manifest.precision == "fp32":
        return backend
    try:
        check_answers(backend, artifact, roughly=options.precision == "bf16")
    except BaseException as error:
        backend.close()
        if not isinstance(error, ParityError):
            raise
        raise BackendError(
            f"openvino {first_version('openvino')} computes this {artifact.manifest.precision} "
            f"graph otherwise than it was made ({error}); use backend onnxruntime"
        ) from error
    return backend


def _check_options(name: BackendName, options: BackendOptions) -> None:
    """Refuse what a backend would ignore."""
    defaults = BackendOptions()
    on_gpu = name in FLAVOURS or CUDA in (options.providers or ())
    meant = {
        "threads": name in ("openvino", "onnxruntime"),
        "providers": name == "onnxruntime",
        "device": on_gpu,
        "engine": name in FLAVOURS,
        "streams": name != "onnxruntime",
        "precision": name == "openvino",
        "mode": name == "openvino",
    }
    for option, has_meaning in meant.items():
        if not has_meaning and getattr(options, option) != getattr(defaults, option):
            place = "" if on_gpu or option != "device" else " on the CPU"
            raise InputError(f"{option} has no meaning for backend {name}{place}")


def _open_first(artifact: Artifact, options: BackendOptions) -> Backend:
    if options.providers is not None:
        return open_backend(artifact, "onnxruntime", options)
    if options.precision is not None or options.mode != BackendOptions().mode:
        return open_backend(artifact, "openvino", options)
    refusals = []
    for prospect in prospects(artifact, options):
        if not _considered(prospect, options):
            continue
        reason = prospect.refusal
        if reason is None and prospect.on_cpu:
            return _open_on_cpu(artifact, options)
        if reason is None:
            try:
                return open_backend(artifact, prospect.backend, _narrowed(prospect, options))
            except (BackendError, ArtifactError) as error:
                reason = str(error)
        refusals.append(f"{prospect.title}: {reason}")
        if _has_engine(artifact, prospect):
            _log.warning("the %s engine is not used: %s", prospect.backend, reason)
    raise BackendNotInstalledError(f"no backend can be used: {'; '.join(refusals)}")


def _considered(prospect: Prospect, options: BackendOptions) -> bool:
    """Whether the options leave a backend in question."""
    if options.engine is not None:
        return prospect.backend in FLAVOURS
    return prospect.on_cpu or options.threads is None


def _narrowed(prospect: Prospect, options: BackendOptions) -> BackendOptions:
    """Return the options without those that are for other backends than the one that is tried."""
    if prospect.backend in FLAVOURS:
        return options
    graphs, device = options.cuda_graphs, options.device
    return BackendOptions(providers=(CUDA, CPU), device=device, cuda_graphs=graphs)


def _open_on_cpu(artifact: Artifact, options: BackendOptions) -> Backend:
    """Open the faster of those that are installed."""
    versions = cpu_versions()
    threads = options.threads

    def open_named(name: str) -> Backend:
        streams = options.streams if name == "openvino" else DEFAULT_STREAMS
        return open_backend(artifact, name, BackendOptions(threads, streams=streams))

    while len(versions) > 1:
        chosen = fastest_backend(artifact, versions, threads, open_named)
        try:
            return open_named(chosen)
        except BackendError as error:
            # It was the fastest once, and cannot be used now; the next one can.
            _log.warning("%s is left out: %s", chosen, error)
            del versions[chosen]
    return open_named(next(iter(versions)))


def cpu_versions() -> dict[str, str]:
    """Return the versions of the CPU backends that are installed."""
    found = {"openvino": first_version("openvino"), "onnxruntime": first_version(*_ORT_PACKAGES)}
    return {name: version for name, version in found.items() if version is not None}


def _has_engine(artifact: Artifact, prospect: Prospect) -> bool:
    """Whether somebody compiled for a backend, and would wonder that it is not used."""
    if prospect.version is None or prospect.provider is not None:
        return False
    return prospect.backend in FLAVOURS and any(
        folder.name.startswith(f"{prospect.backend}-{precision}")
        for folder in engine_folders(artifact)
        for precision in (artifact.manifest.precision.replace("+", "-"), "tf32")
    )


def prospects(artifact: Artifact | None, options: BackendOptions) -> Iterator[Prospect]:
    """Yield the backends in the order of "auto", each with what speaks against it.

    Without an artifact, only the machine is looked at.
    """
    for flavour in FLAVOURS:
        yield _flavour_prospect(flavour, artifact, options)
    yield _cuda_prospect(artifact, options)
    for name, packages, extra in (
        ("openvino", ("openvino",), "openvino"),
        ("onnxruntime", _ORT_PACKAGES, "cpu"),
    ):
        version = first_version(*packages)
        missing = None if version else f"it is not installed: pip install 'tame-deploy[{extra}]'"
        provider = CPU if name == "onnxruntime" else None
        yield Prospect(cast(BackendName, name), provider, version, missing)


def _flavour_prospect(
    flavour: FlavourName, artifact: Artifact | None, options: BackendOptions
) -> Prospect:
    version = installed_version(flavour)

    def check() -> None:
        if version is None:
            raise BackendNotInstalledError(
                f"it is not installed: pip install 'tame-deploy[{flavour}]'"
            )
        device = cuda.probe(options.device)
        library = load_library(flavour)
        if artifact is not None:
            stored = choose_engine(artifact, flavour, library.version, device, options.engine)
            check_plan(artifact, stored)

    return Prospect(flavour, None, version, _refusal(check))


def _cuda_prospect(artifact: Artifact | None, options: BackendOptions) -> Prospect:
    version = first_version(*_ORT_PACKAGES)

    def check() -> None:
        if version is None or CUDA not in _available_providers():
            raise BackendNotInstalledError(
                "it is not installed: pip install 'tame-deploy[cuda]' (in place of onnxruntime, "
                "which is for CPUs)"
            )
        cuda.probe(options.device)
        if artifact is not None and artifact.manifest.target == "cpu":
            precision = artifact.manifest.precision
            raise IncompatibleArtifactError(f"{artifact.path} is {precision} for CPUs")

    return Prospect("onnxruntime", CUDA, version, _refusal(check))


def _refusal(check: Callable[[], None]) -> str | None:
    try:
        check()
    except TameError as error:
        return str(error)
    return None


def _available_providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())
