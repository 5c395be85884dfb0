"""Heads that the default recipe trains on real networks, from 300 photographs; 200 others judge.

Runs are kept in a folder, and not made again if they are whole. The photographs that judge are of
classes that none of the trained ones is of: each of the 500 shows another class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from crops import SHARED, photographs

from tame_deploy.data.labelled import Pictures, Subset
from tame_deploy.evaluation.result import Evaluation, bootstrap
from tame_deploy.training.recipe import Recipe, decode_recipe, recipe_table
from tame_deploy.training.train_head import train_head

__all__ = ["REAL", "differences", "held_out", "recipe_of", "train_real_head"]

#: Real networks, and the layers of their heads; the last one is what the classifier pools.
REAL: dict[str, dict[str, Any]] = {
    "squeezenet1_1": {
        "backbone": "squeezenet1_1",
        "weights": "squeezenet1_1-imagenet.safetensors",
        "layers": ["features.7", "features.10", "features.12"],
    },
    "efficientnet_lite0": {
        "backbone": "timm:tf_efficientnet_lite0",
        "weights": "efficientnet_lite0-imagenet.safetensors",
        "layers": ["blocks.2", "blocks.4", "bn2"],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
}


def _is_held_out(number: int) -> bool:
    return number % 5 in (1, 3)


def held_out(limit: int | None = None) -> Pictures:
    """Return the photographs that judge, spread over the classes."""
    pictures = photographs(SHARED)
    numbers = [number for number in range(len(pictures)) if _is_held_out(number)]
    spread = np.linspace(0, len(numbers) - 1, min(limit or len(numbers), len(numbers)))
    return Subset(pictures, tuple(numbers[round(place)] for place in spread))


def _training_list(folder: Path) -> Path:
    """Write the list of the photographs that train; validation is a part of it."""
    pictures = photographs(SHARED)
    path = folder / "train.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = [number for number in range(len(pictures)) if not _is_held_out(number)]
    lines = [f"{Path(pictures.name(number)).name} {pictures.label(number)}\n" for number in chosen]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def recipe_of(
    name: str, folder: Path, epochs: int, changes: Mapping[str, Any], base: str = "default"
) -> Recipe:
    """Return a recipe for a real network; changes are by "section.key"."""
    data = SHARED / "data"
    table = recipe_table(base)
    real = REAL[name]
    table["model"] |= real | {"weights": str(data / real["weights"]), "labels": "imagenet"}
    table.setdefault("data", {}).update(
        train=str(_training_list(folder)), root=str(data / "imagenet-sample")
    )
    table["run"] |= {"epochs": epochs, "workers": 0}
    for key, value in changes.items():
        section, _, item = key.partition(".")
        table.setdefault(section, {})[item] = value
        if value is None:
            del table[section][item]
    return decode_recipe(table)


def train_real_head(recipe: Recipe, run: Path, say: Callable[[str], None]) -> Path:
    """Return the file of the best head, by the loss on a twentieth of the pictures."""
    return train_head(recipe, run, resume=run.is_dir(), report=say).best_head


def differences(ours: Evaluation, other: Evaluation) -> dict[str, list[float]]:
    """Return by how much our scores are above another's: mean, and its 95 % interval.

    Of the same pictures, so that what makes a picture hard is in neither.
    """
    names = [name for name in ours.scores if name in other.scores]
    table = np.stack([ours.scores[name] - other.scores[name] for name in names], axis=1)
    found = bootstrap(table)
    return {
        name: [round(value, 3) for value in (one.mean, one.low, one.high)]
        for name, one in zip(names, found, strict=True)
    }
