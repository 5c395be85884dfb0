"""A frozen classifier, and what one must know to feed it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from tame_deploy.artifact.directory import file_sha256
from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec, OutputKind, Task
from tame_deploy.model.backbones.preprocessing import IMAGENET, NOTHING_SAID, Preprocessing
from tame_deploy.model.backbones.request import BackboneRequest

__all__ = ["Backbone", "Loaded", "Transform", "file_source", "first_line", "random_source"]

#: What turns a picture into the network's normalised input (C, H, W).
Transform: TypeAlias = "Callable[[Image.Image], Tensor]"


@dataclass(frozen=True)
class Backbone:
    """A frozen classifier in eval mode and what one must know to feed it.

    `prefix_tokens` is how many tokens the user says stand before the patches; None asks the module.
    `assumed` says what of the preprocessing
    nobody declared, and `notes` what else a user must know of how the weights were read. `task` and
    `outputs` are what was said of it; `settle_task` finds out the rest. `asked` is what was asked
    for, where that was a request.
    """

    name: str
    module: nn.Module
    image: ImageSpec
    labels: tuple[str, ...] | None
    source: WeightsSource
    prefix_tokens: int | None = None
    assumed: str = ""
    notes: tuple[str, ...] = ()
    task: Task | None = None
    outputs: OutputKind | None = None
    asked: BackboneRequest | None = None

    @property
    def argument(self) -> str:
        """What a user types to name it: a file or a folder by its path; quoted for a shell."""
        return shlex.quote(self.asked.name if self.asked else self.name)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user must know of how the model was read, a line each."""
        if not self.assumed:
            return self.notes
        how = "declare it by an attribute of the model, --preprocessing FILE or options"
        return (*self.notes, f"assumed preprocessing: {self.assumed}; {how} (docs/models.md)")

    @property
    def assumes_size(self) -> bool:
        """Whether nobody declared how large pictures are; `undeclared` names that first."""
        return self.assumed.startswith("pictures of ")

    @property
    def example(self) -> Tensor:
        """A zero picture, float32 (1, channels, height, width)."""
        return torch.zeros(1, self.image.channels, self.image.height, self.image.width)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What one of the sources of backbones knows of a model.

    `declared` is what it says of the preprocessing; `fallback`, of the name `fallback_name`, stands
    in for the rest. `transform` is the model's own preprocessing, where it can be run.
    """

    name: str
    module: nn.Module
    source: WeightsSource
    declared: Preprocessing = NOTHING_SAID
    fallback: Preprocessing = IMAGENET
    fallback_name: str = ""
    transform: Transform | None = None
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def random_source(request: BackboneRequest) -> WeightsSource:
    """Return the source of random weights."""
    return WeightsSource(f"random, seed {request.seed}", random=True)


def file_source(path: Path, part: str = "") -> WeightsSource:
    """Return the source of weights that a file holds, in one of several parts perhaps."""
    return WeightsSource(f"{path.name}#{part}" if part else path.name, sha256=file_sha256(path))


def first_line(error: BaseException) -> str:
    """Return an error of foreign code as one line: its kind and what it says."""
    lines = str(error).strip().splitlines()
    kind: Any = type(error).__name__
    return f"{kind}: {lines[0]:.200}" if lines else str(kind)
