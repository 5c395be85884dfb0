"""Feature maps of any backbone: tapping them, finding candidates, and checking the choice."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tame_deploy.artifact.types import TokenUse
from tame_deploy.errors import InputError
from tame_deploy.model.outputs import read_layer, read_logits

__all__ = [
    "FeatureMap",
    "FeatureTap",
    "as_map",
    "last_of_each_size",
    "list_feature_maps",
    "probe_layers",
    "propose",
]

Arrangement = Literal["channels-first", "channels-last", "tokens", "class-token-first"]


#: Modules that are no layers of their own: what they give out is an earlier layer's, or pooled.
_UNNAMED = (nn.AdaptiveAvgPool2d, nn.Dropout, nn.Identity)


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """What one layer of a backbone gives out for one picture."""

    layer: str
    arrangement: Arrangement
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.layer} ({self.channels} channels, {self.height}x{self.width})"


class FeatureTap(nn.Module):
    """A backbone that gives out its logits and the outputs of some of its layers.

    Layers are names of modules (`layer4`, `features.30`), tapped by hooks so that any module
    works; a name that is no module is looked up among torchvision's feature-extraction nodes
    (`layer4.2.add`), which needs a model that torch.fx can trace.

    Raises:
        InputError: if a layer does not exist.
    """

    def __init__(self, backbone: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.layers = list(layers)
        modules = dict(backbone.named_modules())
        self.hooked = all(layer and layer in modules for layer in layers)
        self.backbone = backbone if self.hooked else _node_extractor(backbone, self.layers)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (B, classes) and the layers' raw outputs, in the order asked for."""
        if not self.hooked:
            outputs = self.backbone(images)
            layers = [read_layer(outputs[str(i)]) for i in range(len(self.layers))]
            return read_logits(outputs["logits"]), layers
        found: dict[str, Any] = {}
        with _recording(self.backbone, self.layers, found):
            logits = read_logits(self.backbone(images))
        missed = [layer for layer in self.layers if layer not in found]
        if missed:
            raise InputError(f"layer {missed[0]} is not used when the backbone classifies")
        return logits, [found[layer] for layer in self.layers]


@contextmanager
def _recording(backbone: nn.Module, layers: Sequence[str], found: dict[str, Any]) -> Iterator[None]:
    modules = dict(backbone.named_modules())

    def record(layer: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found.pop(layer, None)  # a module used twice keeps its last output and its last place
            found[layer] = read_layer(output)

        return hook

    handles = [modules[layer].register_forward_hook(record(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _node_extractor(backbone: nn.Module, layers: list[str]) -> nn.Module:
    from torchvision.models.feature_extraction import (
        create_feature_extractor,
        get_graph_node_names,
    )

    modules = [name for name, _ in backbone.named_modules() if name]
    try:
        nodes = get_graph_node_names(backbone)[1]
    # torch.fx fails in as many ways as there are models; all mean that only modules can be named.
    except Exception:
        nodes = []
    known = set(nodes) | set(modules)
    for layer in layers:
        if layer not in known:
            near = difflib.get_close_matches(layer, sorted(known), 3, 0.5)
            hint = f"Nearest: {', '.join(near)}" if near else "See: tame-deploy layers MODEL"
            raise InputError(f"the backbone has no layer {layer!r}. {hint}")
    if not nodes:
        raise InputError(
            "torch.fx cannot trace this backbone, so every layer must be a module; "
            "list them: tame-deploy layers MODEL"
        )
    named = {layer: str(index) for index, layer in enumerate(layers)}
    extractor: nn.Module = create_feature_extractor(backbone, {**named, nodes[-1]: "logits"})
    for hook in backbone._forward_pre_hooks.values():  # such as one that turns RGB into BGR
        extractor.register_forward_pre_hook(hook)
    return extractor


def as_map(feature: Tensor, arrangement: Arrangement, tokens: TokenUse) -> Tensor:
    """Return a layer's raw output as (B, C, h, w).

    A transformer's class token is dropped, or multiplied into the patch tokens (T-TAME, section
    III).
    """
    if arrangement == "channels-first":
        return feature
    if arrangement == "channels-last":
        return feature.permute(0, 3, 1, 2)
    if arrangement == "class-token-first":
        patches = feature[:, 1:]
        feature = patches * feature[:, :1] if tokens == "patch-times-class" else patches
    side = math.isqrt(feature.shape[1])
    channels_first = feature.transpose(1, 2)  # (B, C, side * side)
    return channels_first.reshape(*channels_first.shape[:2], side, side)


def probe_layers(tap: FeatureTap, images: Tensor) -> tuple[FeatureMap, ...]:
    """Run a picture through the backbone and describe the tapped layers.

    Raises:
        InputError: if the backbone refuses the picture, does not return (B, classes) logits, or a
            layer gives out no feature map.
    """
    logits, outputs = _run(tap, images)
    if logits.ndim != 2:
        shape = tuple(logits.shape)
        raise InputError(f"the backbone returns {shape}; expected logits of shape (batch, classes)")
    described = []
    for layer, output in zip(tap.layers, outputs, strict=True):
        feature = _describe(layer, output, images)
        if feature is None:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f"layer {layer} gives out {found}, not a feature map with a height and a width; "
                "list candidates: tame-deploy layers MODEL"
            )
        described.append(feature)
    return tuple(described)


@torch.no_grad()
def _run(module: nn.Module, images: Tensor) -> Any:
    try:
        return module(images)
    except InputError:
        raise
    # A foreign module may raise anything on a size it does not take.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        size = "x".join(map(str, images.shape[2:]))
        raise InputError(f"the backbone fails on a {size} picture: {reason:.200}") from error


def _describe(layer: str, output: Any, images: Tensor) -> FeatureMap | None:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    shape = tuple(output.shape[1:])
    if len(shape) == 3:
        # Swin and its kin keep channels last; a map has the proportions of its picture.
        last = _distortion(shape[0], shape[1], images) < _distortion(shape[1], shape[2], images)
        channels, height, width = (shape[2], shape[0], shape[1]) if last else shape
        arrangement: Arrangement = "channels-last" if last else "channels-first"
    elif len(shape) == 2:
        tokens, channels = shape
        height = width = math.isqrt(tokens)
        arrangement = "tokens" if height * height == tokens else "class-token-first"
        if height * height + (arrangement == "class-token-first") != tokens:
            return None
    else:
        return None
    if height * width < 2:
        return None
    return FeatureMap(
        layer=layer, arrangement=arrangement, channels=channels, height=height, width=width
    )


def _distortion(height: int, width: int, images: Tensor) -> float:
    """Return how far height and width are from the picture's proportions, 0 to 1."""
    across, down = height * images.shape[3], width * images.shape[2]
    return abs(across - down) / (across + down)


def list_feature_maps(backbone: nn.Module, images: Tensor) -> list[FeatureMap]:
    """Return the distinct feature maps of a backbone in the order they are computed.

    Where nested modules give out the same tensor, the outermost one that has siblings stands for
    all: `layer4` rather than `layer4.2`, but `features.12` rather than `features`.
    """
    found: dict[str, Any] = {}
    names = [
        name
        for name, module in backbone.named_modules()
        if name and not isinstance(module, _UNNAMED)
    ]
    with _recording(backbone, names, found):
        logits = read_logits(_run(backbone, images))
    aliases: dict[int, list[FeatureMap]] = {}  # inner modules first
    for layer, output in found.items():
        feature = _describe(layer, output, images)
        if feature is not None and not _are_class_scores(output, logits):
            aliases[id(output)] = [*aliases.pop(id(output), []), feature]
    parents = Counter(_parent(names[-1]) for names in aliases.values())
    return [_named(names, parents) for names in aliases.values()]


def _are_class_scores(output: Tensor, logits: Any) -> bool:
    """Whether a layer's mean over the picture is the answer already (squeezenet's classifier)."""
    if output.ndim != 4 or not isinstance(logits, Tensor) or output.shape[:2] != logits.shape:
        return False
    return torch.allclose(output.mean((2, 3)), logits, rtol=1e-3, atol=1e-5)


def _named(names: list[FeatureMap], parents: Counter[str]) -> FeatureMap:
    """Choose among the names of one tensor, inner first, given the outermost parents of all."""
    for feature in reversed(names):
        parent = _parent(feature)
        if parents[parent] > (parent == _parent(names[-1])):
            return feature
    return names[-1]


def _parent(feature: FeatureMap) -> str:
    return feature.layer.rpartition(".")[0]


def last_of_each_size(candidates: Sequence[FeatureMap]) -> list[FeatureMap]:
    """Return the last feature map of each resolution, in the order they are computed.

    Only the outermost modules of a resolution count: stages and blocks, not their insides. Of a
    transformer, whose maps all have one resolution, return its blocks.

    Raises:
        InputError: if there are none.
    """
    if not candidates:
        raise InputError("no layer of this backbone gives out a feature map; a head needs one")
    sizes: dict[tuple[int, int], list[FeatureMap]] = {}
    for feature in candidates:
        sizes.setdefault((feature.height, feature.width), []).append(feature)
    if len(sizes) == 1:
        return _blocks(candidates)
    shallowest = min(_depth(feature) for feature in candidates)
    last = []
    for group in sizes.values():
        outermost = min(_depth(feature) for feature in group)
        # Deeper than that are the insides of blocks alone, such as the windows of an attention.
        if outermost <= shallowest + 1:
            last.append([feature for feature in group if _depth(feature) == outermost][-1])
    return sorted(last, key=candidates.index)


def _depth(feature: FeatureMap) -> int:
    return feature.layer.count(".")


def _blocks(candidates: Sequence[FeatureMap]) -> list[FeatureMap]:
    """Return the outermost level of nesting that has several alike feature maps."""
    for depth in sorted({_depth(feature) for feature in candidates}):
        level = [feature for feature in candidates if _depth(feature) == depth]
        alike = [f for f in level if (f.arrangement, f.channels) == _kind(level[-1])]
        if len(alike) >= 3:
            return alike
    return list(candidates)


def _kind(feature: FeatureMap) -> tuple[Arrangement, int]:
    return feature.arrangement, feature.channels


def propose(candidates: Sequence[FeatureMap], count: int = 3) -> tuple[FeatureMap, ...]:
    """Return up to `count` layers for a head: the deepest that differ in resolution."""
    return tuple(last_of_each_size(candidates)[-count:])
