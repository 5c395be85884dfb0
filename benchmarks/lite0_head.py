"""A head for EfficientNet-Lite0, trained for some minutes: what a user would quantize.

Two random crops are cut from each of 500 ImageNet pictures and learnt from once, in 60 steps of 16
(seed 0). With one picture a class nothing else would have seen the class, so the whole pictures
that a quantization is judged on are known to the head in part; what is judged there is how far
eight bits are from float32, not how well the head explains. The run is kept in
build/efficientnet_lite0, and not repeated if it is whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tame_deploy.data.labelled import Pictures
from tame_deploy.data.sources import PictureSource, open_pictures
from tame_deploy.training.recipe import Recipe, decode_recipe
from tame_deploy.training.train_head import train_head

__all__ = ["trained_head"]

KEPT = Path("build/efficientnet_lite0")
CROPS = 2


def trained_head(network: dict[str, Any], shared: Path, say: Any) -> Path:
    """Return the head's file; a network is one of quantization.py's."""
    KEPT.mkdir(parents=True, exist_ok=True)
    data = shared / "data"
    photographs = PictureSource(str(data / "imagenet-sample.csv"), str(data / "imagenet-sample"))
    crops = _cut_crops(open_pictures(photographs, 1000), KEPT)
    run = KEPT / "run"
    trained = train_head(_recipe(network, data, crops), run, resume=run.is_dir(), report=say)
    return trained.last_head


def _cut_crops(pictures: Pictures, folder: Path) -> Path:
    """Cut 224x224 crops of 30 to 100 % of each picture's area; return their list."""
    lines = []
    for number in range(len(pictures)):
        generator = np.random.default_rng(number)
        picture = pictures.image(number).convert("RGB")
        for crop in range(CROPS):
            side = round(min(picture.size) * generator.uniform(0.55, 1.0))
            left = int(generator.integers(0, picture.width - side + 1))
            top = int(generator.integers(0, picture.height - side + 1))
            box = (left, top, left + side, top + side)
            name = f"{number:03}-{crop}.png"
            picture.resize((224, 224), Image.Resampling.BICUBIC, box).save(folder / name)
            lines.append(f"{name} {pictures.label(number)}")
    listed = folder / "train.txt"
    listed.write_text("\n".join(lines) + "\n")
    return listed


def _recipe(network: dict[str, Any], data: Path, crops: Path) -> Recipe:
    image = {key: list(values) for key, values in network["image"].items()}
    return decode_recipe(
        {
            "model": {
                "backbone": network["backbone"],
                "weights": str(data / network["weights"]),
                "layers": list(network["layers"]),
                "labels": "imagenet",
                "initial_bias": 2.0,
                **image,
            },
            "data": {"train": str(crops), "random_crop": False},
            "loss": {"maps": "own", "area_warmup": 0.3},
            "optimizer": {"name": "adamw", "max_lr": 2e-3, "bias_lr_factor": 1.0},
            "run": {"epochs": 1, "batch_size": 16, "workers": 0},
        }
    )
