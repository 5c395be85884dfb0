"""What a model says of its preprocessing: timm's, torchvision's and transformers' forms of it."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, cast, get_args

from torch import nn

from tame_deploy.artifact.decoding import TOML, decode
from tame_deploy.artifact.types import ImageSpec, Interpolation
from tame_deploy.errors import InputError
from tame_deploy.model.backbones.backbone import Transform, first_line
from tame_deploy.model.backbones.preprocessing import Preprocessing, declared_by

__all__ = [
    "ATTRIBUTES",
    "declared_by_processor",
    "declared_by_timm",
    "declared_by_torchvision",
    "read_declaration",
]

#: Where a module or the callable that builds it may say how pictures are prepared, in this order.
ATTRIBUTES = ("image_spec", "preprocessing", "transforms", "pretrained_cfg", "default_cfg")

#: Pillow's numbers of its filters, which transformers keeps.
_RESAMPLE: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def read_declaration(owners: Sequence[Any], name: str) -> tuple[Preprocessing, Transform | None]:
    """Return what a network declares of its preprocessing, and its own transform if any.

    Args:
        owners: what may declare it, in this order: the module, wrappers around it, and the
            callable that built it.
        name: the backbone's, for messages.

    Raises:
        InputError: if something is declared that cannot be understood.
    """
    for owner in owners:
        for attribute in ATTRIBUTES:
            declared = getattr(owner, attribute, None)
            # A method of such a name prepares pictures, but does not say how.
            if not declared or inspect.isroutine(declared) or _is_part(owners, declared):
                continue
            try:
                return _understood(declared)
            # What is declared may be of any form.
            except Exception as error:
                reason = error if isinstance(error, InputError) else _malformed(error)
                raise InputError(
                    f"{name} declares its preprocessing as {attribute}, {reason}; see "
                    "docs/models.md, or say it with --preprocessing FILE"
                ) from None
    return Preprocessing(), None


def _malformed(error: Exception) -> str:
    return f"which cannot be read ({first_line(error):.100})"


def _is_part(owners: Sequence[Any], declared: Any) -> bool:
    """Whether a module is a part of the network that happens to have such a name.

    A wrapper may give its network's parts for its own, so all owners are asked.
    """
    modules = [owner for owner in owners if isinstance(owner, nn.Module)]
    foreign = not type(declared).__module__.startswith("torchvision.transforms")
    return foreign and any(declared is part for one in modules for part in one.children())


def _understood(declared: Any) -> tuple[Preprocessing, Transform | None]:
    if isinstance(declared, functools.partial):  # as `transforms` of torchvision's weights is
        declared = declared()
    if isinstance(declared, ImageSpec):
        return declared_by(declared), None
    if isinstance(declared, Preprocessing):
        return declared, None
    if type(declared).__name__ == "PretrainedCfg":
        declared = declared.to_dict()
    if isinstance(declared, Mapping):
        if declared.keys() <= {item.name for item in fields(Preprocessing)}:
            said: Preprocessing = decode(Preprocessing, declared, "", TOML)
            return said, None
        return declared_by_timm(declared), None
    if hasattr(declared, "image_processor_type") or hasattr(declared, "image_mean"):
        return declared_by_processor(declared), processor_transform(declared)
    if callable(declared):
        return declared_by_torchvision(declared), declared
    raise InputError(f"which is {type(declared).__name__}, and that is not understood")


def declared_by_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Return what a configuration of timm says (`pretrained_cfg`); "squash" keeps all of a picture.

    Raises:
        InputError: for an interpolation or a crop that is not known.
    """
    if "mean" not in config and "input_size" not in config:
        raise InputError(f"which has {', '.join(map(str, config))}; expected mean, std, input_size")
    _, height, width = config.get("input_size") or (3, 224, 224)
    share = config.get("crop_pct") or 0.875
    crops = {"center": "center", "border": "pad", "squash": "none"}
    crop = config.get("crop_mode") or "center"
    if crop not in crops:
        raise InputError(f"whose crop_mode is {crop!r}; expected {', '.join(crops)}")
    if crop != "center" and share != 1:
        crop = "center"  # of a square picture, that is the same
    mean = _floats(config.get("mean"), (0.485, 0.456, 0.406))
    return Preprocessing(
        image_size=(int(height), int(width)),
        resize=math.floor(max(height, width) / share),
        crop=cast(Any, crops[crop]),
        interpolation=_interpolation(config.get("interpolation") or "bicubic"),
        mean=mean,
        std=_floats(config.get("std"), (0.229, 0.224, 0.225)),
        # timm fills with the mean of each channel; one level stands for all.
        pad_level=round(255 * sum(mean) / len(mean)) if crop == "border" else None,
    )


def _interpolation(found: Any) -> Interpolation:
    name = getattr(found, "value", found)  # of torchvision's InterpolationMode
    if name not in get_args(Interpolation):
        raise InputError(f"whose interpolation is {name!r}; expected {_names(Interpolation)}")
    return cast(Interpolation, name)


def _names(literal: Any) -> str:
    return ", ".join(get_args(literal))


def _floats(values: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    if values is None:
        return default
    values = values if hasattr(values, "__iter__") else (values,) * 3
    return tuple(float(value) for value in values)


def declared_by_torchvision(transform: Any) -> Preprocessing:
    """Return what a preset of torchvision's weights, or a chain of transforms, does.

    Raises:
        InputError: for a step that is not known, or one too many.
    """
    if all(hasattr(transform, name) for name in ("crop_size", "resize_size", "mean", "std")):
        (side,), (resize,) = transform.crop_size, transform.resize_size
        return Preprocessing(
            image_size=(side, side),
            resize=resize,
            crop="center",
            interpolation=_interpolation(transform.interpolation),
            mean=tuple(map(float, transform.mean)),
            std=tuple(map(float, transform.std)),
        )
    steps = getattr(transform, "transforms", None)
    if not isinstance(steps, (list, tuple)):
        raise InputError(f"which is {type(transform).__name__}, and that is not understood")
    found: dict[str, Any] = {}
    for step in steps:
        kind = type(step).__name__
        if kind in found:
            raise InputError(f"which has {kind} twice")
        if kind not in ("Resize", "CenterCrop", "Normalize", "ToDtype", *_CONVERSIONS):
            raise InputError(f"whose step {kind} is not understood")
        found[kind] = step
    return _declared_by_steps(found)


#: Steps that change the type of a picture, not what it shows.
_CONVERSIONS = (
    "ToTensor", "PILToTensor", "ToImage", "ToPureTensor", "ConvertImageDtype", "RGB", "ToRGB",
)  # fmt: skip


def _declared_by_steps(found: Mapping[str, Any]) -> Preprocessing:
    resize, crop = (_sides(getattr(found.get(k), "size", None)) for k in ("Resize", "CenterCrop"))
    if "Resize" not in found or (len(crop or resize) == 1 and not crop):
        raise InputError("which does not give pictures of one size: it lacks Resize or CenterCrop")
    height, width = (crop * 2)[:2] if crop else resize
    whole = len(resize) == 2 and (not crop or resize == (height, width))
    scaled = {"ToTensor", "ConvertImageDtype"} & found.keys() or getattr(
        found.get("ToDtype"), "scale", False
    )
    normalise = found.get("Normalize")
    return Preprocessing(
        image_size=(height, width),
        resize=resize[0] if len(resize) == 1 else max(resize),
        crop="none" if whole else "center",
        interpolation=_interpolation(found["Resize"].interpolation),
        rescale="unit" if scaled else "none",
        mean=tuple(map(float, normalise.mean)) if normalise else None,
        std=tuple(map(float, normalise.std)) if normalise else None,
    )


def _sides(size: Any) -> tuple[int, ...]:
    if size is None:
        return ()
    return tuple(size) if isinstance(size, (list, tuple)) else (size,)


def declared_by_processor(processor: Any) -> Preprocessing:
    """Return what an image processor of transformers says.

    Raises:
        InputError: for a size or an interpolation that is not known.
    """
    said: dict[str, Any] = processor.to_dict()
    if "pretrained_cfg" in said:  # a model of timm in transformers' clothes
        return declared_by_timm(said["pretrained_cfg"])
    geometry = _geometry(said, type(processor).__name__)
    resample = said.get("resample", 2)
    if resample not in _RESAMPLE:
        raise InputError(f"whose resample is {resample}; expected 0 to 3")
    factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
    offset = -1.0 if said.get("rescale_offset") else 0.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if said.get("do_normalize") and said.get("image_mean") is not None:
        mean, std = _floats(said["image_mean"], mean), _floats(said["image_std"], std)
    if said.get("include_top"):  # EfficientNet's divides by the deviation once more
        std = tuple(value * value for value in std)
    return Preprocessing(
        **geometry,
        interpolation=_RESAMPLE[resample],
        mean=tuple((value - offset) / (255 * factor) for value in mean),
        std=tuple(value / (255 * factor) for value in std),
        channel_order="bgr" if said.get("do_flip_channel_order") else "rgb",
    )


def _geometry(said: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return image_size, resize and crop of a processor's settings."""
    size, crop = (_named_sides(said.get(name)) for name in ("size", "crop_size"))
    if not said.get("do_center_crop"):
        crop = ()
    if not said.get("do_resize", True) or not size:
        raise InputError(f"which is {kind} without a size that it resizes to")
    short = size[0] if len(size) == 1 else None
    share = said.get("crop_pct")
    if short and share and not crop:  # ConvNeXt's
        whole = short >= 384
        return {
            "image_size": (short, short),
            "resize": short if whole else int(short / share),
            "crop": "none" if whole else "center",
        }
    if short and share:
        short = int(short / share)  # PoolFormer's
    elif short and kind.startswith("Levit"):
        short = int(256 / 224 * short)
    if crop:
        crop = (crop * 2)[:2]
        whole = not short and size == crop
        resize = short or max(size)
        return {"image_size": crop, "resize": resize, "crop": "none" if whole else "center"}
    if short:
        raise InputError(f"which is {kind} and gives pictures of many sizes; expected a crop")
    return {"image_size": size, "resize": max(size), "crop": "none"}


def _named_sides(size: Any) -> tuple[int, ...]:
    if size is None:
        return ()
    if isinstance(size, int):
        return (size, size)
    size = dict(size)
    if size.get("shortest_edge"):
        return (int(size["shortest_edge"]),)
    if size.get("height") and size.get("width"):
        return (int(size["height"]), int(size["width"]))
    return ()


def processor_transform(processor: Any) -> Transform:
    """Return an image processor as a function from a picture to a tensor."""

    def transform(picture: Any) -> Any:
        return processor(picture, return_tensors="pt")["pixel_values"][0]

    return cast(Callable[..., Any], transform)
