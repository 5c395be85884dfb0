"""Which backend runs an artifact."""

from __future__ import annotations

from tame_deploy.artifact import Artifact
from tame_deploy.errors import BackendNotInstalledError
from tame_deploy.runtime.backend import Backend, BackendOptions
from tame_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend

__all__ = ["BACKENDS", "open_backend"]

BACKENDS = ("onnxruntime",)


def open_backend(
    artifact: Artifact, name: str = "onnxruntime", options: BackendOptions | None = None
) -> Backend:
    """Open the artifact's graph on a backend.

    Raises:
        BackendNotInstalledError: if there is no such backend, or its package is missing.
        BackendError: if the graph cannot be loaded, or a provider is not obtained.
        IncompatibleArtifactError: if graph and manifest do not belong together.
    """
    if name == "onnxruntime":
        return OnnxRuntimeBackend.of_artifact(artifact, options or BackendOptions())
    raise BackendNotInstalledError(f"unknown backend {name!r}; expected {', '.join(BACKENDS)}")
