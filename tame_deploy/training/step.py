"""One step of training: pictures in, loss out; the map of a class at the price of that class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tame_deploy.model.frozen import frozen_copy
from tame_deploy.model.fused import Shares
from tame_deploy.model.head import resize_map
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.training.losses import LossConfig, LossTerms, map_losses
from tame_deploy.training.processes import gather_labels

__all__ = ["MaskedStep", "stretched"]

#: Keeps a flat map from dividing by zero, as `metrics.masking` does.
EPSILON = 1e-7


def stretched(maps: Tensor) -> Tensor:
    """Stretch each map (B, K, h, w) to [0, 1]: the min-max that AD and IC score it by."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=EPSILON)


class MaskedStep:
    """Computes the loss of a network's head on pictures (TAME, section III-B).

    The backbone runs twice, in eval mode, its weights untouched: on the pictures, without gradient,
    and on the pictures masked by their maps. Only the classes that the loss looks at get a map.
    """

    def __init__(self, network: ExplainedNetwork, config: LossConfig) -> None:
        self.network = network
        self.config = config
        image = network.backbone.image
        self.size = (image.height, image.width)
        self.shares = Shares(image)
        self.mean = torch.tensor(image.mean).view(1, -1, 1, 1)
        self.std = torch.tensor(image.std).view(1, -1, 1, 1)
        self.tap = network.tap.eval()
        self.masked_backbone: nn.Module = frozen_copy(network.classifier)
        self._sums = self._weight_sums()

    def to(self, device: torch.device) -> MaskedStep:
        """Move what is not the head's to a device."""
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        self.tap.to(device)
        self.network.backbone.module.to(device)
        self.masked_backbone.to(device)
        self._sums = self._weight_sums()
        return self

    def losses(
        self,
        pixels: Tensor,
        area_scale: float = 1.0,
        *,
        alone: bool = False,
        draws: Tensor | None = None,
        turns: Sequence[int] | None = None,
    ) -> tuple[LossTerms, Tensor]:
        """Return the loss and the classes that the classifier gives the pictures, int64 (B).

        Args:
            pixels: uint8 or uint16 (B, channels, H, W).
            area_scale: share of the area's weight in force.
            alone: look at own maps whatever the configuration, and at no other process.
            draws: float (B, classes) that choose among several labels of a picture (see `look`).
            turns: which of the shares each picture's mask keeps, as whole numbers (B) that go
                round; by default those of their places.
        """
        images = self.shares(pixels.float())
        features, labels = self.look(images, draws)
        if self.config.maps == "batch" and not alone:
            every, first = gather_labels(labels)
            maps = self.masks(features, every)  # (B, B', h, w)
            places = torch.arange(len(labels), device=labels.device)
            own = maps[places, places + first].unsqueeze(1)
        else:
            own = maps = self.masks(features, labels[:, None])
        turns = range(len(pixels)) if turns is None else turns
        masked = self.classify(images * self.kept(resize_map(own, self.size), turns))
        return map_losses(self.config, maps, masked, labels, area_scale, self.network.task), labels

    def masks(self, features: list[Tensor], class_ids: Tensor) -> Tensor:
        """Return maps in [0, 1], (B, K, h, w), of classes (K) or (B, K), as pictures are masked."""
        maps = self.network.head.class_maps(features, class_ids).float()
        return torch.sigmoid(maps) if self.config.mask == "sigmoid" else stretched(maps)

    def kept(self, masks: Tensor, turns: Sequence[int]) -> Tensor:
        """Return masks (B, 1, H, W) with all but the highest pixels at zero, `shares` by turn.

        No gradient says which pixels those are; it says how high they should be.
        """
        shares = self.config.shares
        if shares == (100.0,):
            return masks
        flat = masks.detach().flatten(1)
        removed = [round(flat.shape[1] * (1 - shares[turn % len(shares)] / 100)) for turn in turns]
        lowest = [
            one.kthvalue(min(count + 1, len(one))).values
            for one, count in zip(flat, removed, strict=True)
        ]
        return torch.where(masks >= torch.stack(lowest).view(-1, 1, 1, 1), masks, 0.0)

    @torch.no_grad()
    def look(self, images: Tensor, draws: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Return feature maps and predicted classes (B) of pictures in [0, 1].

        That is the likeliest class. Of a multi-label classifier it would be the commonest label in
        nearly every picture; with `draws` it is, of the labels that are at least as likely as not,
        the one with the highest number.
        """
        logits, outputs = self.network.look(self.normalised(images))
        likeliest = logits.argmax(1)
        if draws is None:
            return self.network.feature_maps(outputs), likeliest
        shown = (logits >= 0).scatter(1, likeliest[:, None], True)  # (B, classes)
        return self.network.feature_maps(outputs), draws.masked_fill(~shown, -1).argmax(1)

    def classify(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of pictures in [0, 1], differentiable in the pictures."""
        logits: Tensor = self.masked_backbone(self.normalised(images))
        return logits

    def normalised(self, images: Tensor) -> Tensor:
        """Return pictures in [0, 1] as the backbone takes them."""
        normalised = (images - self.mean) / self.std
        if normalised.device.type == "cpu":
            # Convolutions of processors are faster on channels last, and backward passes most.
            normalised = normalised.contiguous(memory_format=torch.channels_last)
        return normalised

    def assert_untouched(self) -> None:
        """Assert that the backbone is in eval mode and that nobody has written to its weights."""
        training = [n for n, m in self._frozen().named_modules() if m.training]
        assert not training, f"{training[:3]} of the backbone are in training mode"
        assert self._sums == self._weight_sums(), "a weight of the backbone has changed"

    def _weight_sums(self) -> list[float]:
        module = self._frozen()
        weights = [*module.parameters(), *module.buffers()]
        return [float(weight.detach().sum(dtype=torch.float64)) for weight in weights]

    def _frozen(self) -> nn.Module:
        """Return what training must leave as it is: the backbone, or it and its auxiliary."""
        return self.network.auxiliary or self.network.backbone.module
