"""How a layer's output lies over the picture: derived from the modules and from what they did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from tame_deploy.errors import InputError
from tame_deploy.model.outputs import read_layer

__all__ = [
    "FeatureMap",
    "Observation",
    "count_prefix_tokens",
    "describe",
    "first_tensor",
    "has_class_token",
    "observing",
]

Arrangement = Literal["channels-first", "channels-last", "tokens"]

#: More tokens that stand for no patch than this are not guessed at; they can be said.
MAX_PREFIX = 8

#: What transformers call the parameters that become tokens in front of the patches, and which of
#: them the class token.
_CLASS_PARAMETERS = ("cls_token", "class_token", "class_embedding")
_PREFIX_PARAMETERS = (
    *_CLASS_PARAMETERS, "dist_token", "distillation_token",
    "reg_token", "reg_tokens", "register_token", "register_tokens",
)  # fmt: skip

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.GroupNorm,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Upsample,
)
#: Modules that leave every value where it is.
_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Sigmoid,
    nn.Hardsigmoid, nn.Tanh, nn.modules.dropout._DropoutNd, nn.Identity,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """What one layer of a backbone gives out for one picture.

    `tokens` are (B, prefix_tokens + height * width, channels), row by row; the first
    `prefix_tokens` (class, distillation, registers) stand for no place of the picture.
    """

    layer: str
    arrangement: Arrangement
    channels: int
    height: int
    width: int
    prefix_tokens: int = 0

    def __str__(self) -> str:
        return f"{self.layer} ({self.channels} channels, {self.height}x{self.width})"


@dataclass
class Observation:
    """What one run of a backbone showed.

    Attributes:
        modules: those of the backbone, by name.
        outputs: the first tensor that each gave out last, in the order they finished.
        called: the names of all that were used.
        layouts: how tensors are laid out of which a module says so, by `id`.
        grids: (height, width) of what convolutions gave out.
        patch_sizes: (height, width) of patches, where the modules say them.
    """

    modules: Mapping[str, nn.Module]
    outputs: dict[str, Tensor] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)
    layouts: dict[int, Arrangement] = field(default_factory=dict)
    grids: list[tuple[int, int]] = field(default_factory=list)
    patch_sizes: list[tuple[int, int]] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)  # an id is a tensor's while it lives

    def note(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        """Take note of what a module gave out."""
        self.called.add(name)
        tensor = first_tensor(output)
        if tensor is None:
            return
        self.kept.append(tensor)
        self.outputs.pop(name, None)  # a module used twice keeps its last output and last place
        self.outputs[name] = tensor
        if tensor.ndim != 4:
            return
        module = self.modules[name]
        if isinstance(module, _CHANNELS_FIRST):
            self.layouts[id(tensor)] = "channels-first"
        elif isinstance(module, nn.Linear) or type(module) is nn.LayerNorm:
            self.layouts[id(tensor)] = "channels-last"
        elif isinstance(module, _ELEMENTWISE) and inputs:
            before = self.layouts.get(id(inputs[0]))
            if before is not None:
                self.layouts[id(tensor)] = before
        if isinstance(module, nn.Conv2d):
            self.grids.append((tensor.shape[2], tensor.shape[3]))


def first_tensor(output: Any) -> Tensor | None:
    """Return the tensor that a module gave out, or the first in what it gave out."""
    found = read_layer(output)
    return found if isinstance(found, Tensor) else None


@contextmanager
def observing(backbone: nn.Module) -> Iterator[Observation]:
    """Yield what is filled in while the backbone runs."""
    seen = Observation({name: module for name, module in backbone.named_modules() if name})
    seen.patch_sizes.extend(_patch_sizes(backbone))

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, inputs, output: seen.note(name, inputs, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in seen.modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _patch_sizes(backbone: nn.Module) -> list[tuple[int, int]]:
    """Return the patch sizes that modules of timm, torchvision and transformers state."""
    found = []
    for module in backbone.modules():
        size = getattr(module, "patch_size", None) or getattr(
            getattr(module, "config", None), "patch_size", None
        )
        pair = (size, size) if isinstance(size, int) else size
        sides = tuple(pair) if isinstance(pair, (tuple, list)) else ()
        if len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides):
            found.append((sides[0], sides[1]))
    return list(dict.fromkeys(found))


def count_prefix_tokens(backbone: nn.Module) -> int | None:
    """Return how many tokens a transformer puts in front of its patches, or None if it is silent.

    timm's models say it; the parameters of others are counted.
    """
    for module in backbone.modules():
        count = getattr(module, "num_prefix_tokens", None)
        if isinstance(count, int):
            return count
        found = _prefix_parameters(module)
        if found:
            return sum(one.shape[-2] if one.ndim > 1 else 1 for one in found.values())
    return None


def has_class_token(backbone: nn.Module) -> bool | None:
    """Return whether one of the tokens in front of the patches is a class token.

    None where the module does not say which they are.
    """
    found = next(filter(None, map(_prefix_parameters, backbone.modules())), None)
    return None if found is None else not found.keys().isdisjoint(_CLASS_PARAMETERS)


def _prefix_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    own = dict(module.named_parameters(recurse=False))
    return {name: own[name] for name in _PREFIX_PARAMETERS if name in own}


def describe(
    layer: str, output: Any, seen: Observation, images: Tensor, prefix: int | None, *, stated: bool
) -> FeatureMap | None:
    """Return what a layer gives out, or None if it is no map of the picture.

    Args:
        layer: its name.
        output: what it gave out.
        seen: the run in which it did.
        images: the pictures of that run, (B, C, H, W).
        prefix: how many tokens stand before the patches, if that is known.
        stated: whether somebody said so, and nothing else is to be tried.

    Raises:
        InputError: if the tokens can be read in more than one way.
    """
    tensor = first_tensor(output)
    if tensor is None or not tensor.is_floating_point() or tensor.shape[:1] != images.shape[:1]:
        return None
    if tensor.ndim == 4:
        arrangement = _arrangement(layer, tensor, seen, images)
        order = (3, 1, 2) if arrangement == "channels-last" else (1, 2, 3)
        channels, height, width = (tensor.shape[axis] for axis in order)
        before = 0
    elif tensor.ndim == 3:
        grid = _token_grid(layer, tensor, seen, images, prefix, stated=stated)
        if grid is None:
            return None
        arrangement, channels = "tokens", tensor.shape[2]
        before, height, width = grid
    else:
        return None
    if height * width < 2:
        return None
    return FeatureMap(
        layer=layer,
        arrangement=arrangement,
        channels=channels,
        height=height,
        width=width,
        prefix_tokens=before,
    )


def _arrangement(layer: str, tensor: Tensor, seen: Observation, images: Tensor) -> Arrangement:
    """Return where the channels are: first, unless there is evidence that they are last.

    The module that made the tensor says so, or widths inside the layer do, or only that reading
    has the picture's proportions.
    """
    known = seen.layouts.get(id(tensor))
    if known is not None:
        return known
    first, last = _widths(seen.modules.get(layer), tensor.shape[1], tensor.shape[3])
    if first and not last:
        return "channels-first"
    fits_first = _is_proportional(tensor.shape[2], tensor.shape[3], images)
    fits_last = _is_proportional(tensor.shape[1], tensor.shape[2], images)
    if last and not first and (fits_last or not fits_first):
        return "channels-last"
    return "channels-last" if fits_last and not fits_first else "channels-first"


def _widths(module: nn.Module | None, first: int, last: int) -> tuple[bool, bool]:
    """Whether a layer's parts make as many channels as its first, and as its last dimension."""
    parts = [] if module is None else list(module.modules())
    says_first = any(
        (isinstance(part, nn.Conv2d) and part.out_channels == first)
        or (isinstance(part, nn.modules.batchnorm._NormBase) and part.num_features == first)
        for part in parts
    )
    says_last = any(
        (isinstance(part, nn.Linear) and part.out_features == last)
        or (type(part) is nn.LayerNorm and tuple(part.normalized_shape) == (last,))
        for part in parts
    )
    return says_first, says_last


def _is_proportional(height: int, width: int, images: Tensor) -> bool:
    """Whether height x width is like the picture, give or take what rounding and borders do."""
    ratio = images.shape[3] / images.shape[2]
    return abs(height * ratio - width) <= 1.5 or abs(width / ratio - height) <= 1.5


def _token_grid(
    layer: str,
    tensor: Tensor,
    seen: Observation,
    images: Tensor,
    prefix: int | None,
    *,
    stated: bool,
) -> tuple[int, int, int] | None:
    """Return (tokens in front, height, width)."""
    count = tensor.shape[1]
    observed = _observed_grids(seen, images)
    merged = [(-(-h // n), -(-w // n)) for h, w in observed for n in (2, 4, 8, 16, 32)]
    proportional = _proportional_grids(images)
    if prefix is not None:
        for grids in (observed, merged, proportional):
            for before in (prefix, 0):  # before a transformer's first block they are not there yet
                for height, width in grids:
                    if height * width == count - before:
                        return before, height, width
        if stated:
            return None
    # Nobody knows, or what the model says of itself does not fit here: the numbers decide.
    found = _readings(count, observed)
    for one in (*found, *_readings(count, merged)):
        if one[0] == 0:
            return one
    found = sorted(found or _readings(count, proportional))
    if len(found) > 1:
        choices = [f"{height}x{width} patches behind {before}" for before, height, width in found]
        numbers = [f"--prefix-tokens {before}" for before, _, _ in found]
        raise InputError(
            f"layer {layer} gives out {count} tokens, which may be {' or '.join(choices)} others; "
            f"say which with {' or '.join(numbers)}"
        )
    return found[0] if found else None


def _readings(count: int, grids: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return every (tokens in front, height, width) that comes out at `count` tokens."""
    found = [(count - h * w, h, w) for h, w in grids if 0 <= count - h * w <= MAX_PREFIX]
    return list(dict.fromkeys(found))


def _observed_grids(seen: Observation, images: Tensor) -> list[tuple[int, int]]:
    """Return the grids that convolutions gave out, the last first, and those of patch sizes."""
    height, width = images.shape[2:]
    grids = [*reversed(seen.grids), *((height // h, width // w) for h, w in seen.patch_sizes)]
    return [(h, w) for h, w in dict.fromkeys(grids) if h * w > 1]


def _proportional_grids(images: Tensor) -> list[tuple[int, int]]:
    """Return the grids of square patches that tile the picture."""
    height, width = images.shape[2:]
    common = math.gcd(height, width)
    sides = [side for side in range(1, common + 1) if common % side == 0]
    grids = [(height // side, width // side) for side in sides]
    return [(h, w) for h, w in grids if h * w > 1]
