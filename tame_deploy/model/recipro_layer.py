"""Which layer ReciproCAM masks, how, and what that costs: found by what the network answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tame_deploy.errors import InputError
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.features import FeatureTap, probe_layers
from tame_deploy.model.geometry import FeatureMap
from tame_deploy.model.head import MAX_MAP_SIDE
from tame_deploy.model.layer_proposal import list_feature_maps
from tame_deploy.model.recipro_cam import MaskedCopies, run_rest

__all__ = ["MaskedLayer", "find_masked_layer"]

#: More copies than the largest map has places are refused, and such as cost more passes than this
#: through the whole network.
MAX_COPIES = MAX_MAP_SIDE**2
MAX_PASSES = 50
#: Logits are the same up to this share of what another picture changes, and of their magnitude;
#: what adds in another order rounds more. An untrained network hardly looks at its picture.
_SHARE, _ROUNDING, _REORDERED = 1e-3, 1e-6, 1e-5
#: Two pictures, so that no coincidence of one makes a layer.
_PICTURES = 2


@dataclass(frozen=True)
class MaskedLayer:
    """A layer that all of the answer goes through, and its masked copies.

    Attributes:
        tap: the backbone, tapped at the layer.
        feature: what the layer gives out.
        copies: its masked copies.
        passes: their multiply-adds, as a share of those of the network.
    """

    tap: FeatureTap
    feature: FeatureMap
    copies: MaskedCopies
    passes: float

    def __str__(self) -> str:
        what = "windows of 3x3 patches" if self.copies.windows else "masked copies"
        return (
            f"ReciproCAM on {self.feature.layer}: {self.copies.count} {what} go through what "
            f"follows it, which adds {self.passes:.2g} times the network's own multiply-adds"
        )


class _NotUsableError(Exception):
    """Why a layer cannot be masked, in words that follow its name."""


def find_masked_layer(backbone: Backbone, layer: str | None = None) -> MaskedLayer:
    """Return the layer asked for, or the last that can be masked.

    That is the last one that all of the answer goes through, and whose places the answer depends
    on: before a pooling; of a transformer with a class token, before the last block.

    Raises:
        InputError: if the network fails on two pictures of its size, the layer is none that can be
            masked, or there is none.
    """
    if layer is None:
        candidates = list_feature_maps(backbone)
    else:
        tap = FeatureTap(backbone.module, [layer]).eval()
        candidates = probe_layers(tap, backbone.example, backbone.prefix_tokens)
    rest = _Rest(backbone)
    reasons = []
    with _filled_zeros(backbone.module):
        for feature in reversed(candidates):
            try:
                return rest.masked(feature)
            except _NotUsableError as found:
                reasons.append(f"layer {feature.layer} {found}")
    if layer is not None:
        raise InputError(
            f"--head cam cannot mask {backbone.name} there: {reasons[0]}. Leave --layers out for "
            f"the last layer that it can; all are listed by tame-deploy layers {backbone.argument}"
        )
    # The last layers are those that a reader knows; why the others were left is much the same.
    raise InputError(
        "--head cam needs a layer that all of the answer goes through, or global average pooling "
        f"and one linear layer at the end; of {backbone.name}, {'; '.join(reasons[:3])}. Train a "
        f"head: tame-deploy train --backbone {backbone.argument} --layers a,b,c --data PICTURES "
        f"(tame-deploy layers {backbone.argument} proposes layers)"
    )


@contextmanager
def _filled_zeros(module: nn.Module) -> Iterator[None]:
    """Fill linear layers of zeros for a while: an untrained one hides what the answer depends on.

    torchvision's transformers begin with such a classifier.
    """
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    zeros = [part.weight for part in linear if not bool(part.weight.detach().any())]
    generator = torch.Generator().manual_seed(0)
    for weight in zeros:
        weight.data.copy_(torch.randn(weight.shape, generator=generator))
    try:
        yield
    finally:
        for weight in zeros:
            weight.data.zero_()


class _Rest:
    """What follows a layer, tried on two pictures."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        shape = (_PICTURES, *backbone.example.shape[1:])
        self.pictures = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def masked(self, feature: FeatureMap) -> MaskedLayer:
        """Return a layer with its copies, once it is sure that they mean something."""
        tap = FeatureTap(self.backbone.module, [feature.layer]).eval()
        if not tap.hooked:
            raise _NotUsableError("is no module, whose output could be replaced")
        if feature.height * feature.width > MAX_COPIES:
            size = f"{feature.height}x{feature.width}"
            raise _NotUsableError(f"has {size} places; expected at most {MAX_COPIES}")
        logits, (output,) = tap(self.pictures)
        logits = logits[:, None] if logits.ndim == 1 else logits
        if not _same(self._answer(tap, feature, output.clone()), logits):
            raise _NotUsableError("is gone around by a part of the answer")
        patches = slice(feature.prefix_tokens if feature.arrangement == "tokens" else 0, None)
        without = output.clone()
        without[:, patches] = 0
        if _same(self._answer(tap, feature, without), logits):
            raise _NotUsableError("has places that the answer does not depend on")
        windows = self._takes_windows(tap, feature, output, logits)
        copies = MaskedCopies(tap.backbone, feature, self.pictures, windows=windows)
        passes = self._passes(tap, copies, output)
        if passes > MAX_PASSES:
            raise _NotUsableError(
                f"has {copies.count} masked copies, which cost {passes:.0f} passes through the "
                f"network; expected at most {MAX_PASSES}"
            )
        return MaskedLayer(tap, feature, copies, passes)

    def _answer(self, tap: FeatureTap, feature: FeatureMap, outputs: Tensor) -> Tensor | None:
        """Return what the rest makes of other outputs of a layer; None where it fails."""
        try:
            return run_rest(tap.backbone, feature.layer, outputs, self.pictures[:1] * 0)
        # A foreign module may raise anything on outputs or tokens of another number.
        except Exception:
            return None

    def _takes_windows(
        self, tap: FeatureTap, feature: FeatureMap, output: Tensor, logits: Tensor
    ) -> bool:
        """Whether the rest takes few patches as it takes all: as a set, whatever their places."""
        if feature.arrangement != "tokens":
            return False
        before = feature.prefix_tokens
        places = torch.randperm(
            feature.height * feature.width, generator=torch.Generator().manual_seed(0)
        )
        shuffled = torch.cat([output[:, :before], output[:, before:][:, places]], dim=1)
        if not _same(self._answer(tap, feature, shuffled), logits, _REORDERED):
            return False
        few = MaskedCopies(tap.backbone, feature, self.pictures, windows=True).copies(output)
        found = self._answer(tap, feature, few[:_PICTURES])
        return found is not None and found.shape == logits.shape

    def _passes(self, tap: FeatureTap, copies: MaskedCopies, output: Tensor) -> float:
        """Return the multiply-adds of all copies of a picture over those of the network."""
        one = copies.copies(output[:1])[:1]
        with _counting() as whole:
            tap.backbone(self.pictures[:1])
        layer = tap.backbone.get_submodule(copies.feature.layer)
        with _counting() as rest:
            stem: list[int] = []
            handle = layer.register_forward_hook(lambda *_: stem.append(rest.get_total_flops()))
            try:
                self._answer(tap, copies.feature, one)
            finally:
                handle.remove()
        behind = rest.get_total_flops() - stem[-1]
        return copies.count * behind / max(whole.get_total_flops(), 1)


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    """Yield a counter of multiply-adds; torch's fused attention would hide its own from it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _same(found: Tensor | None, logits: Tensor, rounding: float = _ROUNDING) -> bool:
    """Whether logits (2, C) are those expected, up to what rounding does."""
    if found is None or found.shape != logits.shape:
        return False
    other_picture = float((logits[0] - logits[1]).abs().max())
    bound = _SHARE * other_picture + rounding * float(logits.abs().max())
    return float((found - logits).abs().max()) <= bound
