"""OpenVINO: often the fastest on Intel and AMD CPUs."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
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
from tame_deploy.files import cache_directory
from tame_deploy.runtime.backends.cores import threads_for
from tame_deploy.runtime.backends.protocol import BackendOptions

__all__ = ["OpenVinoBackend", "computes_bfloat16"]

#: OpenVINO picks bfloat16 by itself where the CPU has it; here only who asks for it gets it.
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoBackend(Closing):
    """Runs a graph, a file or its bytes, on the CPU.

    Threads each take an inference request of a pool; in throughput mode these run side by side.
    """

    max_batch: int | None = None

    def __init__(
        self,
        model: Path | bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        options: BackendOptions,
    ) -> None:
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        core = _core()
        self._network = _read(core, model)
        self._compiled: Any = _compile(core, self._network, options)
        self._requests: queue.LifoQueue[Any] = queue.LifoQueue()
        wanted = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        for _ in range(max(wanted, options.streams)):
            self._requests.put(self._compiled.create_infer_request())
        found = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        self.name = f"openvino on CPU in {_words(found)}"

    @classmethod
    def of_artifact(cls, artifact: Artifact, options: BackendOptions) -> OpenVinoBackend:
        """Open an artifact's graph, checked to be the one that its manifest describes."""
        manifest = artifact.manifest
        backend = cls(artifact.model, manifest.inputs, manifest.outputs, options)
        place = ["framework", "tame.manifest"]
        network = backend._network
        found = str(network.get_rt_info(place).value) if network.has_rt_info(place) else None
        if found != manifest.identity():
            backend.close()
            raise IncompatibleArtifactError(
                f"{artifact.path}: model.onnx was not exported with this manifest.json "
                "(one of them was replaced or edited). Export the artifact again"
            )
        return backend

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name (see `Backend.run`)."""
        check_feeds(self.inputs, feeds)
        # numpy has two types of 64-bit integers that are equal, and OpenVINO knows one of them.
        contiguous = {
            name: np.ascontiguousarray(array).view(np.dtype(str(array.dtype)))
            for name, array in feeds.items()
        }
        with self._request() as request:
            try:
                found = request.infer(contiguous, share_inputs=True)
            except RuntimeError as error:
                raise BackendError(f"openvino failed: {_first_line(error)}") from error
            return {spec.name: np.array(found[spec.name]) for spec in self.outputs}

    @contextmanager
    def _request(self) -> Iterator[Any]:
        if self._compiled is None:
            raise BackendError("this backend is closed; open it again")
        request = self._requests.get()
        try:
            yield request
        finally:
            self._requests.put(request)

    def close(self) -> None:
        """Free the compiled graph."""
        self._compiled = self._network = None
        while not self._requests.empty():
            self._requests.get_nowait()


def computes_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 (AVX-512 BF16, AMX), as OpenVINO sees it.

    Raises:
        BackendNotInstalledError: without OpenVINO.
    """
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _core() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise BackendNotInstalledError(
            "backend openvino is not installed: pip install 'tame-deploy[openvino]'"
        ) from error
    return openvino.Core()


def _read(core: Any, model: Path | bytes) -> Any:
    try:
        if isinstance(model, Path):
            return core.read_model(model)
        # A file, because fewer operators are known to the reader of bytes (FusedConv is not).
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model)
            return core.read_model(path)
    except RuntimeError as error:
        what = model if isinstance(model, Path) else "the graph"
        raise BackendError(f"openvino cannot read {what}: {_first_line(error)}") from error


def _compile(core: Any, network: Any, options: BackendOptions) -> Any:
    precision = options.precision or "fp32"
    if precision == "bf16" and not computes_bfloat16():
        raise DeviceError("this CPU computes no bfloat16; leave precision out")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
        "PERFORMANCE_HINT": options.mode.upper(),
        # A graph that was compiled before is read from there, several times as fast.
        "CACHE_DIR": str(cache_directory() / "openvino"),
    }
    threads = threads_for(options.threads)
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        return core.compile_model(network, "CPU", settings)
    except RuntimeError as error:
        raise BackendError(f"openvino cannot compile the graph: {_first_line(error)}") from error


def _words(precision: str) -> str:
    return {"f32": "fp32"}.get(precision, precision)


def _first_line(error: BaseException) -> str:
    """OpenVINO's messages begin with the places in its source where they were passed on."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return f"{(told or lines or ['no reason was given'])[-1]:.300}"
