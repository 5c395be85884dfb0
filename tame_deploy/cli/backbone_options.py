"""The options that name a backbone and say how its pictures are prepared, as a request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tame_deploy.artifact.types import Crop, Interpolation, OutputKind, Task
from tame_deploy.cli.options import parse_numbers, parse_size

if TYPE_CHECKING:
    from tame_deploy.model.backbones import BackboneRequest

__all__ = ["BackboneOptions", "folder_name"]


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """The options of `export`, `evaluate` and `compare` that are the backbone's, as typed."""

    backbone: str | None
    weights: str
    classes: int | None
    labels: str | None
    image_size: str | None
    resize: int | None
    crop: Crop | None
    interpolation: Interpolation | None
    rescale: Literal["unit", "signed", "none"] | None
    mean: str | None
    std: str | None
    channel_order: Literal["rgb", "bgr"] | None
    pad_level: int | None
    preprocessing: str | None
    transform_input: Literal["yes", "no"] | None
    prefix_tokens: int | None
    task: Task | None
    outputs: OutputKind | None
    trust_remote_code: bool

    def request(self, seed: int = 0) -> BackboneRequest:
        """Return what is asked for.

        Raises:
            InputError: for sizes and numbers that are none.
        """
        from tame_deploy.model.backbones import BackboneRequest

        return BackboneRequest(
            str(self.backbone),
            self.weights,
            classes=self.classes,
            labels=self.labels,
            image_size=parse_size(self.image_size),
            resize=self.resize,
            crop=self.crop,
            interpolation=self.interpolation,
            rescale=self.rescale,
            mean=parse_numbers("mean", self.mean),
            std=parse_numbers("std", self.std),
            channel_order=self.channel_order,
            pad_level=self.pad_level,
            preprocessing=self.preprocessing,
            transform_input=None if self.transform_input is None else self.transform_input == "yes",
            prefix_tokens=self.prefix_tokens,
            task=self.task,
            outputs=self.outputs,
            trust_remote_code=self.trust_remote_code,
            seed=seed,
        )


def folder_name(backbone: str) -> str:
    """Return a name for a folder: timm-test_vit, net.py-build, hf-my-model."""
    prefix, colon, rest = backbone.rpartition(":")
    # Of paths, only the last part is a name.
    parts = [Path(part).name for part in ((prefix, rest) if colon else (rest,))]
    return "-".join(part.replace(":", "-") for part in parts)
