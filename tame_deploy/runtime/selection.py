"""Which backend runs an artifact, and why the faster ones do not."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tame_deploy.artifact import Artifact
from tame_deploy.errors import (
    ArtifactError,
    BackendError,
    BackendNotInstalledError,
    IncompatibleArtifactError,
    InputError,
    TameError,
)
from tame_deploy.runtime import cuda
from tame_deploy.runtime.backend import CPU, CUDA, DEFAULT_STREAMS, Backend, BackendOptions
from tame_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from tame_deploy.runtime.tensorrt.backend import TensorRTBackend
from tame_deploy.runtime.tensorrt.engines import check_plan, choose_engine, engine_folders
from tame_deploy.runtime.tensorrt.flavours import FLAVOURS, installed_version, load_library
from tame_deploy.sidecar import FlavourName

__all__ = ["BACKENDS", "BackendName", "Prospect", "open_backend", "prospects"]

BackendName = Literal["auto", "tensorrt", "tensorrt-rtx", "onnxruntime"]
BACKENDS: tuple[BackendName, ...] = ("auto", "tensorrt", "tensorrt-rtx", "onnxruntime")

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


def open_backend(
    artifact: Artifact, name: str = "auto", options: BackendOptions | None = None
) -> Backend:
    """Open the artifact's graph, or an engine of it, on a backend.

    "auto" takes the first that can be used of TensorRT, TensorRT-RTX, ONNX Runtime on CUDA, ONNX
    Runtime on the CPU; with `providers` or `threads`, ONNX Runtime, and with `engine`, TensorRT.

    Raises:
        BackendNotInstalledError: if there is no such backend, or its package is missing.
        BackendError: if the graph cannot be loaded, or a provider is not obtained.
        IncompatibleArtifactError: if graph and manifest do not belong together, or there is no
            engine for this machine.
        InputError: for an option that the backend cannot honour.
    """
    options = options or BackendOptions()
    if name not in BACKENDS:
        raise BackendNotInstalledError(f"unknown backend {name!r}; expected {', '.join(BACKENDS)}")
    if name == "auto":
        return _open_first(artifact, options)
    if name == "onnxruntime":
        _refuse(options.engine is not None, "engine", name)
        on_gpu = CUDA in (options.providers or ())
        _refuse(options.device != 0 and not on_gpu, "device", f"{name} on the CPU")
        _refuse(options.streams != DEFAULT_STREAMS, "streams", name)
        return OnnxRuntimeBackend.of_artifact(artifact, options)
    _refuse(options.providers is not None, "providers", name)
    _refuse(options.threads is not None, "threads", name)
    return TensorRTBackend.of_artifact(artifact, name, options)


def _refuse(given: bool, option: str, backend: str) -> None:
    if given:
        raise InputError(f"{option} has no meaning for backend {backend}")


def _open_first(artifact: Artifact, options: BackendOptions) -> Backend:
    if options.providers is not None or options.threads is not None:
        return open_backend(artifact, "onnxruntime", options)
    refusals = []
    graphs = options.cuda_graphs
    for prospect in prospects(artifact, options):
        if options.engine is not None and prospect.provider is not None:
            continue
        chosen = options
        if prospect.provider is not None:
            # What only engines have means nothing here, but was not meant for here either.
            on_cpu = prospect.provider == CPU
            providers = (CPU,) if on_cpu else (CUDA, CPU)
            device = 0 if on_cpu else options.device
            chosen = BackendOptions(providers=providers, device=device, cuda_graphs=graphs)
        try:
            if prospect.refusal is None:
                return open_backend(artifact, prospect.backend, chosen)
            reason = prospect.refusal
        except (BackendError, ArtifactError) as error:
            # What the last and plainest of them cannot run is an error of its own.
            if prospect.provider == CPU:
                raise
            reason = str(error)
        refusals.append(f"{prospect.title}: {reason}")
        if _has_engine(artifact, prospect):
            _log.warning("the %s engine is not used: %s", prospect.backend, reason)
    raise BackendNotInstalledError(f"no backend can be used: {'; '.join(refusals)}")


def _has_engine(artifact: Artifact, prospect: Prospect) -> bool:
    """Whether somebody compiled for a backend, and would wonder that it is not used."""
    if prospect.version is None or prospect.provider is not None:
        return False
    return any(
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
    version = _ort_version()
    missing = None if version else "it is not installed: pip install 'tame-deploy[cpu]'"
    yield Prospect("onnxruntime", CPU, version, missing)


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
    version = _ort_version()

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


def _ort_version() -> str | None:
    for package in _ORT_PACKAGES:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _available_providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())
