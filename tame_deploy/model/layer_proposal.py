"""Which layers of a backbone a head can read, and which three to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tame_deploy.errors import InputError
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.features import FeatureTap, run_backbone, unwrapped
from tame_deploy.model.geometry import (
    FeatureMap,
    Observation,
    count_prefix_tokens,
    describe,
    observing,
)
from tame_deploy.model.outputs import read_logits
from tame_deploy.model.soundness import measure_locality

__all__ = ["FoundLayers", "find_layers", "list_feature_maps"]

#: Modules that are no layers of their own: what they give out is an earlier layer's, or pooled.
_UNNAMED = (nn.AdaptiveAvgPool2d, nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class FoundLayers:
    """The feature maps of a backbone, in the order they are computed.

    Attributes:
        every: each distinct one, by the name of the outermost module that stands for it.
        main: the last of each resolution; or the blocks, where all have one resolution.
        scrambled: those of `main` whose values are in another order than the picture's.
        proposed: the last three of the others, or as many as there are.
    """

    every: tuple[FeatureMap, ...]
    main: tuple[FeatureMap, ...]
    scrambled: tuple[FeatureMap, ...]

    @property
    def proposed(self) -> tuple[FeatureMap, ...]:
        return tuple(one for one in self.main if one not in self.scrambled)[-3:]


@dataclass(frozen=True)
class _Tree:
    """The modules that give out a map, below the nearest module that was called."""

    maps: dict[str, FeatureMap]
    seen: Observation

    def members(self, parent: str) -> list[FeatureMap]:
        return [one for name, one in self.maps.items() if self.parent(name) == parent]

    def parent(self, name: str) -> str:
        """Return the module around one; a list of modules is none, because nobody calls it."""
        while name:
            name = name.rpartition(".")[0]
            if name in self.seen.called:
                return name
        return ""

    def inside(self, parent: str) -> list[str]:
        """Return the modules right inside one, those with the most parameters first."""
        sizes = {
            name: sum(one.numel() for one in self.seen.modules[name].parameters())
            for name in self.seen.called
            if name and self.parent(name) == parent
        }
        return sorted(sizes, key=lambda name: (-sizes[name], name))

    def weight(self, feature: FeatureMap) -> int:
        return sum(one.numel() for one in self.seen.modules[feature.layer].parameters())


def list_feature_maps(backbone: Backbone) -> tuple[FeatureMap, ...]:
    """Return the distinct feature maps of a backbone, in the order they are computed.

    Raises:
        InputError: if the backbone refuses the picture, or no layer gives out a feature map.
    """
    tree = _grown(backbone)
    return _distinct(tree, _main_layers(tree))


def find_layers(backbone: Backbone) -> FoundLayers:
    """List the feature maps of a backbone and choose among them.

    Raises:
        InputError: if the backbone refuses the picture, or no layer gives out a feature map.
    """
    tree = _grown(backbone)
    main = _main_layers(tree)
    tap = FeatureTap(backbone.module, [one.layer for one in main]).eval()
    found = zip(main, measure_locality(tap, main, backbone.image), strict=True)
    scrambled = tuple(one for one, locality in found if locality.is_scrambled)
    return FoundLayers(_distinct(tree, main), tuple(main), scrambled)


def _grown(backbone: Backbone) -> _Tree:
    module = unwrapped(backbone.module)
    with observing(module) as seen:
        logits = read_logits(run_backbone(module, backbone.example))
    return _Tree(_describe_all(module, seen, backbone, logits), seen)


def _describe_all(
    module: nn.Module, seen: Observation, backbone: Backbone, logits: Tensor
) -> dict[str, FeatureMap]:
    stated = backbone.prefix_tokens is not None
    known = backbone.prefix_tokens if stated else count_prefix_tokens(module)
    maps: dict[str, FeatureMap] = {}
    ambiguous: InputError | None = None
    for layer, output in seen.outputs.items():
        part = seen.modules[layer]
        if isinstance(part, _UNNAMED) or _are_class_scores(part, output, logits):
            continue
        try:
            found = describe(layer, output, seen, backbone.example, known, stated=stated)
        except InputError as error:  # an odd one inside a block does not matter, if others are fine
            ambiguous = ambiguous or error
            continue
        if found is not None:
            maps[layer] = found
    if not maps:
        raise ambiguous or InputError(
            "no layer of this backbone gives out a feature map, which every head needs; train one "
            "that reads another network: tame-deploy train --recipe p-tame "
            f"--backbone {backbone.argument} --data PICTURES"
        )
    return maps


def _are_class_scores(module: nn.Module, output: Tensor, logits: Tensor) -> bool:
    """Whether a layer answers at each place: its mean over the picture is the answer already.

    So is what one fully connected layer makes of each token.
    """
    if logits.ndim != 2:
        return False
    if isinstance(module, nn.Linear):
        return output.shape[-1] == logits.shape[1]
    if output.ndim != 4 or output.shape[:2] != logits.shape:
        return False
    return torch.allclose(output.mean((2, 3)), logits, rtol=1e-3, atol=1e-5)


def _main_layers(tree: _Tree, level: str = "") -> list[FeatureMap]:
    """Return the stages or the blocks inside a module, in the order they are computed.

    From the outermost modules inwards, first into those with the most parameters, they are where
    there are three resolutions, or three modules that are alike; or else two resolutions, of which
    the first is no mere stem.
    """
    members = tree.members(level)
    if not members:  # a wrapper, whose network gives out no map but logits
        return next(filter(None, (_main_layers(tree, one) for one in tree.inside(level))), [])
    stages, blocks = _last_of_each_size(members), _alike(members, tree)
    if len(stages) >= 3:
        return _with_last_map(tree, level, stages)
    if not blocks:
        nested = [one for one in members if tree.members(one.layer)]
        inner = (_main_layers(tree, one.layer) for one in sorted(nested, key=tree.weight)[::-1])
        blocks = next((found for found in inner if len(found) > 1), [])
    if len(_last_of_each_size(blocks)) < len(stages) == 2 and _share(tree, stages) > 0.05:
        return _with_last_map(tree, level, stages)
    return blocks or stages


def _share(tree: _Tree, stages: Sequence[FeatureMap]) -> float:
    """Return how much of the parameters of some stages the first has."""
    return tree.weight(stages[0]) / max(1, sum(map(tree.weight, stages)))


def _last_of_each_size(members: Sequence[FeatureMap]) -> list[FeatureMap]:
    last = {(one.height, one.width): one for one in members}
    return [one for one in members if last[one.height, one.width] is one]


def _with_last_map(tree: _Tree, level: str, stages: list[FeatureMap]) -> list[FeatureMap]:
    """Return the stages, the last being what the classifier reads: a norm may follow a stage."""
    last, outputs, order = stages[-1], tree.seen.outputs, list(tree.maps)
    while level:
        level = tree.parent(level)
        later = [
            one
            for one in tree.members(level)
            if order.index(one.layer) > order.index(last.layer)
            and (one.height, one.width) == (last.height, last.width)
            and outputs[one.layer] is not outputs[last.layer]
        ]
        last = later[-1] if later else last
    return [*stages[:-1], last]


def _alike(members: Sequence[FeatureMap], tree: _Tree) -> list[FeatureMap]:
    """Return the heaviest modules of one class that give out maps of one kind."""
    groups: dict[object, list[FeatureMap]] = {}
    for one in members:
        kind = (type(tree.seen.modules[one.layer]), replace(one, layer=""))
        groups.setdefault(kind, []).append(one)
    several = [group for group in groups.values() if len(group) >= 3]
    return max(several, key=lambda group: sum(map(tree.weight, group)), default=[])


def _distinct(tree: _Tree, chosen: Sequence[FeatureMap]) -> tuple[FeatureMap, ...]:
    """Return one name for each tensor.

    Where nested modules give out the same, it is the one among the main layers, or the outermost
    that has siblings: `layer4` rather than `layer4.2`, but `features.12` rather than `features`.
    """
    aliases: dict[int, list[FeatureMap]] = {}  # inner modules first
    for layer, one in tree.maps.items():
        key = id(tree.seen.outputs[layer])
        aliases[key] = [*aliases.pop(key, []), one]
    parents = Counter(_outer(names[-1]) for names in aliases.values())
    return tuple(_named(names, parents, chosen) for names in aliases.values())


def _named(
    names: list[FeatureMap], parents: Counter[str], chosen: Sequence[FeatureMap]
) -> FeatureMap:
    for feature in names:
        if feature in chosen:
            return feature
    for feature in reversed(names):
        parent = _outer(feature)
        if parents[parent] > (parent == _outer(names[-1])):
            return feature
    return names[-1]


def _outer(feature: FeatureMap) -> str:
    return feature.layer.rpartition(".")[0]
