"""ONNX Runtime: the backend that runs everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tame_deploy.artifact.directory import Artifact
from tame_deploy.artifact.types import TensorSpec, check_feeds
from tame_deploy.closing import Closing
from tame_deploy.errors import (
    BackendError,
    BackendNotInstalledError,
    DeviceError,
    IncompatibleArtifactError,
)
from tame_deploy.runtime.backends.cores import threads_for
from tame_deploy.runtime.backends.onnxruntime.binding import BoundSession
from tame_deploy.runtime.backends.protocol import CPU, CUDA, BackendOptions
from tame_deploy.runtime.backends.tensorrt import cuda

try:
    import onnxruntime as ort
except ImportError:
    ort = None

__all__ = ["OnnxRuntimeBackend", "check_cuda_usable"]

MANIFEST_KEY = "tame.manifest"
_SEVERE_ONLY = 3
CPU_ONLY = (CPU,)


class OnnxRuntimeBackend(Closing):
    """Runs a graph, a file or its bytes, in an ONNX Runtime session.

    Without `integer_kernels`, float32's arithmetic on the codes runs layers with Q/DQ pairs.
    `float16` says that the graph computes in it.
    """

    max_batch: int | None = None

    def __init__(
        self,
        model: Path | bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        options: BackendOptions,
        *,
        integer_kernels: bool = True,
        float16: bool = False,
    ) -> None:
        if ort is None:
            raise BackendNotInstalledError(
                "backend onnxruntime is not installed: pip install 'tame-deploy[cpu]' "
                "(or 'tame-deploy[cuda]' for NVIDIA GPUs)"
            )
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._names = [spec.name for spec in self.outputs]
        asked = list(CPU_ONLY if options.providers is None else options.providers)
        _check_providers(asked)
        on_gpu = asked[:1] == [CUDA]
        self._session, captures = _open_session(
            model, _settings(options, integer_kernels, float16), options, asked
        )
        self._bound = (
            BoundSession(self._session, self.outputs, "cuda", options.device, captures=captures)
            if on_gpu
            else None
        )
        self.name = f"onnxruntime on {_place(asked[0])}"
        if on_gpu and options.cuda_graphs and not captures:
            self.name += ", without CUDA graphs"

    @classmethod
    def of_artifact(cls, artifact: Artifact, options: BackendOptions) -> OnnxRuntimeBackend:
        """Open an artifact's graph, checked to be the one that its manifest describes."""
        manifest = artifact.manifest
        float16 = "fp16" in manifest.precision
        backend = cls(artifact.model, manifest.inputs, manifest.outputs, options, float16=float16)
        _check_identity(backend._session, artifact)
        return backend

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name (see `Backend.run`)."""
        if self._session is None:
            raise BackendError("this backend is closed; open it again")
        check_feeds(self.inputs, feeds)
        try:
            if self._bound is not None:
                return self._bound.run(feeds)
            values = self._session.run(self._names, dict(feeds))
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackendError(f"onnxruntime failed: {reason:.300}") from error
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = self._bound = None


def check_cuda_usable(artifact: Artifact | None, options: BackendOptions) -> None:
    """Check that ONNX Runtime has CUDA here, and that an artifact is not made for CPUs.

    Raises:
        BackendNotInstalledError: if the installed one is for CPUs.
        DeviceError: without a driver or a GPU.
        IncompatibleArtifactError: for a graph that was quantized for CPUs.
    """
    if ort is None or CUDA not in ort.get_available_providers():
        raise BackendNotInstalledError(
            "it is not installed: pip install 'tame-deploy[cuda]' (in place of onnxruntime, "
            "which is for CPUs)"
        )
    cuda.probe(options.device)
    if artifact is not None and artifact.manifest.target in ("cpu", "cpu-vnni"):
        raise IncompatibleArtifactError(
            f"{artifact.path} is {artifact.manifest.precision} for CPUs"
        )


def _place(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _check_providers(asked: list[str]) -> None:
    available = ort.get_available_providers()
    missing = [provider for provider in asked if provider not in available]
    if missing or not asked:
        raise DeviceError(
            f"provider {', '.join(missing) or 'list'} is not in this onnxruntime, which has "
            f"{', '.join(available)}; CUDA needs pip install 'tame-deploy[cuda]'"
        )


def _settings(options: BackendOptions, integer_kernels: bool, float16: bool) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = _SEVERE_ONLY
    threads = threads_for(options.threads)
    if threads is not None:
        settings.intra_op_num_threads = threads
    if not integer_kernels:
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    if float16:
        # With layouts of the processor's own, ONNX Runtime 1.32 crashes on float16 graphs of
        # torchvision's ViT, where a Cast comes before a Transpose and a MatMul.
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return settings


def _open_session(
    model: Path | bytes, settings: Any, options: BackendOptions, asked: list[str]
) -> tuple[Any, bool]:
    """Return a session, and whether it captures CUDA graphs."""
    captures = options.cuda_graphs and asked[:1] == [CUDA]
    try:
        session = ort.InferenceSession(model, settings, _configured(asked, options, captures))
    except Exception as error:
        if captures:
            # It refuses graphs of which it keeps a part on the CPU; they run well without.
            fewer = replace(options, cuda_graphs=False)
            return _open_session(model, settings, fewer, asked)
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
    return session, captures


def _configured(asked: list[str], options: BackendOptions, captures: bool) -> list[Any]:
    """Return the providers with their settings; float32 is not to be TF32 by default."""
    on_cuda = {
        "device_id": str(options.device),
        "enable_cuda_graph": str(int(captures)),
        "use_tf32": "0",
    }
    return [(provider, on_cuda) if provider == CUDA else provider for provider in asked]


def _check_identity(session: Any, artifact: Artifact) -> None:
    found = session.get_modelmeta().custom_metadata_map.get(MANIFEST_KEY)
    if found != artifact.manifest.identity():
        raise IncompatibleArtifactError(
            f"{artifact.path}: model.onnx was not exported with this manifest.json "
            "(one of them was replaced or edited). Export the artifact again"
        )
