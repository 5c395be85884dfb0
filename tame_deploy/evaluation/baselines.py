"""Baseline methods: the CAM family from the grad-cam library, ReciproCAM, RISE, and noise."""

from __future__ import annotations

import contextlib
import difflib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from tame_deploy.errors import InputError
from tame_deploy.evaluation.evaluate import Method
from tame_deploy.metrics.evaluated_model import EvaluatedModel, evaluated_network
from tame_deploy.model.features import FeatureTap, as_map, probe_layers
from tame_deploy.model.folding import AskedClasses
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.model.recipro_cam import ScoreMaps
from tame_deploy.model.recipro_layer import find_masked_layer
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.picture.preprocess import as_input

__all__ = ["BASELINES", "CamMethod", "RandomMethod", "ReciproCamMethod", "Rise", "make_baseline"]

#: Names of the CAM methods and the library's classes for them.
_CAMS = {
    "grad-cam": "GradCAM",  # Selvaraju et al., ICCV 2017
    "grad-cam++": "GradCAMPlusPlus",  # Chattopadhyay et al., WACV 2018
    "layercam": "LayerCAM",  # Jiang et al., TIP 2021
    "score-cam": "ScoreCAM",  # Wang et al., CVPR Workshops 2020
    "ablation-cam": "AblationCAM",  # Desai and Ramaswamy, WACV 2020
}

#: Those that take one pass there and one back.
_BY_GRADIENT = ("grad-cam", "grad-cam++", "layercam")

BASELINES = ("tame-sigmoid", *_CAMS, "recipro-cam", "rise", "random")


def make_baseline(
    name: str,
    model: EvaluatedModel,
    network: ExplainedNetwork | None,
    *,
    cam_layer: str | None = None,
    rise_masks: int = 4000,
    batch_size: int = 16,
) -> Method:
    """Return a baseline method.

    Args:
        name: one of `BASELINES`.
        model: the classifier that is explained; RISE asks it.
        network: its PyTorch form, which the CAM family looks into.
        cam_layer: the module whose output CAMs weight; the head's last layer by default.
        rise_masks: how many masks RISE tries (its paper: 4000 to 8000).
        batch_size: pictures at a time.

    Raises:
        InputError: for an unknown name, a CAM without a PyTorch network or a module to look at, or
            ReciproCAM of a network without a layer that it can mask.
    """
    if name == "random":
        return RandomMethod()
    if name == "rise":
        return Rise(model, rise_masks, batch_size)
    if name == "tame-sigmoid" and network is not None:
        return SigmoidMaps(network)
    if name not in BASELINES:
        raise InputError(f"unknown method {name!r}; expected tame, {', '.join(BASELINES)}")
    if network is None:
        raise InputError(f"{name} needs the PyTorch network; name it with --backbone")
    if name == "recipro-cam":
        return ReciproCamMethod(network)
    return CamMethod(name, network, cam_layer, batch_size)


def _device_of(network: ExplainedNetwork) -> torch.device:
    return next(iter(network.parameters()), torch.empty(0)).device


class SigmoidMaps:
    """The head's maps as training masks with them: sigmoids, where the papers score map logits."""

    name = "tame-sigmoid"
    backward_passes = 0

    def __init__(self, network: ExplainedNetwork) -> None:
        self.forward_passes = 0
        backend = TorchBackend(network, device=str(_device_of(network)), maps="sigmoid")
        self._model = evaluated_network(backend)

    def explain(
        self, pixels: NDArray[np.float32], class_ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return sigmoid maps (B, h, w) (see `Method.explain`)."""
        self.forward_passes += len(pixels)
        images = as_input(pixels, self._model.image)
        return self._model.predictor.predict_one_class(images, class_ids).maps[:, 0]


class ReciproCamMethod:
    """ReciproCAM (Byun and Lee, CVPR Workshops 2024) on the last layer that can be masked."""

    name = "recipro-cam"
    backward_passes = 0

    def __init__(self, network: ExplainedNetwork) -> None:
        self.forward_passes = 0.0
        module, device = network.backbone.module, _device_of(network)
        module.cpu()  # where its layers are looked at
        try:
            found = find_masked_layer(network.backbone)
        finally:
            module.to(device)
        self._tap, self._copies = found.tap, found.copies
        self._passes = round(1 + found.passes, 2)
        self._maps = ScoreMaps(found.feature, network.answer)
        self._image = network.backbone.image.for_input("float32")

    @torch.no_grad()
    def explain(
        self, pixels: NDArray[np.float32], class_ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return map logits (B, h, w) (see `Method.explain`)."""
        self.forward_passes += len(pixels) * self._passes
        device = next(self._tap.parameters()).device
        images = torch.from_numpy(as_input(pixels, self._image)).to(device)
        scores = self._copies.to(device)(self._tap(images)[1])
        asked = AskedClasses(torch.from_numpy(class_ids).to(device)[:, None])
        maps = self._maps(scores, asked)
        found: NDArray[np.float32] = maps[:, 0].float().cpu().numpy()
        return found


class RandomMethod:
    """A map of uniform noise, 7x7, enlarged: what any method must beat."""

    name = "random"
    forward_passes = 0
    backward_passes = 0

    def __init__(self, seed: int = 0) -> None:
        self._generator = np.random.default_rng(seed)

    def explain(
        self, pixels: NDArray[np.float32], class_ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return noise (see `Method.explain`)."""
        del pixels  # whatever they are
        return self._generator.random((len(class_ids), 7, 7), np.float32)


class Rise:
    """RISE (Petsiuk et al., BMVC 2018): the mean of random masks, weighted by what they leave.

    Masks are random 7x7 cells, half of them on, enlarged and shifted by a random part of a cell.
    """

    name = "rise"
    backward_passes = 0

    def __init__(
        self, model: EvaluatedModel, masks: int, batch_size: int, *, cells: int = 7, seed: int = 0
    ) -> None:
        if masks < 1:
            raise InputError(f"--rise-masks is {masks}; expected at least 1")
        self.forward_passes = 0
        self._model, self._count, self._batch, self._cells = model, masks, batch_size, cells
        self._seed = seed

    def explain(
        self, pixels: NDArray[np.float32], class_ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return saliency (B, H, W) (see `Method.explain`)."""
        height, width = pixels.shape[1:3]
        total = np.zeros((len(pixels), height, width))
        weight = np.zeros((len(pixels), 1, 1))
        for masks in self._masks(height, width):
            for row, (picture, class_id) in enumerate(zip(pixels, class_ids, strict=True)):
                masked = picture[None] * masks[..., None]
                scores = self._model.probabilities(masked)[:, class_id]  # (M)
                total[row] += np.tensordot(scores, masks, axes=1)
                weight[row] += scores.sum()
                self.forward_passes += len(masks)
        return (total / np.maximum(weight, 1e-12)).astype(np.float32)

    def _masks(self, height: int, width: int) -> Iterator[NDArray[np.float32]]:
        """Yield float32 (M, height, width) masks in [0, 1], the same for every picture."""
        generator = np.random.default_rng(self._seed)
        cell = (-(-height // self._cells), -(-width // self._cells))
        size = ((self._cells + 1) * cell[1], (self._cells + 1) * cell[0])
        for start in range(0, self._count, self._batch):
            masks = []
            for _ in range(min(self._batch, self._count - start)):
                grid = (generator.random((self._cells + 1, self._cells + 1)) < 0.5).astype("f4")
                large = np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BILINEAR))
                top, left = generator.integers(0, cell)
                masks.append(large[top : top + height, left : left + width])
            yield np.stack(masks)


class CamMethod:
    """A method of the grad-cam library on one layer of the PyTorch backbone."""

    def __init__(
        self, name: str, network: ExplainedNetwork, layer: str | None, batch_size: int
    ) -> None:
        import pytorch_grad_cam

        self.name = name
        self.forward_passes = 0
        self.backward_passes = 0
        self._module = network.classifier
        self._binary = network.task == "binary"
        self._target, transform = _target(network, layer)
        self._batch_size = batch_size
        self._arguments: dict[str, Any] = {"reshape_transform": transform}
        if name == "ablation-cam":
            self._arguments["batch_size"] = batch_size
            if transform is not None:
                from pytorch_grad_cam.ablation_layer import AblationLayerVit

                self._arguments["ablation_layer"] = AblationLayerVit()
        self._build: Callable[..., Any] = getattr(pytorch_grad_cam, _CAMS[name])
        image = network.backbone.image
        self._mean = torch.tensor(image.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(image.std).view(1, -1, 1, 1)

    def explain(
        self, pixels: NDArray[np.float32], class_ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return class activation maps (B, H, W) (see `Method.explain`)."""
        images = (torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()) - self._mean) / self._std
        # Methods with a pass a channel keep the activations of each, so they take one at a time.
        many = len(images) if self.name in _BY_GRADIENT else 1
        maps = [
            self._explain(images[start : start + many], class_ids[start : start + many])
            for start in range(0, len(images), many)
        ]
        return np.nan_to_num(np.concatenate(maps))

    def _explain(self, images: Tensor, class_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        targets = [_target_of(int(class_id), binary=self._binary) for class_id in class_ids]
        # The library's hooks stay as long as its object does, and keep every pass's activations.
        with (
            self._counting(),
            contextlib.redirect_stderr(io.StringIO()),  # its own bars
            self._build(self._module, [self._target], **self._arguments) as cam,
        ):
            cam.batch_size = self._batch_size
            # The weights are frozen: gradients reach the layer only if the picture asks for them.
            images = images.detach().requires_grad_(cam.uses_gradients)
            maps: NDArray[np.float32] = cam(images, targets)
        return maps

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        def count(_module: nn.Module, _inputs: Any, logits: Tensor) -> None:
            self.forward_passes += len(logits)
            if logits.requires_grad:
                logits.register_hook(count_back)  # type: ignore[no-untyped-call]

        def count_back(gradient: Tensor) -> None:
            self.backward_passes += len(gradient)

        handle = self._module.register_forward_hook(count)
        try:
            yield
        finally:
            handle.remove()


def _target_of(class_id: int, *, binary: bool) -> Callable[[Tensor], Tensor]:
    """Return what CAMs explain: a class's logit; of a binary network, how far it is ahead.

    The logit of a binary network's first class is always 0, which nothing speaks for.
    """
    if binary:
        return lambda logits: logits[class_id] - logits[1 - class_id]
    return lambda logits: logits[class_id]


def _target(
    network: ExplainedNetwork, layer: str | None
) -> tuple[nn.Module, Callable[[Tensor], Tensor] | None]:
    """Return the module that CAMs look at, and what makes a map of its output."""
    if network.auxiliary is not None and layer is None:
        raise InputError(
            "CAMs look at the classifier's own layers, and this head reads those of the auxiliary "
            f"network {network.auxiliary.name}; name one of {network.backbone.name} with "
            f"--cam-layer (list them: tame-deploy layers {network.backbone.argument})"
        )
    feature = network.features[-1]
    modules: Mapping[str, nn.Module] = dict(network.backbone.module.named_modules())
    name = layer or feature.layer
    if name not in modules:
        near: Sequence[str] = difflib.get_close_matches(name, list(modules), 3, 0.5)
        raise InputError(
            f"CAMs need a module to look at, and {name} is none; name one with --cam-layer"
            + (f", such as {', '.join(near)}" if near else "")
        )
    if name != feature.layer or network.auxiliary is not None:
        tap = FeatureTap(network.backbone.module, [name]).eval()
        feature = probe_layers(tap, network.backbone.example, network.backbone.prefix_tokens)[0]
    if feature.arrangement == "channels-first":
        return modules[name], None
    return modules[name], lambda output: as_map(output, feature, "patch")
