"""Opening an artifact on a backend: one that was named, or the best that can be used here."""

from __future__ import annotations

from tame_deploy.artifact.directory import Artifact
from tame_deploy.runtime.backends.protocol import Backend, BackendOptions
from tame_deploy.runtime.backends.table import AUTO, honours
from tame_deploy.runtime.backends.tensorrt.engines import check_engine_name
from tame_deploy.runtime.backends.vnni import check_vnni
from tame_deploy.runtime.selection.auto import open_first
from tame_deploy.runtime.selection.named import open_named

__all__ = ["open_backend"]


def open_backend(
    artifact: Artifact,
    name: str = AUTO,
    options: BackendOptions | None = None,
    *,
    anew: bool = False,
) -> Backend:
    """Open the artifact's graph, or an engine of it, on a backend.

    "auto" takes the first of the table of backends that can be used here; of those for CPUs, the
    fastest, measured once. Options narrow it down to backends that honour them: `engine` to
    TensorRT, `providers` to ONNX Runtime, `precision` and `mode` to OpenVINO, `threads` to CPUs.

    A graph of lower precision is held to the artifact's reference pictures when it is first opened
    on a processor; with `anew`, a backend that was named runs them at this opening as well.

    Raises:
        BackendNotInstalledError: if there is no such backend, or its package is missing.
        BackendError: if the graph cannot be loaded, or a provider is not obtained.
        ParityError: if a graph of lower precision is computed otherwise than it was made.
        IncompatibleArtifactError: if graph and manifest do not belong together, or there is no
            engine for this machine, or no VNNI that the graph needs.
        InputError: for an option that the backend does not honour.
    """
    options = options or BackendOptions()
    check_vnni(artifact)
    if options.engine is not None and honours(name, "engine"):
        check_engine_name(artifact, options.engine)
    if name == AUTO:
        return open_first(artifact, options)
    return open_named(artifact, name, options, anew=anew)
