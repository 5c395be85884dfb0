"""Subjects in PyTorch: the classifier, TAME as published, eager and compiled, and Grad-CAM.

TAME here computes every class's map at full width and keeps one. Its layers are nodes of a traced
graph, not hooks, so that torch.compile sees it whole. Weights are channels last, as the pictures
are, and cuDNN chooses its algorithms by trial: what a careful user would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from candidate import Candidate, Opened
from fusion import Plain
from place import Place
from torch import Tensor, nn

from tame_deploy.errors import DeviceError
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.fused import Finish, Preprocess
from tame_deploy.model.network import ExplainedNetwork, HeadRequest, build_network

TORCH_PRECISIONS = ("fp32", "tf32", "fp16")


class Tame(nn.Module):
    """The head as published: all branches upsampled, all class maps, the predicted one kept."""

    def __init__(self, network: ExplainedNetwork) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import (
            create_feature_extractor,
            get_graph_node_names,
        )

        module = network.backbone.module
        self.layers = [feature.layer for feature in network.features]
        wanted = {layer: layer for layer in self.layers}
        wanted[get_graph_node_names(module)[1][-1]] = "logits"
        self.preprocess = Preprocess(network.backbone.image)
        self.backbone = create_feature_extractor(module, wanted)
        self.head = network.head
        self.finish = Finish("minmax")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.backbone(self.preprocess(images))
        logits = found["logits"]  # (B, classes)
        maps = self.head([found[layer] for layer in self.layers])  # (B, classes, h, w)
        chosen = logits.argmax(1)[:, None, None, None].expand(-1, 1, *maps.shape[2:])
        return logits, self.finish(maps.gather(1, chosen))


class GradCam(nn.Module):
    """Grad-CAM of the likeliest class by the grad-cam library, forward and backward.

    The library copies activations and gradients to the host and makes the map there.
    """

    def __init__(self, network: ExplainedNetwork) -> None:
        super().__init__()
        from pytorch_grad_cam import GradCAM

        self.preprocess = Preprocess(network.backbone.image)
        self.build = GradCAM
        self.module = network.backbone.module
        self.target = self.module.get_submodule(network.features[-1].layer)
        self.cam: Any = None

    def forward(self, images: Tensor) -> Any:
        if self.cam is None:
            self.cam = self.build(self.module, [self.target])
        with torch.enable_grad():
            # The weights are frozen: gradients reach the layer only if the picture asks for them.
            pixels = self.preprocess(images).requires_grad_(True)
            maps = self.cam(pixels, None)
        return self.cam.outputs.detach(), maps

    def release(self) -> None:
        """Take the library's hooks away, and what they hold."""
        if self.cam is not None:
            self.cam.activations_and_grads.release()
            self.cam = None


def torch_subjects(
    backbone: str, precisions: tuple[str, ...], pixels: np.ndarray, compiler: dict[str, Any]
) -> list[Candidate]:
    """Return the PyTorch candidates.

    Args:
        backbone: its name.
        precisions: those that are not PyTorch's are left out.
        pixels: uint8 (B, H, W, 3).
        compiler: arguments of torch.compile.
    """
    found = []
    for precision in (one for one in precisions if one in TORCH_PRECISIONS):
        for backend, name, build in (
            ("torch", "plain", Plain),
            ("torch", "reference", Tame),
            ("torch", "grad-cam", GradCam),
            ("torch-compile", "plain", Plain),
            ("torch-compile", "reference", Tame),
        ):
            settings = compiler if backend == "torch-compile" else None
            opener = _opener(backbone, build, precision, pixels, settings)
            found.append(Candidate(backend, precision, name, opener))
    return found


def _opener(
    backbone: str,
    build: Callable[[ExplainedNetwork], nn.Module],
    precision: str,
    pixels: np.ndarray,
    compiler: dict[str, Any] | None,
) -> Callable[[Place], Opened]:
    def open_it(place: Place) -> Opened:
        if place.device is not None and not torch.cuda.is_available():
            raise DeviceError(f"torch {torch.__version__} sees no CUDA device")
        network = build_network(
            load_backbone(BackboneRequest(backbone, "random")), HeadRequest("random")
        )
        module = build(network).eval().requires_grad_(False).to(place.torch_device)
        module = module.to(memory_format=torch.channels_last)
        del network
        run = _runner(module, compiler)
        images = torch.from_numpy(pixels).to(place.torch_device)
        around = _surroundings(place, precision, inference=not isinstance(module, GradCam))

        def on_device() -> Any:
            with around():
                return run(images)

        def from_host() -> Any:
            with around():
                found = run(torch.from_numpy(pixels).to(place.torch_device))
                found = found if isinstance(found, tuple) else (found,)
                return [one.cpu().numpy() if isinstance(one, Tensor) else one for one in found]

        def close() -> None:
            if isinstance(module, GradCam):
                module.release()
            if compiler is not None:
                torch._dynamo.reset()  # else it may hold on to weights; candidates close together

        return Opened(on_device, from_host, close)

    return open_it


def _runner(module: nn.Module, compiler: dict[str, Any] | None) -> Callable[[Tensor], Any]:
    if compiler is None:
        return module
    # Every precision and every opening is a compilation of the same code.
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.accumulated_recompile_limit = 4096
    return torch.compile(module, dynamic=False, fullgraph=True, **compiler)


@cache
def _torch_stream(address: int) -> Any:
    return torch.cuda.ExternalStream(address)


def _surroundings(place: Place, precision: str, *, inference: bool) -> Callable[[], Any]:
    """Return what a call runs in: arithmetic, stream, and no gradients where none are needed."""
    kind = torch.device(place.torch_device).type

    @contextmanager
    def around() -> Iterator[None]:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        stream = nullcontext() if kind == "cpu" else torch.cuda.stream(_torch_stream(place.stream))
        half = torch.autocast(kind, torch.float16, enabled=precision == "fp16")
        with stream, half, torch.inference_mode(inference):
            yield

    return around
