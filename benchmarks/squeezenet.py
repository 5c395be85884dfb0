"""TAME beside baseline methods on a real ImageNet classifier and real pictures.

    python benchmarks/squeezenet.py            # needs the data that CONTRIBUTING.md tells of

The head's run is kept in build/squeezenet and not trained again if it is whole.

Eight random crops are cut from each of 500 ImageNet pictures: four train a head on SqueezeNet 1.1,
and one of the other four is explained by every method. So the evaluated crops are new to the head,
while the pictures are not: with one picture a class, nothing else would have seen the class.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from crops import SHARED, cut_crops, one_crop_each, photographs
from machine import machine_facts, write_results
from method_comparison import compare_methods, without_lists
from rich.console import Console

from tame_deploy.training.recipe import decode_recipe
from tame_deploy.training.train_head import build_recipe_network, train_head

LAYERS = ("features.7", "features.10", "features.12")
METHODS = ("tame", "tame-sigmoid", "grad-cam", "grad-cam++", "layercam", "score-cam", "random")
TRAINED, HELD_OUT = 4, 4


def make_recipe(training: Path, options: argparse.Namespace) -> Any:
    """Return the recipe of the head."""
    return decode_recipe(
        {
            "model": {
                "backbone": "squeezenet1_1",
                "weights": str(SHARED / "data" / "squeezenet1_1-imagenet.safetensors"),
                "layers": list(LAYERS),
                "labels": "imagenet",
                "initial_bias": options.initial_bias,
            },
            "data": {"train": str(training), "random_crop": False},
            "loss": {"maps": options.maps, "area_warmup": options.area_warmup},
            "optimizer": {"name": "adamw", "max_lr": options.lr, "bias_lr_factor": 1.0},
            "run": {"epochs": options.epochs, "batch_size": 32, "workers": 1},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--maps", choices=["batch", "own"], default="own")
    parser.add_argument("--initial-bias", type=float, default=2.0)
    parser.add_argument("--area-warmup", type=float, default=0.3)
    parser.add_argument("--output", type=Path, default=Path("build/squeezenet"))
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    options = parser.parse_args()
    console = Console(width=160)
    options.output.mkdir(parents=True, exist_ok=True)
    training, held_out = cut_crops(photographs(SHARED), options.output, TRAINED, HELD_OUT)
    recipe = make_recipe(training, options)
    run = options.output / "run"
    trained = train_head(recipe, run, resume=run.is_dir(), report=console.print)
    if options.train_only:
        return
    model = replace(recipe.model, head=str(trained.best_head))
    network = build_recipe_network(replace(recipe, model=model))
    pictures = one_crop_each(held_out, HELD_OUT, options.pictures)
    found = compare_methods(
        network, pictures, options.methods, options.output / "grid.jpg", console
    )
    names = ("epochs", "lr", "maps", "initial_bias", "area_warmup")
    results = {
        "machine": machine_facts("tame-deploy", "torch", "grad-cam"),
        "crops_trained_on": 500 * TRAINED,
        **{name: getattr(options, name) for name in names},
        "methods": [without_lists(one) for one in found],
    }
    console.print(str(write_results("squeezenet", results)))


if __name__ == "__main__":
    main()
