"""Crops of the 500 ImageNet pictures: some train a head, others judge it.

With one picture a class nothing else would have seen the class. So crops that judge are new to the
head, while their pictures are not.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from tame_deploy.data.labelled import Pictures, Subset
from tame_deploy.data.sources import PictureSource, open_pictures

__all__ = ["CLASSES", "SHARED", "cut_crops", "one_crop_each", "photographs"]

#: Where CONTRIBUTING.md says that the weights and pictures are.
SHARED = Path(os.environ.get("TAME_DEPLOY_SHARED", Path(__file__).parents[2] / "shared"))
CLASSES = 1000


def photographs(shared: Path) -> Pictures:
    """Return the pictures, labelled."""
    data = shared / "data"
    listed = PictureSource(str(data / "imagenet-sample.csv"), str(data / "imagenet-sample"))
    return open_pictures(listed, CLASSES)


def cut_crops(pictures: Pictures, folder: Path, trained: int, held_out: int) -> tuple[Path, ...]:
    """Cut 224x224 crops of 30 to 100 % of each picture's area, unless they are there.

    Args:
        pictures: what they are cut from.
        folder: where crops and lists go.
        trained: how many of a picture train the head: its first ones.
        held_out: how many more do not.

    Returns:
        The lists: of those that train, and of those held out.
    """
    lists: dict[str, list[str]] = {"train": [], "held-out": []}
    written = tuple(folder / f"{half}.txt" for half in lists)
    if all(path.exists() for path in written):
        return written
    for half in lists:
        (folder / half).mkdir(parents=True, exist_ok=True)
    for number in range(len(pictures)):
        generator = np.random.default_rng(number)
        picture = pictures.image(number).convert("RGB")
        for crop in range(trained + held_out):
            side = round(min(picture.size) * generator.uniform(0.55, 1.0))
            left = int(generator.integers(0, picture.width - side + 1))
            top = int(generator.integers(0, picture.height - side + 1))
            box = (left, top, left + side, top + side)
            half = "train" if crop < trained else "held-out"
            path = folder / half / f"{number:03}-{crop}.png"
            picture.resize((224, 224), Image.Resampling.BICUBIC, box).save(path)
            lists[half].append(f"{path.relative_to(folder)} {pictures.label(number)}")
    for path, lines in zip(written, lists.values(), strict=True):
        path.write_text("\n".join(lines) + "\n")
    return written


def one_crop_each(crops: Path, of_each: int, count: int) -> Subset:
    """Return one crop of `count` pictures each, of a list that has `of_each` of every picture."""
    pictures = open_pictures(PictureSource(str(crops)), CLASSES)
    chosen = np.linspace(0, len(pictures) // of_each - 1, count).round().astype(int)
    return Subset(pictures, tuple(int(number) * of_each for number in chosen))
