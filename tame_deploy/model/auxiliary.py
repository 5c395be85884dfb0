"""P-TAME: the head reads a small auxiliary network instead of the classifier that it explains.

For classifiers whose inside cannot be tapped. The classifier gives the logits alone; the layers
that maps are made of are another, frozen network's, which sees the same picture (P-TAME, IEEE OJSP
2025).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tame_deploy.errors import InputError
from tame_deploy.model.backbones import PAPER_LAYERS, Backbone, BackboneRequest, load_backbone
from tame_deploy.model.backbones.agreement import check_channels
from tame_deploy.model.download import Progress
from tame_deploy.model.features import FeatureTap, run_backbone, unwrapped
from tame_deploy.model.head_checkpoint import AuxiliaryIdentity, HeadCheckpoint
from tame_deploy.model.outputs import read_logits

__all__ = ["AuxiliaryTap", "load_auxiliary", "usual_layers"]

#: The paper's auxiliary network, and its layers there.
_LAYERS = {"resnet18": ("layer1", "layer2", "layer3", "layer4")}


class AuxiliaryTap(FeatureTap):
    """A classifier that gives out its logits, beside an auxiliary network that gives out layers.

    To whoever taps, it is a `FeatureTap`: `layers`, `backbone` and `prefix_tokens` are those of the
    auxiliary network. That takes the classifier's pictures, of the same size, normalised anew for
    its own mean and standard deviation; of a grey picture it gets the channel three times.

    Attributes:
        classifier: the network that is explained.
        name: of the auxiliary network.
        source: where its weights are from.
        sha256: of its weights.

    Raises:
        InputError: if a layer does not exist.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: Backbone, auxiliary: Backbone, layers: Sequence[str]) -> None:
        super().__init__(auxiliary.module, layers)
        self.classifier = unwrapped(backbone.module)
        self.name, self.source = auxiliary.name, auxiliary.source
        self.sha256 = state_sha256(auxiliary.module)
        given, taken = (
            torch.tensor([image.mean, image.std], dtype=torch.float64)[:, None, :, None, None]
            for image in (backbone.image, auxiliary.image)
        )  # each mean and standard deviation, (2, 1, channels, 1, 1)
        # One channel by three factors is three channels: that is how a grey picture becomes RGB.
        self.register_buffer("scale", (given[1] / taken[1]).float())
        self.register_buffer("shift", ((given[0] - taken[0]) / taken[1]).float())
        same = (backbone.image.mean, backbone.image.std)
        self.normalises_anew = same != (auxiliary.image.mean, auxiliary.image.std)

    @property
    def identity(self) -> AuxiliaryIdentity:
        """What a head that was trained on these layers must be told of them."""
        return AuxiliaryIdentity(self.name, self.sha256)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the classifier's logits (B, classes) and the auxiliary layers' raw outputs.

        Args:
            images: float32 (B, channels, H, W), normalised for the classifier.
        """
        logits = read_logits(self.classifier(images))
        taken = images * self.scale + self.shift if self.normalises_anew else images
        return logits, super().forward(taken)[1]


def state_sha256(module: nn.Module) -> str:
    """Return the sha256 of a network's weights and statistics: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def usual_layers(auxiliary: Backbone) -> tuple[str, ...] | None:
    """Return the layers that P-TAME reads of an auxiliary network, or the papers' of it."""
    return _LAYERS.get(auxiliary.name, PAPER_LAYERS.get(auxiliary.name))


def load_auxiliary(
    backbone: Backbone,
    name: str | None,
    weights: str | None,
    seed: int,
    checkpoint: HeadCheckpoint | None,
    progress: Progress | None,
) -> Backbone | None:
    """Return the auxiliary network that a head reads; None if it reads the classifier itself.

    Args:
        backbone: the classifier.
        name: of the auxiliary network, or None to read it off the head.
        weights: as `BackboneRequest.weights`; None is "default".
        seed: of random weights.
        checkpoint: the head, or None if it is to be a new one.
        progress: told how a download goes.

    Raises:
        InputError: if the head is for another auxiliary network or for none, its weights are not
            those that the head was trained on, or it cannot take the classifier's pictures.
        DownloadError: if published weights cannot be had.
    """
    needed = checkpoint.auxiliary if checkpoint is not None else None
    if checkpoint is not None and needed is None and name is not None:
        raise InputError(
            "the head reads the classifier's own layers, not an auxiliary network's; leave "
            "--auxiliary out, or take a head that was trained with one"
        )
    asked = name or (needed.name if needed is not None else None)
    if asked is None:
        if weights is not None:
            raise InputError("--auxiliary-weights has no meaning without --auxiliary")
        return None
    size = (backbone.image.height, backbone.image.width)
    request = BackboneRequest(asked, weights or "default", image_size=size, seed=seed)
    auxiliary = load_backbone(request, progress)
    _check_pictures(backbone, auxiliary)
    if needed is not None:
        _check_identity(auxiliary, needed)
    return auxiliary


def _check_pictures(backbone: Backbone, auxiliary: Backbone) -> None:
    check_channels(auxiliary)
    given, taken = backbone.image.channels, auxiliary.image.channels
    if given not in (1, taken):
        raise InputError(
            f"{backbone.name} takes pictures of {given} channels, and the auxiliary network "
            f"{auxiliary.name} of {taken}; expected as many, or a classifier of grey pictures"
        )
    try:
        run_backbone(auxiliary.module, auxiliary.example)
    except InputError as error:
        raise InputError(f"the auxiliary network {auxiliary.name}: {error}") from error


def _check_identity(auxiliary: Backbone, needed: AuxiliaryIdentity) -> None:
    if auxiliary.name != needed.name:
        raise InputError(
            f"the head reads the auxiliary network {needed.name}, not {auxiliary.name}; leave "
            "--auxiliary out"
        )
    found = state_sha256(auxiliary.module)
    if found != needed.sha256:
        raise InputError(
            f"the weights of the auxiliary network {needed.name} ({auxiliary.source.source}) have "
            f"sha256 {found[:16]}…; the head was trained on {needed.sha256[:16]}…. Say with "
            "--auxiliary-weights where those are"
        )
