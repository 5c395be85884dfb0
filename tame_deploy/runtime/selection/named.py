"""Opening an artifact on a backend that was named."""

from __future__ import annotations

from tame_deploy.artifact.directory import Artifact
from tame_deploy.errors import BackendError, ParityError
from tame_deploy.runtime.backends.protocol import Backend, BackendOptions
from tame_deploy.runtime.backends.table import BackendSpec, backend_spec
from tame_deploy.runtime.verify.parity import Arithmetic, check_parity
from tame_deploy.runtime.verify.reference import PARITY_FILE, ParityReference

__all__ = ["open_named"]


def open_named(artifact: Artifact, name: str, options: BackendOptions) -> Backend:
    """Open the artifact's graph, or an engine of it, on one backend.

    Raises:
        BackendNotInstalledError: if there is no such backend, or its package is missing.
        BackendError: if the graph cannot be loaded, or is computed otherwise than it was made.
        IncompatibleArtifactError: if graph and manifest do not belong together, or there is no
            engine for this machine.
        InputError: for an option that the backend does not honour.
    """
    spec = backend_spec(name, options)
    spec.check_options(options)
    backend = spec.open(artifact, options)
    manifest = artifact.manifest
    if spec.checks_quantized and manifest.precision != "fp32" and PARITY_FILE in manifest.files:
        _check_quantized(spec, backend, artifact, options)
    return backend


def _check_quantized(
    spec: BackendSpec, backend: Backend, artifact: Artifact, options: BackendOptions
) -> None:
    """Hold a backend to the artifact's reference; where it answers otherwise, close it."""
    try:
        reference = ParityReference.load(artifact)
        arithmetic: Arithmetic = "bf16" if options.precision == "bf16" else "own"
        check_parity(backend, reference, artifact, arithmetic=arithmetic)
    except BaseException as error:
        backend.close()
        if not isinstance(error, ParityError):
            raise
        raise BackendError(
            f"{spec.name} {spec.version} computes this {artifact.manifest.precision} graph "
            f"otherwise than it was made ({error}); use backend onnxruntime"
        ) from error
