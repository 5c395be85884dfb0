"""ReciproCAM (Byun and Lee, CVPR Workshops 2024) and ViT-ReciproCAM: maps of any classifier.

Of the feature map of one layer there are as many masked copies as it has places. Each keeps one
place and its neighbours, and goes through the rest of the network; what it scores for a class is
that class's map at that place. Nothing is trained, and nothing goes backwards.

The rest of a network is run by a hook that puts the copies in place of what the layer gives out,
so no library's structure need be known. The picture that the network is called with does not
matter then: what comes before the layer is dead code, which the exporter removes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tame_deploy.artifact.types import HeadConfig
from tame_deploy.model.folding import AskedClasses
from tame_deploy.model.geometry import FeatureMap
from tame_deploy.model.head import map_size, resize_map
from tame_deploy.model.outputs import read_logits, replace_layer
from tame_deploy.model.task import Answer

__all__ = ["MaskedCopies", "ReciproCam", "ScoreMaps", "run_rest"]

#: What is left of the neighbours along one axis, in quarters (a Gaussian, as in the paper).
_GAUSSIAN = {-1: 1, 0: 2, 1: 1}


def run_rest(module: nn.Module, layer: str, outputs: Tensor, picture: Tensor) -> Tensor:
    """Return what a network makes of other outputs (M, …) of one of its layers, (M, classes).

    Args:
        module: the network.
        layer: the name of one of its modules.
        outputs: put in place of what that gives out.
        picture: any, of the network's size; (1, channels, H, W).
    """

    def hook(_part: nn.Module, _inputs: object, output: object) -> object:
        return replace_layer(output, outputs)

    handle = module.get_submodule(layer).register_forward_hook(hook)
    try:
        logits = read_logits(module(picture))
    finally:
        handle.remove()
    return logits[:, None] if logits.ndim == 1 else logits  # of one logit each


class MaskedCopies(nn.Module):
    """Masked copies of a layer's output, and what the rest of the network scores for each.

    Of tokens, a copy keeps those before the patches, and is shortened to a window of 3x3 patches
    (at the border some come twice) where `windows` says that the rest takes so few: that is as
    cheap as masking is dear. Weights would be undone there by the next layer norm, so it has none.
    """

    masks: Tensor
    window: Tensor

    def __init__(
        self, module: nn.Module, feature: FeatureMap, picture: Tensor, *, windows: bool
    ) -> None:
        super().__init__()
        self.module = [module]  # in a list, because it is the backbone's, and no part of this one
        self.feature, self.windows = feature, windows
        self.count = feature.height * feature.width
        self.picture_shape = (1, *picture.shape[1:])
        if windows:
            self.register_buffer("window", _windows(feature), persistent=False)
        else:
            self.register_buffer("masks", _masks(feature), persistent=False)

    def forward(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the scores (B * N, outputs) of N copies a picture, alone in a list.

        Args:
            outputs: what the layer gave out, (B, …), alone in a list.
        """
        picture = outputs[0].new_zeros(self.picture_shape)
        copies = self.copies(outputs[0])
        return [run_rest(self.module[0], self.feature.layer, copies, picture)]

    def copies(self, output: Tensor) -> Tensor:
        """Return the copies (B * N, …) of what the layer gave out, (B, …)."""
        if not self.windows:
            # Contiguous, lest the exporter spells out the strides of what pools them.
            return (output[:, None] * self.masks).flatten(0, 1).contiguous()
        before = self.feature.prefix_tokens
        kept = output[:, before:].index_select(1, self.window)  # (B, N * 9, C)
        kept = kept.reshape(output.shape[0] * self.count, -1, output.shape[2])
        if not before:
            return kept
        prefix = output[:, None, :before].expand(-1, self.count, -1, -1).flatten(0, 1)
        return torch.cat([prefix, kept], dim=1)


def _masks(feature: FeatureMap) -> Tensor:
    """Return what copies are multiplied with, float32 (1, N, …), shaped as the layer's output."""
    height, width = feature.height, feature.width
    masks = torch.zeros(height * width, height, width)
    for row in range(height):
        for column in range(width):
            for down, high in _GAUSSIAN.items():
                for right, wide in _GAUSSIAN.items():
                    y, x = row + down, column + right
                    if 0 <= y < height and 0 <= x < width:
                        masks[row * width + column, y, x] = high * wide / 16
    if feature.arrangement == "channels-first":
        return masks[None, :, None]
    if feature.arrangement == "channels-last":
        return masks[None, :, :, :, None]
    prefix = torch.ones(len(masks), feature.prefix_tokens)
    return torch.cat([prefix, masks.flatten(1)], dim=1)[None, :, :, None]


def _windows(feature: FeatureMap) -> Tensor:
    """Return which patches the windows are made of, int64 (N * 9); those at the border twice."""
    rows, columns = torch.arange(feature.height), torch.arange(feature.width)
    around = torch.arange(-1, 2)
    down = (rows[:, None] + around).clamp(0, feature.height - 1)  # (h, 3)
    right = (columns[:, None] + around).clamp(0, feature.width - 1)  # (w, 3)
    return (down[:, None, :, None] * feature.width + right[None, :, None, :]).flatten()


class ScoreMaps(nn.Module):
    """The tail: scores of copies, in the order of their places, to the maps that are asked for."""

    def __init__(self, feature: FeatureMap, answer: Answer) -> None:
        super().__init__()
        self.size = (feature.height, feature.width)
        self.answer = answer

    def forward(self, scores: Sequence[Tensor], asked: AskedClasses | None) -> Tensor:
        """Return map logits, float (B, K, h, w), of the classes asked for.

        Args:
            scores: of the copies, (B * N, outputs), alone in a list.
            asked: the classes, or None for every class in order.
        """
        height, width = self.size
        logits = self.answer(scores[0]) if self.answer.changes else scores[0]
        if self.answer.task == "binary":  # against and for: the first logit is 0, which is no map
            logits = logits - logits.flip(1)
        maps = logits.reshape(-1, height * width, logits.shape[1]).mT  # (B, classes, N)
        if asked is not None:
            maps = asked.pick(maps)
        return resize_map(maps.reshape(*maps.shape[:2], height, width), map_size(height, width))


class ReciproCam(nn.Module):
    """A head without weights: the rest of the network scores masked copies of one layer's output.

    Where an `AttentionHead` takes feature maps, this takes the layer's output as it is, since
    tokens before the patches belong to every copy.
    """

    def __init__(self, config: HeadConfig, copies: MaskedCopies, answer: Answer) -> None:
        super().__init__()
        self.config = config
        self.copies: MaskedCopies = copies
        self.maps: ScoreMaps = ScoreMaps(copies.feature, answer)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return map logits of every class, float (B, classes, h, w); see `MaskedCopies`."""
        maps: Tensor = self.maps(self.copies(outputs), None)
        return maps

    def class_maps(self, outputs: Sequence[Tensor], class_ids: Tensor) -> Tensor:
        """Return map logits of chosen classes, float (B, K, h, w).

        Args:
            outputs: as of `forward`.
            class_ids: int64 (K), the same classes for every picture, or (B, K), each its own.
        """
        each = class_ids.expand(outputs[0].shape[0], -1)
        maps: Tensor = self.maps(self.copies(outputs), AskedClasses(each))
        return maps
