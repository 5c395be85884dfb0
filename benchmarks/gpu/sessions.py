"""Subjects on ONNX Runtime: CUDA with everything bound to the GPU, or the CPU in a smoke run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from candidate import Candidate, Opened
from graphs import NAMES, Graphs, feeds_for, output_shapes, specs_of
from place import Place

from tame_deploy.errors import BackendError, DeviceError
from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tame_deploy.runtime.backends.onnxruntime.binding import BoundSession
from tame_deploy.runtime.backends.protocol import CPU, CUDA, BackendOptions

_NO_INT8 = "ONNX Runtime's CUDA kernels compute between Q/DQ pairs in float: no INT8 is timed"
#: The name of the CUDA graph of the call on the GPU; BoundSession counts its own from 1.
_OWN_GRAPH = "1000"
_SEVERE_ONLY = 3


def session_subjects(
    graphs: Graphs, precisions: tuple[str, ...], pixels: np.ndarray
) -> list[Candidate]:
    """Return plain, fused and reference graph in each precision."""

    def opener(name: str, precision: str) -> Callable[[Place], Opened]:
        def open_it(place: Place) -> Opened:
            if precision.startswith("int8"):
                raise BackendError(_NO_INT8)
            path = graphs.find(name, precision)
            if place.device is None:
                return _on_cpu(path, pixels)
            return _on_cuda(path, pixels, place, tf32=precision == "tf32")

        return open_it

    return [
        Candidate("onnxruntime", precision, name, opener(name, precision))
        for precision in precisions
        for name in NAMES
    ]


def _on_cpu(path: Path, pixels: np.ndarray) -> Opened:
    inputs, outputs = specs_of(path)
    feeds = feeds_for(inputs, pixels)
    # One thread: idle threads of a session spin, and slow its rivals down.
    backend = OnnxRuntimeBackend(path, inputs, outputs, BackendOptions(threads=1))
    return Opened(lambda: backend.run(feeds), lambda: backend.run(feeds), backend.close)


def _on_cuda(path: Path, pixels: np.ndarray, place: Place, *, tf32: bool) -> Opened:
    """Open a session that replays CUDA graphs, or, where it refuses, one that does not."""
    if CUDA not in ort.get_available_providers():
        raise DeviceError(
            f"this onnxruntime has {', '.join(ort.get_available_providers())} and not {CUDA}"
        )
    problems = []
    for captures in (True, False):
        runs = None
        try:
            runs = _CudaRuns(path, pixels, place, tf32=tf32, captures=captures)
            for _ in range(3):  # the capture comes with the second
                runs.on_device()
                runs.from_host()
            place.synchronize()
            facts = {"cuda_graphs": captures, "refused_graphs": problems[:1] or None}
            return Opened(runs.on_device, runs.from_host, runs.close, facts)
        except Exception as error:  # onnxruntime's exceptions share no base class
            problems.append(" ".join(str(error).split())[:200])
            if runs is not None:
                runs.close()
    raise BackendError(problems[-1])


class _CudaRuns:
    """A session on the place's stream with two sets of tensors: its own, and BoundSession's."""

    def __init__(
        self, path: Path, pixels: np.ndarray, place: Place, *, tf32: bool, captures: bool
    ) -> None:
        inputs, outputs = specs_of(path)
        index = place.gpu().index
        settings = ort.SessionOptions()
        settings.log_severity_level = _SEVERE_ONLY
        provider = {
            "device_id": str(index),
            "use_tf32": str(int(tf32)),
            "enable_cuda_graph": str(int(captures)),
            "user_compute_stream": str(place.stream),
        }
        self._session: Any = ort.InferenceSession(path, settings, providers=[(CUDA, provider), CPU])
        if CUDA not in self._session.get_providers():
            raise DeviceError(f"{CUDA} was asked for and not obtained; check the driver")
        self._feeds = feeds_for(inputs, pixels)
        self._binding = self._session.io_binding()
        self._kept = []
        for name, array in self._feeds.items():
            value = ort.OrtValue.ortvalue_from_numpy(array, "cuda", index)
            self._binding.bind_ortvalue_input(name, value)
            self._kept.append(value)
        shapes = output_shapes(outputs, inputs, self._feeds)
        for spec in outputs:
            value = ort.OrtValue.ortvalue_from_shape_and_type(
                list(shapes[spec.name]), np.dtype(spec.dtype), "cuda", index
            )
            self._binding.bind_ortvalue_output(spec.name, value)
            self._kept.append(value)
        self._settings = ort.RunOptions()
        # Only queued: the events say when it is done.
        self._settings.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if captures:
            self._settings.add_run_config_entry("gpu_graph_id", _OWN_GRAPH)
        # What `OnnxRuntimeBackend.run` does on CUDA.
        self._bound: Any = BoundSession(self._session, outputs, "cuda", index, captures=captures)

    def on_device(self) -> None:
        self._session.run_with_iobinding(self._binding, self._settings)

    def from_host(self) -> Any:
        return self._bound.run(self._feeds)

    def close(self) -> None:
        # Tensors before the session whose allocator made them.
        self._bound = self._binding = None
        self._kept = []
        self._session = None
