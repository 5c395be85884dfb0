"""Whether a backbone answers the same twice and in company, and its maps lie where things are.

No comparison of a graph with PyTorch can tell the latter: both would be wrong alike.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.features import FeatureTap, as_map, run_backbone
from tame_deploy.model.geometry import FeatureMap

__all__ = ["Locality", "check_sound", "measure_locality", "mosaic"]

log = logging.getLogger(__name__)

#: Below this, the places of a map do not follow the picture: well between those of networks that
#: keep rows and columns, which are near 1, and those of tokens in another order, which are near 0.
LEAST_SCORE = 0.65
#: Below this, places depend on the whole picture nearly alike, and the score means little.
LEAST_STRENGTH = 0.25
#: What float32 may make of the same picture, as a share of what a layer gives out.
_ROUNDING = 1e-5
#: So few places settle nothing: a map must have four rows and columns.
_LEAST_PLACES = 8
#: Colours of a mosaic change so many times from border to border.
_CELLS = 28


@dataclass(frozen=True)
class Locality:
    """Whether the places of a layer's map follow the picture, in the worse of both directions.

    Attributes:
        layer: its name.
        score: 1 if every place follows the half of the picture that it lies in, -1 if it follows
            the other, 0 if it follows either; in between, weighed by how much they do.
        strength: how much more places follow one half than the other, 0 to 1.
    """

    layer: str
    score: float
    strength: float

    @property
    def is_scrambled(self) -> bool:
        """Whether places follow parts of the picture, but not those they lie in."""
        return self.score < LEAST_SCORE and self.strength >= LEAST_STRENGTH


def check_sound(tap: FeatureTap, features: Sequence[FeatureMap], image: ImageSpec) -> None:
    """Check that a backbone is not random, and that its maps move with the picture.

    Raises:
        InputError: naming what differs, or the layer whose places are not those of the picture.
    """
    _check_repeatable(tap, image)
    for found in measure_locality(tap, features, image):
        if found.is_scrambled:
            raise InputError(
                f"layer {found.layer} does not lie over the picture: where the picture changes, "
                f"its map changes elsewhere (score {found.score:.2f}, expected 1). Its values are "
                "in another order than rows and columns, or more of its tokens come before the "
                "patches; take other --layers, or say how many with --prefix-tokens"
            )
        if found.score < LEAST_SCORE:
            log.warning(
                "each place of layer %s follows the whole picture (score %.2f, strength %.2f); "
                "maps may not show where things are",
                found.layer,
                found.score,
                found.strength,
            )


@torch.no_grad()
def _check_repeatable(tap: FeatureTap, image: ImageSpec) -> None:
    one, other = mosaic(image, 0), mosaic(image, 1)
    first = run_backbone(tap, one)
    what = _difference(tap, first, tap(one))
    if what:
        raise InputError(
            f"two passes of PyTorch over the same picture differ: {what}. Something in the "
            "backbone is random though it is in eval mode, such as dropout that is always on "
            "(functional.dropout without training=self.training)"
        )
    logits, outputs = run_backbone(tap, torch.cat([one, other]))
    for layer, output in zip(tap.layers, outputs, strict=True):
        if len(output) != 2:
            raise InputError(
                f"layer {layer} gives out {len(output)} of 2 pictures: the backbone takes them one "
                "by one in a loop, or mixes them; it must take a batch as a whole"
            )
    what = _difference(tap, first, (logits[:1], [output[:1] for output in outputs]))
    if what:
        raise InputError(
            f"PyTorch answers otherwise when another picture is in the batch: {what}. Something "
            "in the backbone mixes pictures, such as a mean or a maximum over the whole batch, or "
            "batch norm in training mode; a server could not batch requests"
        )


def _difference(
    tap: FeatureTap, first: tuple[Tensor, list[Tensor]], again: tuple[Tensor, list[Tensor]]
) -> str:
    """Return what differs beyond rounding between what a tap gave out, or an empty text."""
    names = ["logits", *(f"the outputs of {layer}" for layer in tap.layers)]
    pairs = zip((first[0], *first[1]), (again[0], *again[1]), strict=True)
    for name, (one, other) in zip(names, pairs, strict=True):
        if one.shape != other.shape:
            return f"{name} have another shape"
        difference = float((one - other).abs().max())
        if difference > 1e-3 * float(one.abs().max()):
            return f"{name}, by {difference:.2g}"
    return ""


@torch.no_grad()
def measure_locality(
    tap: FeatureTap, features: Sequence[FeatureMap], image: ImageSpec
) -> list[Locality]:
    """Return for each layer whether its places follow what lies there in the picture.

    Two pictures are put together of the halves of two others, once side by side and once one above
    the other. Each place of a map must be nearer to the map of the picture from which its half
    comes. That is fair to random weights, which keep places apart as trained ones do, and to
    position embeddings and whatever mixes all places, which pull to both pictures alike. It sees
    what puts places into another half; neighbours that change places it does not.
    """
    one, other = mosaic(image, 0), mosaic(image, 1)

    def maps(images: Tensor) -> list[Tensor]:
        outputs = tap(images)[1]
        return [as_map(o, f, "patch").double() for o, f in zip(outputs, features, strict=True)]

    whole = [maps(one), maps(other)]
    seen = {
        axis: [*whole, maps(_joined(one, other, axis)), maps(_joined(other, one, axis))]
        for axis in (2, 3)
    }
    return [
        Locality(
            feature.layer,
            *min(_agreement([each[index] for each in four], axis) for axis, four in seen.items()),
        )
        for index, feature in enumerate(features)
    ]


def _agreement(four: Sequence[Tensor], axis: int) -> tuple[float, float]:
    """Return score and strength, 1 and 1 where there is nothing to compare.

    Args:
        four: the maps (1, C, h, w) of one picture and another, of the first half of the one and
            the second half of the other, and of the remaining halves.
        axis: along which the halves were put together.
    """
    one, other, joined, turned = four

    def apart(some: Tensor, others: Tensor) -> Tensor:
        distance: Tensor = (some - others).square().sum(1).sqrt()[0]  # (h, w)
        return distance

    whole = apart(one, other)
    # Convolutions with a stride look half a place up and left, so next to the seam nobody knows.
    from_seam = torch.arange(one.shape[axis], dtype=one.dtype) - (one.shape[axis] - 1) / 2
    sides = -torch.sign(from_seam) * (from_seam.abs() >= 1)
    sides = (sides.view(-1, 1) if axis == 2 else sides.view(1, -1)).expand_as(whole)
    # A layer that nothing moves shows rounding; NaN is found elsewhere.
    moved = float(whole.mean()) > _ROUNDING * float(one.norm(dim=1).mean())
    if not moved or int((sides != 0).sum()) < _LEAST_PLACES:
        return 1.0, 1.0
    votes = apart(joined, other) - apart(joined, one) + apart(turned, one) - apart(turned, other)
    votes = (votes / (2 * whole).clamp(min=torch.finfo(one.dtype).tiny)).clamp(-1, 1)[sides != 0]
    votes, sides = votes - votes.mean(), sides[sides != 0]  # all places may lean to one picture
    weight = float(votes.abs().sum())
    return float((sides * votes).sum()) / max(weight, 1e-30), weight / len(votes)


def _joined(first: Tensor, second: Tensor, axis: int) -> Tensor:
    """Return the first half of one picture, along an axis, beside the second half of another."""
    half = first.shape[axis] // 2
    rest = first.shape[axis] - half
    return torch.cat([first.narrow(axis, 0, half), second.narrow(axis, half, rest)], dim=axis)


def mosaic(image: ImageSpec, seed: int) -> Tensor:
    """Return a picture of coloured fields as the network takes it, float32 (1, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    mean, std = (torch.tensor(some).view(1, -1, 1, 1) for some in (image.mean, image.std))
    fields = torch.rand(1, mean.shape[1], _CELLS, _CELLS, generator=generator)
    return functional.interpolate((fields - mean) / std, (image.height, image.width))
