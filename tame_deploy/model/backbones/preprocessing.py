"""How pictures are prepared: what somebody declared of it, and what was assumed for the rest."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from tame_deploy.artifact.decoding import TOML, decode, read_toml
from tame_deploy.artifact.types import Crop, ImageSpec, Interpolation
from tame_deploy.errors import InputError
from tame_deploy.picture.window import graph_image

__all__ = [
    "IMAGENET",
    "NOTHING_SAID",
    "ChannelOrder",
    "Preprocessing",
    "Rescale",
    "declared_by",
    "image_spec",
    "overlay",
    "read_preprocessing",
    "undeclared",
]

ChannelOrder = Literal["rgb", "bgr"]
Rescale = Literal["unit", "signed", "none"]

#: What pixels of 0 to 255 are multiplied by, and what is then added, before the mean is taken off.
_RESCALED: dict[Rescale, tuple[float, float]] = {
    "unit": (1 / 255, 0.0),
    "signed": (1 / 128, -127 / 128),
    "none": (1.0, 0.0),
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How pictures are prepared; None is left open.

    `image_size` is (height, width) in pixels, `resize` the length that the short side gets before
    the middle is cut out. `mean` and `std` have one number a channel, RGB whatever `channel_order`
    is, for pixels as `rescale` leaves them: "unit" x/255, "signed" (x-127)/128, "none" x. Where a
    `rescale` is given without them, that is all: mean 0, standard deviation 1. `channel_order` is
    what the network takes. `input` says how many bits of grey count, and `window` which levels of
    16: "low,high", "full" or "own".
    """

    image_size: tuple[int, int] | None = None
    resize: int | None = None
    crop: Crop | None = None
    interpolation: Interpolation | None = None
    rescale: Rescale | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channel_order: ChannelOrder | None = None
    pad_level: int | None = None
    input: Literal["uint8", "uint16"] | None = None
    window: str | None = None


NOTHING_SAID = Preprocessing()

#: What is assumed where nobody says anything: torchvision's evaluation on ImageNet.
IMAGENET = Preprocessing(
    image_size=(224, 224),
    resize=256,
    crop="center",
    interpolation="bilinear",
    mean=ImageSpec().mean,
    std=ImageSpec().std,
)


def declared_by(image: ImageSpec) -> Preprocessing:
    """Return what an `ImageSpec` says, which is everything."""
    return Preprocessing(
        image_size=(image.height, image.width),
        resize=image.resize,
        crop=image.crop,
        interpolation=image.interpolation,
        mean=image.mean,
        std=image.std,
        pad_level=image.pad_level,
        input="uint16" if image.dtype == "uint16" else None,
        window=_window_of(image),
    )


def _window_of(image: ImageSpec) -> str | None:
    if image.dtype != "uint16":
        return None
    return "own" if image.window is None else f"{image.window[0]},{image.window[1]}"


def read_preprocessing(path: str) -> Preprocessing:
    """Return what a TOML file says of the preprocessing.

    Raises:
        InputError: if it cannot be read, or has a key or a value that is none.
    """
    try:
        said: Preprocessing = decode(Preprocessing, read_toml(Path(path)), "", TOML)
    except InputError as error:
        name = "" if path in str(error) else f"{path}: "
        raise InputError(f"--preprocessing {name}{error}") from None
    return said


def overlay(base: Preprocessing, over: Preprocessing) -> Preprocessing:
    """Return `base` with what `over` says in its place.

    Another size of pictures changes the short side in proportion, unless `over` says that too.
    """
    over, base = _for_unit_pixels(over), _for_unit_pixels(base)
    said = {
        item.name: value
        for item in fields(Preprocessing)
        if (value := getattr(over, item.name)) is not None
    }
    if over.image_size and base.image_size and base.resize and not over.resize:
        ratio = base.resize / min(base.image_size)
        said["resize"] = max(1, round(ratio * max(over.image_size)))
    return replace(base, **said)


def _for_unit_pixels(said: Preprocessing) -> Preprocessing:
    """Return the same with mean and deviation for pixels in [0, 1], which is how they are kept."""
    if said.rescale is None:
        if said.mean and max(map(abs, said.mean)) > 2:
            raise InputError(
                f"found mean {_listed(said.mean)}; expected those of pixels in 0 to 1. For pixels "
                "of 0 to 255 say that they are not rescaled: --rescale none, or rescale = 'none'"
            )
        return said
    factor, offset = _RESCALED[said.rescale]
    channels = len(said.mean or said.std or (0.0,) * 3)
    mean, std = said.mean or (0.0,) * channels, said.std or (1.0,) * channels
    return replace(
        said,
        rescale=None,
        mean=tuple((value - offset) / (255 * factor) for value in mean),
        std=tuple(value / (255 * factor) for value in std),
    )


def image_spec(said: Preprocessing, default: Preprocessing) -> ImageSpec:
    """Return the preprocessing as a network's `ImageSpec`; `default` says what `said` leaves open.

    Raises:
        InputError: for values that are none.
    """
    whole = overlay(default, said)
    assert whole.image_size is not None
    height, width = whole.image_size
    values = {
        name: value
        for name in ("resize", "crop", "interpolation", "mean", "std", "pad_level")
        if (value := getattr(whole, name)) is not None
    }
    image = ImageSpec(height=height, width=width, **values)
    return graph_image(image, whole.input, whole.window)


def undeclared(said: Preprocessing, image: ImageSpec) -> str:
    """Say what of an image's preprocessing nobody declared; "" if all of it was."""
    parts = []
    if said.image_size is None:
        parts.append(f"pictures of {image.height}x{image.width}")
    if said.crop is None and image.crop == "center":
        parts.append("the middle cut out")
    if said.resize is None and image.crop == "center":
        parts.append(f"the short side resized to {image.resize}")
    if said.interpolation is None:
        parts.append(f"{image.interpolation} interpolation")
    for name, word in (("mean", "mean"), ("std", "standard deviation")):
        if getattr(said, name) is None:
            values = getattr(image, name)
            whose = "ImageNet's " if values == getattr(IMAGENET, name) else ""
            parts.append(f"{whose}{word} {_listed(values)}")
    return ", ".join(parts)


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
