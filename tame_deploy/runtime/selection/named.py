"""Opening an artifact on a backend that was named."""

from __future__ import annotations

from tame_deploy.artifact.directory import Artifact
from tame_deploy.runtime.backends.protocol import Backend, BackendOptions
from tame_deploy.runtime.backends.table import backend_spec
from tame_deploy.runtime.verify.trust import hold_to_reference

__all__ = ["open_named"]


def open_named(
    artifact: Artifact, name: str, options: BackendOptions, *, anew: bool = False
) -> Backend:
    """Open the artifact's graph, or an engine of it, on one backend.

    Args:
        artifact: to be opened; a quantized graph is held to its reference pictures.
        name: of the backend.
        options: for it.
        anew: whether the pictures are run although an earlier opening did so.

    Raises:
        BackendNotInstalledError: if there is no such backend, or its package is missing.
        BackendError: if the graph cannot be loaded.
        ParityError: if a quantized graph is computed otherwise than it was made.
        IncompatibleArtifactError: if graph and manifest do not belong together, or there is no
            engine for this machine.
        InputError: for an option that the backend does not honour.
    """
    spec = backend_spec(name, options)
    spec.check_options(options)
    backend = spec.open(artifact, options)
    hold_to_reference(backend, artifact, spec, options, anew=anew)
    return backend
