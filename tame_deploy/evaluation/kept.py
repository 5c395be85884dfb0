"""Pictures that are kept while all of them stream by, to be explained again later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tame_deploy.errors import InputError

__all__ = ["MOST_PICTURES", "Keeper", "KeptPictures", "chosen_pictures"]

#: Each is explained again at every step of a randomisation; its paper looks at 50.
MOST_PICTURES = 100


def chosen_pictures(count: int) -> list[int]:
    """Return the numbers of the pictures that are kept, spread over all."""
    spread = np.linspace(0, count - 1, min(count, MOST_PICTURES))
    return [int(number) for number in np.unique(np.rint(spread))]


@dataclass(frozen=True)
class KeptPictures:
    """Pictures, and the maps that the network as it is has for them.

    Attributes:
        pixels: float32 (N, H, W, channels) in [0, 1].
        class_ids: int64 (N), whose maps are compared.
        maps: float32 (N, h, w).
    """

    pixels: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    maps: NDArray[np.float32]


class Keeper:
    """Keeps the pictures that randomised networks will explain, chosen of `count`."""

    def __init__(self, count: int) -> None:
        self._chosen = set(chosen_pictures(count)) if count else set()
        self._parts: list[KeptPictures] = []
        self._rows: list[int] = []
        self._seen = 0

    def keep(
        self,
        indices: Sequence[int],
        pixels: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        maps: NDArray[np.float32],
    ) -> None:
        """Keep what was chosen of the next batch: numbers of its pictures, and its arrays."""
        rows = [row for row, index in enumerate(indices) if index in self._chosen]
        if rows:
            self._parts.append(KeptPictures(pixels[rows], class_ids[rows], maps[rows]))
            self._rows += [self._seen + row for row in rows]
        self._seen += len(indices)

    def pictures(self) -> KeptPictures:
        """Return what was kept.

        Raises:
            InputError: if nothing was.
        """
        if not self._parts:
            raise InputError("none of the pictures that were chosen to be explained again was read")
        return KeptPictures(
            np.concatenate([part.pixels for part in self._parts]),
            np.concatenate([part.class_ids for part in self._parts]),
            np.concatenate([part.maps for part in self._parts]),
        )

    def spread(self, values: NDArray[np.floating[Any]], count: int) -> NDArray[np.float64]:
        """Return the numbers (count) of all pictures: NaN for those that were not kept."""
        column = np.full(count, np.nan)
        column[self._rows] = values
        return column
