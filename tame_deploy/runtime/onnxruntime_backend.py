"""ONNX Runtime: the backend that runs everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from tame_deploy.artifact import Artifact
from tame_deploy.errors import (
    BackendError,
    BackendNotInstalledError,
    DeviceError,
    IncompatibleArtifactError,
    InputError,
)
from tame_deploy.runtime.backend import BackendOptions
from tame_deploy.types import TensorSpec, check_feeds

try:
    import onnxruntime as ort
except ImportError:
    ort = None

__all__ = ["OnnxRuntimeBackend"]

MANIFEST_KEY = "tame.manifest"
_SEVERE_ONLY = 3


class OnnxRuntimeBackend:
    """Runs a graph, a file or its bytes, in an ONNX Runtime session."""

    def __init__(
        self,
        model: Path | bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        options: BackendOptions,
    ) -> None:
        if ort is None:
            raise BackendNotInstalledError(
                "backend onnxruntime is not installed: pip install 'tame-deploy[cpu]' "
                "(or 'tame-deploy[cuda]' for NVIDIA GPUs)"
            )
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._names = [spec.name for spec in self.outputs]
        self._session = _open_session(model, options)

    @classmethod
    def of_artifact(cls, artifact: Artifact, options: BackendOptions) -> OnnxRuntimeBackend:
        """Open an artifact's graph, checked to be the one that its manifest describes."""
        manifest = artifact.manifest
        backend = cls(artifact.model, manifest.inputs, manifest.outputs, options)
        _check_identity(backend._session, artifact)
        return backend

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name (see `Backend.run`)."""
        if self._session is None:
            raise BackendError("this backend is closed; open it again")
        check_feeds(self.inputs, feeds)
        try:
            values = self._session.run(self._names, dict(feeds))
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackendError(f"onnxruntime failed: {reason:.300}") from error
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def __enter__(self) -> OnnxRuntimeBackend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _open_session(model: Path | bytes, options: BackendOptions) -> Any:
    asked = list(options.providers)
    available = ort.get_available_providers()
    missing = [provider for provider in asked if provider not in available]
    if missing or not asked:
        raise DeviceError(
            f"provider {', '.join(missing) or 'list'} is not in this onnxruntime, which has "
            f"{', '.join(available)}; CUDA needs pip install 'tame-deploy[cuda]'"
        )
    settings = ort.SessionOptions()
    settings.log_severity_level = _SEVERE_ONLY
    if options.threads is not None:
        if options.threads < 1:
            raise InputError(f"threads is {options.threads}; expected at least 1")
        settings.intra_op_num_threads = options.threads
    try:
        session = ort.InferenceSession(model, settings, providers=asked)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = model if isinstance(model, Path) else "the graph"
        raise BackendError(f"onnxruntime cannot load {what}: {reason:.300}") from error
    obtained = session.get_providers()
    lost = [provider for provider in asked if provider not in obtained]
    if lost:
        # onnxruntime itself only warns and goes on without the device.
        raise DeviceError(
            f"provider {', '.join(lost)} was asked for and not obtained (running would use "
            f"{', '.join(obtained)}). Check the driver and its libraries, or leave the provider out"
        )
    return session


def _check_identity(session: Any, artifact: Artifact) -> None:
    found = session.get_modelmeta().custom_metadata_map.get(MANIFEST_KEY)
    if found != artifact.manifest.identity():
        raise IncompatibleArtifactError(
            f"{artifact.path}: model.onnx was not exported with this manifest.json "
            "(one of them was replaced or edited). Export the artifact again"
        )
