"""ONNX Runtime with its tensors bound to a device: no hidden copies, and replayed CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.types import TensorSpec

try:
    import onnxruntime as ort
except ImportError:
    ort = None

__all__ = ["BoundSession"]

#: Sizes that keep their tensors, and their CUDA graph, on the device.
_MOST_KEPT = 8
_NO_GRAPH = -1


@dataclass(frozen=True)
class _Bound:
    """The tensors of one size on the device, and the name of its CUDA graph."""

    binding: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    graph: int


class BoundSession:
    """Runs a session whose tensors stay where they are, which CUDA graphs need.

    Args:
        session: of ONNX Runtime.
        outputs: of the graph; their free sizes are named as the inputs' are.
        place: "cuda" or "cpu".
        device: number of the GPU.
        captures: whether the session replays CUDA graphs.
    """

    def __init__(
        self,
        session: Any,
        outputs: Sequence[TensorSpec],
        place: str,
        device: int,
        *,
        captures: bool,
    ) -> None:
        self._session = session
        self._outputs = tuple(outputs)
        self._place, self._device = place, device
        self._captures = captures
        self._kept: dict[tuple[tuple[int, ...], ...], _Bound] = {}
        # Bound tensors belong to one call at a time.
        self._lock = threading.Lock()
        self._symbols = {value.name: value.shape for value in session.get_inputs()}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name."""
        with self._lock:
            bound = self._bound(feeds)
            for name, array in feeds.items():
                bound.inputs[name].update_inplace(np.ascontiguousarray(array))
            settings = ort.RunOptions()
            if self._captures:
                settings.add_run_config_entry("gpu_graph_id", str(bound.graph))
            self._session.run_with_iobinding(bound.binding, settings)
            # A copy: the next run writes the same memory.
            return {name: np.array(value.numpy()) for name, value in bound.outputs.items()}

    def _bound(self, feeds: Mapping[str, NDArray[Any]]) -> _Bound:
        key = tuple(array.shape for array in feeds.values())
        if key in self._kept:
            return self._kept[key]
        keep = len(self._kept) < _MOST_KEPT
        bound = self._bind(feeds, len(self._kept) + 1 if keep else _NO_GRAPH)
        if keep:
            self._kept[key] = bound
        return bound

    def _bind(self, feeds: Mapping[str, NDArray[Any]], graph: int) -> _Bound:
        binding = self._session.io_binding()
        sizes: dict[str, int] = {}
        inputs, outputs = {}, {}
        for name, array in feeds.items():
            sizes.update(zip(map(str, self._symbols[name]), array.shape, strict=True))
            inputs[name] = self._allocate(array.shape, array.dtype)
            binding.bind_ortvalue_input(name, inputs[name])
        for spec in self._outputs:
            shape = tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)
            outputs[spec.name] = self._allocate(shape, np.dtype(spec.dtype))
            binding.bind_ortvalue_output(spec.name, outputs[spec.name])
        return _Bound(binding, inputs, outputs, graph)

    def _allocate(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_shape_and_type(
            list(shape), dtype, self._place, self._device
        )
