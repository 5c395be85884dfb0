"""What is drawn for each picture of a run, under file names of its own."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tame_deploy.picture.overlay import contact_sheet
from tame_deploy.picture.preprocess import IMAGE_SUFFIXES
from tame_deploy.runtime.explain.explanation import NOTHING_TO_TELL, PictureExplanation

__all__ = ["Drawings"]

SHEET_NAME = "contact-sheet.jpg"
#: More thumbnails than this make a sheet that no viewer likes.
SHEET_LIMIT = 60
_THUMBNAIL_SIDE = 440
#: Larger overlays cost time and memory and show no more.
OVERLAY_SIDE = 1600
#: Of a picture's own name in UTF-8. With what is added, the least of file systems takes it.
_MOST_BYTES = 100


class Drawings:
    """Writes overlays, panels and maps of pictures into a folder, and one contact sheet.

    Args:
        folder: an existing directory.
        pictures: whether overlays, panels and the contact sheet are drawn.
        maps: whether maps are, as grey pictures.
        taken: names of files in the folder that must stay.
    """

    def __init__(
        self, folder: Path, *, pictures: bool, maps: bool, taken: frozenset[str] = frozenset()
    ) -> None:
        self.folder, self.pictures, self.maps = folder, pictures, maps
        self._endings = ("-overlay.jpg", "-panel.jpg") * pictures + ("-map.png",) * maps
        # Some file systems do not tell capitals from small letters.
        self._taken = {name.casefold() for name in taken}
        self._numbers: dict[str, int] = {}
        self._thumbnails: list[tuple[Image.Image, str]] = []
        self._versus: str | None = None  # one run contrasts all classes with the same one

    def add(self, one: PictureExplanation, record: dict[str, Any]) -> None:
        """Write one picture's files, and name them in its record.

        Raises:
            OSError: if one cannot be written.
        """
        several = len(one.class_ids) > 1
        places = [f"-{place + 1}" if several else "" for place in range(len(one.class_ids))]
        stem = self._free_stem(record["file"], places)
        for place, suffix in enumerate(places):
            name = f"{stem}{suffix}"
            if self.pictures:
                overlay, panel = f"{name}-overlay.jpg", f"{name}-panel.jpg"
                self._save(one.overlay(place, max_side=OVERLAY_SIDE), overlay)
                self._save(one.panel(place, title=Path(record["file"]).name), panel)
                record["explained"][place] |= {"overlay": overlay, "panel": panel}
            if self.maps:
                self._save(_grey(one, place), f"{name}-map.png")
        if self.maps:
            record["maps"] = [f"{stem}{suffix}-map.png" for suffix in places]
        if self.pictures and len(self._thumbnails) < SHEET_LIMIT:
            likeliest, other = one.explained[0], one.versus[0]
            caption = f"{likeliest.name} {likeliest.probability:.0%}"
            if other is not None:
                self._versus = other.name
                if other.class_id == likeliest.class_id:
                    caption += f": {NOTHING_TO_TELL}"
            self._thumbnails.append((one.overlay(max_side=_THUMBNAIL_SIDE), caption))

    def draw_sheet(self) -> Path | None:
        """Write the contact sheet, if there is anything on it, and return where it is.

        Raises:
            OSError: if it cannot be written.
        """
        if not self._thumbnails:
            return None
        self._save(contact_sheet(self._thumbnails, versus=self._versus), SHEET_NAME)
        return self.folder / SHEET_NAME

    def _free_stem(self, picture: str, places: list[str]) -> str:
        """Return a picture's own name, or with a number where it has been given away."""
        stem = _stem_of(picture)
        for number in count(self._numbers.get(stem, 1)):
            tried = stem if number == 1 else f"{stem}~{number}"
            files = {f"{tried}{place}{end}".casefold() for place in places for end in self._endings}
            if self._taken.isdisjoint(files):
                break
        self._taken |= files
        self._numbers[stem] = number
        return tried

    def _save(self, image: Image.Image, name: str) -> None:
        # Pillow's PNG writer takes no notice of JPEG's options.
        image.save(self.folder / name, quality=92, subsampling=0)


def _grey(one: PictureExplanation, place: int) -> Image.Image:
    """Return a map as a grey picture: black is 0 and white 1; of a difference, 128 is 0."""
    heat = one.heat(place)
    levels = heat * 255 if one.versus[place] is None else 128 + heat * 127
    return Image.fromarray(np.rint(levels).astype(np.uint8))


def _stem_of(picture: str) -> str:
    """Return the start of a file's name without a picture's suffix, cut between characters."""
    path = Path(picture)
    end = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else ""
    stem = path.name.removesuffix(end).encode("utf-8", "replace")
    return stem[:_MOST_BYTES].decode("utf-8", "ignore")
