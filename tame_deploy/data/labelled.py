"""Labelled pictures by number: in files, drawn, or in a torchvision data set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.data.shapes import LABELS, draw_levels, draw_picture
from tame_deploy.errors import InputError
from tame_deploy.picture.preprocess import Picture, load_image, load_picture

__all__ = [
    "HELD_OUT_SEED",
    "DrawnPictures",
    "FilePictures",
    "Pictures",
    "Region",
    "Subset",
    "TorchvisionPictures",
    "has_masks",
]

#: Seeds from here on draw pictures that training never sees.
HELD_OUT_SEED = 10_000_000

#: What pictures are read for, unless a network is named.
RGB = ImageSpec()

#: Where an object is: a mask picture, or boxes (left, top, right, bottom) in pixels.
Region: TypeAlias = "Path | tuple[tuple[float, ...], ...]"


class Pictures(Protocol):
    """Pictures by number; safe to read from several processes."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return what to call a picture in a message: its path, where it has one."""
        ...

    def label(self, index: int) -> int | None:
        """Return a picture's class id, or None where it is not known."""
        ...

    def image(self, index: int, spec: ImageSpec = RGB) -> Picture:
        """Return a picture as a network takes it: upright RGB, or its channels and bits.

        Raises:
            InputError: if it cannot be read.
        """
        ...

    def mask(self, index: int) -> NDArray[np.bool_] | None:
        """Return where the object is, bool (height, width) of the picture, or None if unknown."""
        ...


@dataclass(frozen=True)
class FilePictures:
    """Pictures in files; `missing` lists what a list file names and is not there."""

    paths: tuple[Path, ...]
    labels: tuple[int | None, ...]
    _: KW_ONLY
    regions: Mapping[Path, Region] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return the picture's path."""
        return os.fspath(self.paths[index])

    def label(self, index: int) -> int | None:
        """Return the picture's class id, where it has one."""
        return self.labels[index]

    def image(self, index: int, spec: ImageSpec = RGB) -> Picture:
        """Return the picture (see `Pictures.image`)."""
        return load_picture(self.paths[index], spec)

    def mask(self, index: int) -> NDArray[np.bool_] | None:
        """Return the picture's mask, or its boxes filled (see `Pictures.mask`)."""
        region = self.regions.get(self.paths[index])
        if region is None:
            return None
        if isinstance(region, Path):
            # What is transparent is not the object, and in 16 bits any level but 0 is.
            shown = load_image(region, window=(0, 1), background=(0, 0, 0))
            covered: NDArray[np.bool_] = np.asarray(shown).max(axis=2) > 0
            return covered
        size = load_image(self.paths[index]).size
        mask = np.zeros((size[1], size[0]), bool)
        for left, top, right, bottom in region:
            mask[max(0, round(top)) : round(bottom), max(0, round(left)) : round(right)] = True
        return mask


#: Drawing takes longer than a small network's step, and an epoch asks for each picture again.
_draw = lru_cache(maxsize=8192)(draw_picture)


@dataclass(frozen=True)
class DrawnPictures:
    """The bundled procedural data set; every picture is drawn when it is first asked for."""

    first_seed: int
    count: int
    labelled: bool = True

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Return the seed that draws the picture."""
        return f"drawn picture {self.first_seed + index}"

    def label(self, index: int) -> int | None:
        """Return the shape's class id."""
        return (self.first_seed + index) % len(LABELS) if self.labelled else None

    def image(self, index: int, spec: ImageSpec = RGB) -> Picture:
        """Return the picture (see `Pictures.image`)."""
        seed = self.first_seed + index
        if spec.channels in (1, 3) and spec.dtype != "uint16":
            return _draw(seed)[0].copy()
        return draw_levels(seed, spec)

    def mask(self, index: int) -> NDArray[np.bool_] | None:
        """Return where the shape is (see `Pictures.mask`)."""
        covered: NDArray[np.bool_] = _draw(self.first_seed + index)[1].copy()
        return covered


@dataclass(frozen=True)
class TorchvisionPictures:
    """A torchvision classification data set."""

    dataset_name: str
    dataset: Any
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """Return the data set's name and the picture's number."""
        return f"{self.dataset_name}[{index}]"

    def label(self, index: int) -> int | None:
        """Return the class id, where the data set gives one without decoding."""
        if not self.labelled:
            return None
        for name in ("targets", "_labels"):
            targets = getattr(self.dataset, name, None)
            if targets is not None:
                return int(targets[index])
        target = self._read(index)[1]
        return int(target) if isinstance(target, int | np.integer) else None

    def image(self, index: int, spec: ImageSpec = RGB) -> Picture:
        """Return the picture (see `Pictures.image`)."""
        return load_picture(self._read(index)[0], spec)

    def _read(self, index: int) -> Any:
        try:
            return self.dataset[index]
        # Each data set opens its files in its own way.
        except Exception as error:
            raise InputError(f"{self.name(index)} cannot be read: {error}") from None

    def mask(self, index: int) -> NDArray[np.bool_] | None:  # noqa: ARG002
        """Return None: classification data sets have no masks."""
        return None


@dataclass(frozen=True)
class Subset:
    """Some pictures of others."""

    whole: Pictures
    indices: tuple[int, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """What a list file names and is not there, of the whole."""
        found: tuple[str, ...] = getattr(self.whole, "missing", ())
        return found

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """Return what the picture is called in the whole."""
        return self.whole.name(self.indices[index])

    def label(self, index: int) -> int | None:
        """Return the picture's class id."""
        return self.whole.label(self.indices[index])

    def image(self, index: int, spec: ImageSpec = RGB) -> Picture:
        """Return the picture (see `Pictures.image`)."""
        return self.whole.image(self.indices[index], spec)

    def mask(self, index: int) -> NDArray[np.bool_] | None:
        """Return the picture's mask (see `Pictures.mask`)."""
        return self.whole.mask(self.indices[index])


def has_masks(pictures: Pictures) -> bool:
    """Whether it is known of any picture where its object is."""
    if isinstance(pictures, Subset):
        return has_masks(pictures.whole)
    return isinstance(pictures, DrawnPictures) or bool(getattr(pictures, "regions", None))
