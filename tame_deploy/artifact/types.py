"""The shared vocabulary: what a tensor, a picture and an attention head look like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, get_args

from tame_deploy.errors import InputError

__all__ = [
    "FLAT_RANGE",
    "MAX_UNREADABLE",
    "VARIANTS",
    "Activation",
    "Crop",
    "ExplainMode",
    "HeadConfig",
    "ImageSpec",
    "InputKind",
    "Interpolation",
    "MapKind",
    "OutputKind",
    "Task",
    "TensorSpec",
    "TokenUse",
    "Width",
    "check_feeds",
    "narrow_widths",
    "variant_config",
]

ExplainMode = Literal["selectable", "predicted", "all"]
InputKind = Literal["uint8", "uint16", "float32"]
MapKind = Literal["minmax", "sigmoid", "logits"]
Task = Literal["multiclass", "multilabel", "binary"]
OutputKind = Literal["logits", "probabilities"]
Crop = Literal["center", "none", "pad"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Width = Literal["channels", "classes"]
Activation = Literal["relu", "sigmoid"]
Branch = Literal["attention", "identity", "recipro-cam"]
TokenUse = Literal["patch", "patch-times-class"]

MAX_SIDE = 8192

#: A map whose range is below this share of its magnitude is flat: it shows rounding, not attention.
FLAT_RANGE = 1e-3
MAX_COUNT = 1_000_000
MAX_CHANNELS = 1024

#: Share of a data set that may be missing or unreadable before it is taken for a mistake.
MAX_UNREADABLE = 0.05


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph; a string in `shape` is a symbolic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} [{', '.join(map(str, self.shape))}]"


def check_feeds(specs: Sequence[TensorSpec], feeds: Mapping[str, Any]) -> None:
    """Check arrays by name against the inputs of a graph; equal symbols mean equal sizes.

    Raises:
        InputError: for a missing, unknown, ill-shaped or ill-typed input.
    """
    expected = {spec.name: spec for spec in specs}
    if feeds.keys() != expected.keys():
        raise InputError(f"found inputs {sorted(feeds)}; expected {sorted(expected)}")
    symbols: dict[str, int] = {}
    for name, spec in expected.items():
        array = feeds[name]
        fits = str(array.dtype) == spec.dtype and array.ndim == len(spec.shape)
        for wanted, have in zip(spec.shape, array.shape, strict=False):
            size = symbols.setdefault(wanted, have) if isinstance(wanted, str) else wanted
            fits = fits and have == size and have > 0
        if not fits:
            raise InputError(f"found {name}: {array.dtype} {list(array.shape)}; expected {spec}")


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes the network's input: the one preprocessing truth of an artifact.

    `crop="center"` resizes the short side to `resize` pixels and cuts the central height x width
    (torchvision's Resize + CenterCrop); `crop="none"` squeezes the whole picture into height x
    width; `crop="pad"` shrinks or grows it until it fits into them, and fills the rest on both
    sides with `pad_level` (letterbox). The latter two ignore `resize`.

    `mean` and `std` have one number a channel, for levels as shares of the full range, in [0, 1]:
    one for grey, three for RGB in this order, any number for pictures of other channels.

    With `normalise="graph"` the network takes uint8 or uint16 NHWC and normalises itself; with
    `"caller"` it takes normalised float32 NCHW. `window` is of uint16 alone: the levels that count
    as 0 and 1, or None for the least and the greatest level of what the network sees.

    Raises:
        InputError: for sizes, levels, means or deviations outside their range.
    """

    height: int = 224
    width: int = 224
    resize: int = 256
    crop: Crop = "center"
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    dtype: InputKind = "uint8"
    normalise: Literal["graph", "caller"] = "graph"
    pad_level: int = 0
    window: tuple[int, int] | None = (0, 65535)

    def __post_init__(self) -> None:
        for name in ("height", "width", "resize"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_SIDE:
                raise InputError(f"image {name} is {value}; expected 1 to {MAX_SIDE} pixels")
        self._check_channels()
        expected = ("NCHW", "caller") if self.dtype == "float32" else ("NHWC", "graph")
        if (self.layout, self.normalise) != expected:
            raise InputError(
                f"image input is {self.dtype} {self.layout} normalised by the {self.normalise}; "
                f"expected {expected[0]} normalised by the {expected[1]} for {self.dtype}"
            )
        if not 0 <= self.pad_level <= 255:
            raise InputError(f"image pad_level is {self.pad_level}; expected a level, 0 to 255")
        low, high = self.window or (0, 65535)
        if not 0 <= low < high <= 65535:
            raise InputError(
                f"image window is {low} to {high}; expected two levels of 16 bits, the lower first"
            )

    def _check_channels(self) -> None:
        if not 1 <= len(self.mean) <= MAX_CHANNELS or len(self.std) != len(self.mean):
            raise InputError(
                f"image has {len(self.mean)} means and {len(self.std)} standard deviations; "
                f"expected one of each a channel, and 1 to {MAX_CHANNELS} channels"
            )
        if not all(math.isfinite(value) for value in self.mean):
            raise InputError(f"image mean is {self.mean}; expected finite numbers")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise InputError(f"image std is {self.std}; expected positive numbers")

    @property
    def channels(self) -> int:
        """How many channels a picture has: 1 is grey, 3 is RGB."""
        return len(self.mean)

    def for_input(self, kind: InputKind) -> ImageSpec:
        """Return the same preprocessing for a graph that takes `kind`."""
        if kind == "float32":
            return replace(self, dtype="float32", layout="NCHW", normalise="caller")
        return replace(self, dtype=kind, layout="NHWC", normalise="graph")

    def input_shape(self, batch: int | str) -> tuple[int | str, ...]:
        """Return the shape of the `images` tensor."""
        if self.layout == "NHWC":
            return (batch, self.height, self.width, self.channels)
        return (batch, self.channels, self.height, self.width)


@dataclass(frozen=True)
class HeadConfig:
    """The attention head's switches (TAME, section III; the ablations of its table V).

    `width`: branches keep their C_i channels, project to one channel a class, or are narrow: to as
    many channels as are listed, one number a layer. The skip connection of a narrow branch is a
    concatenation: the fuser reads the layer's features and the branch beside them. `tokens`: what a
    transformer's tokens become (T-TAME): the patch tokens, or those times the class token. `branch`
    "identity" has no branches: the fuser reads the features as they are (CAM, Zhou et al. 2016).
    "recipro-cam" has no fuser either: the rest of the network scores masked copies of one layer's
    output (ReciproCAM, Byun and Lee 2024). `activation` has no meaning with these two.

    Raises:
        InputError: for counts below one, a branch that is wider than its layer, a skip connection
            over a branch of one channel a class, switches of branches where there are none, or
            ReciproCAM of several layers.
    """

    channels: tuple[int, ...]
    classes: int
    width: Width | tuple[int, ...] = "channels"
    batch_norm: bool = True
    skip: bool = True
    activation: Activation = "relu"
    tokens: TokenUse = "patch"
    branch: Branch = "attention"

    def __post_init__(self) -> None:
        counts = (*self.channels, self.classes)
        if not self.channels or not all(1 <= count <= MAX_COUNT for count in counts):
            raise InputError(
                f"head has channels {list(self.channels)} and {self.classes} classes; "
                f"expected at least one layer, and 1 to {MAX_COUNT} of each"
            )
        self._check_width()
        for name, known in (("activation", Activation), ("tokens", TokenUse), ("branch", Branch)):
            if getattr(self, name) not in get_args(known):
                raise InputError(
                    f"head {name} is {getattr(self, name)!r}; "
                    f"expected {' or '.join(get_args(known))}"
                )
        if self.skip and self.width == "classes":
            raise InputError("a head whose branches are one channel a class has no skip connection")
        switches = (self.width, self.batch_norm, self.skip)
        if self.branch != "attention" and switches != _NO_BRANCHES:
            raise InputError(
                "a head without branches has channels width, no batch norm and no skip"
            )
        if self.branch == "recipro-cam" and len(self.channels) != 1:
            raise InputError(f"ReciproCAM reads one layer; found {len(self.channels)}")

    def _check_width(self) -> None:
        if isinstance(self.width, str):
            if self.width not in get_args(Width):
                raise InputError(
                    f"head width is {self.width!r}; expected {' or '.join(get_args(Width))}, or "
                    "one number a layer"
                )
            return
        fits = len(self.width) == len(self.channels) and all(
            1 <= narrow <= channels
            for narrow, channels in zip(self.width, self.channels, strict=True)
        )
        if not fits:
            raise InputError(
                f"head width is {list(self.width)} for layers of {list(self.channels)} channels; "
                "expected one number a layer, from 1 to the layer's channels"
            )

    @property
    def variant(self) -> str:
        """Name of the published variant with these switches, "cam", "recipro-cam", or "custom".

        How narrow branches are is no part of it.
        """
        if self.branch != "attention":
            return "cam" if self.branch == "identity" else self.branch
        width = self.width if isinstance(self.width, str) else "channels"
        switches = (width, self.batch_norm, self.skip, self.activation)
        return next((name for name, known in VARIANTS.items() if known == switches), "custom")

    def branch_width(self, layer: int) -> int:
        """Return how many channels the convolution of a layer's branch gives out."""
        if not isinstance(self.width, str):
            return self.width[layer]
        return self.channels[layer] if self.width == "channels" else self.classes

    def fuser_widths(self, layer: int) -> tuple[int, ...]:
        """Return how many channels each tensor has that the fuser reads of a layer.

        That is the branch; of a narrow one with a skip connection, the features before it.
        """
        beside = self.skip and not isinstance(self.width, str)
        return (*((self.channels[layer],) if beside else ()), self.branch_width(layer))


#: Width, batch norm and skip of a head without branches.
_NO_BRANCHES = ("channels", False, False)

#: The published variants: width, batch norm, skip, activation.
VARIANTS: dict[str, tuple[Width, bool, bool, Activation]] = {
    "tame": ("channels", True, True, "relu"),
    "no-skip-no-batchnorm": ("channels", False, False, "relu"),
    "sigmoid-branch": ("channels", True, True, "sigmoid"),
    "no-skip": ("classes", True, False, "relu"),
}


def variant_config(
    variant: str,
    channels: tuple[int, ...],
    classes: int,
    tokens: TokenUse = "patch",
    narrow: tuple[int, ...] | None = None,
) -> HeadConfig:
    """Return the configuration of a published variant, with branches of `narrow` channels if given.

    Raises:
        InputError: if there is no such variant, or narrow branches do not go with it.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown head variant {variant!r}; expected one of {', '.join(VARIANTS)}")
    width, batch_norm, skip, activation = VARIANTS[variant]
    if narrow is not None and width == "classes":
        raise InputError(
            f"the branches of variant {variant} are one channel a class, so they have no --width; "
            "take --width full, or another variant"
        )
    return HeadConfig(channels, classes, narrow or width, batch_norm, skip, activation, tokens)


def narrow_widths(width: int | float | str, channels: Sequence[int]) -> tuple[int, ...]:
    """Return how many channels narrow branches have, one number a layer.

    Args:
        width: channels of every branch, or a share of the layer's channels, such as 0.125 or "1/8".
        channels: of the layers.

    Raises:
        InputError: if it is neither, or wider than a layer.
    """
    try:
        share = Fraction(str(width).strip())
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if str(width).strip().isdecimal() and share >= 1:
        above = [count for count in channels if count < share]
        if above:
            raise InputError(
                f"width is {share}, above the {above[0]} channels of a layer "
                f"(of {', '.join(map(str, channels))}); expected at most {min(channels)}, or a "
                "share such as 1/8"
            )
        return (int(share),) * len(channels)
    if not 0 < share < 1:
        raise InputError(
            f"width is {width!r:.40}; expected a number of channels, or a share of each layer's "
            "between 0 and 1, such as 1/8"
        )
    return tuple(max(1, round(count * share)) for count in channels)
