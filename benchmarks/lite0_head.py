"""A head for EfficientNet-Lite0, trained for ten minutes: what a user would compare and quantize.

Eight random crops are cut from each of 500 ImageNet pictures. Four are learnt from twice, in 236
steps of 16 (seed 0); the other four are new to the head. Crops and run are kept in
build/efficientnet_lite0, and not made again if they are whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crops import cut_crops, photographs

from tame_deploy.training.recipe import Recipe, decode_recipe
from tame_deploy.training.train_head import train_head

__all__ = ["EPOCHS", "HELD_OUT", "KEPT", "TRAINED", "lite0_crops", "trained_head"]

KEPT = Path("build/efficientnet_lite0")
TRAINED, HELD_OUT = 4, 4
EPOCHS = 2


def trained_head(network: dict[str, Any], shared: Path, say: Any) -> Path:
    """Return the head's file; a network is one of quantization.py's."""
    crops, _ = lite0_crops(shared)
    run = KEPT / "run"
    recipe = _recipe(network, shared / "data", crops)
    return train_head(recipe, run, resume=run.is_dir(), report=say).last_head


def lite0_crops(shared: Path) -> tuple[Path, ...]:
    """Return the lists of the crops that the head is trained on, and of the others."""
    return cut_crops(photographs(shared), KEPT, TRAINED, HELD_OUT)


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
            "run": {"epochs": EPOCHS, "batch_size": 16, "workers": 0},
        }
    )
