"""The PyTorch network as a backend: what is said of a head before anything is exported."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from tame_deploy.artifact.manifest import GraphSpec
from tame_deploy.artifact.types import ImageSpec, InputKind, MapKind, TensorSpec, check_feeds
from tame_deploy.closing import Closing
from tame_deploy.errors import BackendError, DeviceError
from tame_deploy.model.fused import FusedNetwork
from tame_deploy.model.network import ExplainedNetwork

__all__ = ["TorchBackend"]


class TorchBackend(Closing):
    """Runs a network with selectable classes; `run` takes and gives what an exported graph does.

    Args:
        network: backbone and head.
        graph_input: "float32" takes normalised pictures exactly; "uint8" and "uint16" round as
            a deployed graph with such input does.
        device: where to run, "cpu" or "cuda".
        maps: how they are finished, as at export.

    Raises:
        DeviceError: if the device is not there.
    """

    max_batch: int | None = None

    def __init__(
        self,
        network: ExplainedNetwork,
        graph_input: InputKind = "float32",
        device: str = "cpu",
        maps: MapKind = "minmax",
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise DeviceError(
                "torch sees no CUDA device here; leave --device out to run on the CPU"
            )
        self.network = network
        self.name = f"PyTorch on {device}"
        self.image: ImageSpec = network.backbone.image.for_input(graph_input)
        classes = network.head.config.classes
        ranks = min(5, classes)
        fused = FusedNetwork(network, ranks=ranks, graph_input=graph_input, maps=maps).to(device)
        self.graph = GraphSpec("selectable", ranks, maps, opset=0, contrast=fused.contrasts)
        self._fused: FusedNetwork | None = fused
        self._device = device
        self._lock = threading.Lock()
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec("images", self.image.dtype, self.image.input_shape("batch")),
            TensorSpec("class_ids", "int64", ("batch", "k")),
        )
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec("logits", "float32", ("batch", classes)),
            TensorSpec("explained", "int64", ("batch", "k")),
            TensorSpec("maps", "float32", ("batch", "k", "height", "width")),
        )

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs by name (see `Backend.run`)."""
        if self._fused is None:
            raise BackendError("this backend is closed; open it again")
        check_feeds(self.inputs, feeds)
        images = _tensor(feeds["images"]).to(self._device)
        class_ids = _tensor(feeds["class_ids"]).to(self._device)
        try:
            # One at a time: the hooks that tap the layers would see the pictures of another thread.
            with self._lock, torch.inference_mode():
                values = self._fused(images, class_ids)
        except torch.OutOfMemoryError as error:
            raise BackendError(f"out of memory at batch size {len(images)}; lower it") from error
        names = [spec.name for spec in self.outputs]
        return {n: value.cpu().numpy() for n, value in zip(names, values, strict=True)}

    def close(self) -> None:
        """Let go of the network."""
        self._fused = None


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor; torch warns of memory that it may not write to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
