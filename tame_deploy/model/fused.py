"""The fused graph in PyTorch: pictures in; logits, explained classes and their maps out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tame_deploy.artifact.contrast import CAN_CONTRAST
from tame_deploy.artifact.types import FLAT_RANGE, ExplainMode, ImageSpec, InputKind, MapKind
from tame_deploy.model.folding import AskedClasses, ClassMaps, FoldedBranches
from tame_deploy.model.head import AttentionHead
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.model.recipro_cam import MaskedCopies, ReciproCam, ScoreMaps

__all__ = ["Finish", "FusedNetwork", "Preprocess"]

#: The least range that min-max normalisation divides by, beside `FLAT_RANGE` of the magnitude.
MAP_EPSILON = 1e-6


class Shares(nn.Module):
    """Levels to shares of their range, in [0, 1]: 255 for 8 bits, the window for 16."""

    def __init__(self, image: ImageSpec) -> None:
        super().__init__()
        self.window: tuple[int, int] | None = image.window
        self.deep = image.dtype == "uint16"

    def levels(self, pixels: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return levels (B, C, H, W) above the range's lowest one, and how many it spans."""
        if not self.deep:
            return pixels, 255.0
        if self.window is None:
            low = pixels.amin(dim=(1, 2, 3), keepdim=True)
            # A picture of one level is black: there is nothing to divide by.
            span = (pixels.amax(dim=(1, 2, 3), keepdim=True) - low).clamp(min=1.0)
            return pixels - low, span
        if self.window == (0, 65535):
            return pixels, 65535.0
        first, last = self.window
        return pixels.clamp(first, last) - first, float(last - first)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 of float32 levels, (B, C, H, W)."""
        above, span = self.levels(pixels)
        return above / span


class Preprocess(nn.Module):
    """uint8 or uint16 pixels to normalised float32, channels first."""

    scale: Tensor
    shift: Tensor

    def __init__(self, image: ImageSpec) -> None:
        super().__init__()
        mean = torch.tensor(image.mean, dtype=torch.float64)
        std = torch.tensor(image.std, dtype=torch.float64)
        self.shares = Shares(image)
        self.own = image.dtype == "uint16" and image.window is None
        low, high = image.window or (0, 65535)
        span = (1 if self.own else high - low) if image.dtype == "uint16" else 255
        self.register_buffer("scale", (1 / (span * std)).float().view(1, -1, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 (B, C, H, W) of levels (B, H, W, C)."""
        # Cast first: TensorRT's parser refuses to transpose uint8.
        pixels = images.float().permute(0, 3, 1, 2)
        above, span = self.shares.levels(pixels)
        if self.own:
            above = above / span
        return above * self.scale + self.shift


class Ranking(nn.Module):
    """Which maps to give: of the classes asked for, -1 in place j being the j-th most likely.

    With `contrasts`, numbers below -1 ask for one class and not another (artifact/contrast.py).
    """

    def __init__(self, ranks: int, *, contrasts: bool) -> None:
        super().__init__()
        self.ranks = ranks
        self.contrasts = contrasts

    def forward(self, logits: Tensor, class_ids: Tensor | None) -> tuple[Tensor, AskedClasses]:
        """Return `explained`, int64 (B, K), and what it says."""
        ranked = torch.topk(logits, self.ranks, dim=1).indices  # (B, ranks)
        if class_ids is None:
            return ranked, AskedClasses(ranked)
        # Places beyond the ranks can only be named outright; there -1 gets the last rank, and
        # callers refuse it before it comes here.
        places = torch.arange(class_ids.shape[1], device=logits.device).clamp(
            max=self.ranks - 1
        )  # (K,)
        likeliest = ranked.index_select(1, places)  # (B, K)
        if not self.contrasts:
            chosen = torch.where(class_ids < 0, likeliest, class_ids)
            return chosen, AskedClasses(chosen)
        base = logits.shape[1] + 1
        code = (-1 - class_ids).clamp(min=0)
        # Of what is not negative; // and % stay whole numbers where torch.div becomes a float.
        other, own = code % base, code // base
        named = torch.where(own > 0, own - 1, class_ids)
        chosen = torch.where(named < 0, likeliest, named)
        is_contrast = other > 0
        explained = torch.where(is_contrast, chosen * -base - (other + (base + 1)), chosen)
        return explained, AskedClasses(chosen, (other - 1).clamp(min=0), is_contrast)


class Finish(nn.Module):
    """Map logits to what the user sees."""

    def __init__(self, maps: MapKind) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, map_logits: Tensor, is_contrast: Tensor | None = None) -> Tensor:
        """Return float32 (B, K, h, w), in [0, 1] unless raw logits were asked for.

        Args:
            map_logits: float (B, K, h, w).
            is_contrast: bool (B, K), where maps are differences of two: these come out in [-1, 1],
                positive for the one class, negative for the other; 0 stays 0.
        """
        if self.maps == "logits":
            return map_logits
        signed = None if is_contrast is None else is_contrast[..., None, None]
        if self.maps == "sigmoid":
            shares = torch.sigmoid(map_logits)
            if signed is None:
                return shares
            one = signed.to(shares.dtype)
            return shares * (1 + one) - one  # the hyperbolic tangent of half the difference
        low = map_logits.amin(dim=(2, 3), keepdim=True)
        high = map_logits.amax(dim=(2, 3), keepdim=True)
        span, magnitude = high - low, torch.maximum(low.abs(), high.abs())
        if signed is not None:
            low = torch.where(signed, 0.0, low)
            span = torch.where(signed, magnitude, span)
        # Divided by less, a flat map would come out as amplified rounding noise.
        floor = torch.clamp(magnitude * FLAT_RANGE, min=MAP_EPSILON)
        return (map_logits - low) / torch.maximum(span, floor)


def _parts_of(
    head: AttentionHead | ReciproCam,
) -> tuple[FoldedBranches | MaskedCopies, ClassMaps | ScoreMaps]:
    """Return what a head does to all classes alike, and what it does to those asked for."""
    if isinstance(head, ReciproCam):
        return head.copies, head.maps
    return FoldedBranches(head), ClassMaps(head)


class FusedNetwork(nn.Module):
    """Backbone and folded head as one graph; its parts name the stages in the exported file.

    `ranks` is how many of the likeliest classes -1 can name, or are explained ("predicted").
    `contrasts` says whether numbers below -1 ask for one class and not another.
    `tail` holds what stays in float32 at every precision: class product, resize, sum, min-max.
    Of ReciproCAM, `branches` are the masked copies and the rest of the network, a second time.
    """

    def __init__(
        self,
        network: ExplainedNetwork,
        *,
        explain: ExplainMode = "selectable",
        ranks: int = 1,
        graph_input: InputKind = "uint8",
        maps: MapKind = "minmax",
    ) -> None:
        super().__init__()
        self.explain = explain
        self.contrasts = explain == "selectable" and network.head.config.classes in CAN_CONTRAST
        self.source = [network]  # in a list, so that the unfolded head is no part of this module
        image = network.backbone.image.for_input(graph_input)
        self.preprocess = None if graph_input == "float32" else Preprocess(image)
        self.backbone = network.tap
        self.branches, class_maps = _parts_of(network.head)
        self.tail = nn.ModuleDict({"maps": class_maps, "finish": Finish(maps)})
        if network.answer.changes:
            self.tail["answer"] = network.answer
        if explain != "all":
            self.tail["ranking"] = Ranking(ranks, contrasts=self.contrasts)
        self.eval()

    def forward(
        self, images: Tensor, class_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, classes), explained int64 (B, K) and maps (B, K, h, w).

        Args:
            images: uint8 or uint16 (B, H, W, C), or normalised float32 (B, C, H, W).
            class_ids: int64 (B, K), only where classes are selectable.
        """
        pixels = images if self.preprocess is None else self.preprocess(images)
        logits, outputs = self.backbone(pixels)
        if "answer" in self.tail:
            logits = self.tail["answer"](logits)
        branches = self.branches(self.source[0].feature_maps(outputs))
        if self.explain == "all":
            every = torch.arange(logits.shape[1], device=logits.device).unsqueeze(0)
            explained = every.expand(logits.shape[0], -1)
            return logits, explained, self.tail["finish"](self.tail["maps"](branches, None))
        explained, asked = self.tail["ranking"](logits, class_ids)
        map_logits = self.tail["maps"](branches, asked)
        return logits, explained, self.tail["finish"](map_logits, asked.is_contrast)
