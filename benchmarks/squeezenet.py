"""TAME beside baseline methods on a real ImageNet classifier and real pictures.

    python benchmarks/squeezenet.py            # needs the data that CONTRIBUTING.md tells of

The head's run is kept in build/squeezenet and not trained again if it is whole.

Eight random crops are cut from each of 500 ImageNet pictures: four train a head on SqueezeNet 1.1,
and one of the other four is explained by every method. So the evaluated crops are new to the head,
while the pictures are not: with one picture a class, nothing else would have seen the class.
"""

from __future__ import annotations

import argparse
import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_facts, write_results
from PIL import Image
from rich.console import Console
from rich.table import Table

from tame_deploy.data.labelled import Subset
from tame_deploy.data.sources import PictureSource, open_pictures
from tame_deploy.evaluation.baselines import make_baseline
from tame_deploy.evaluation.compare import compare, comparison_lines, draw_grid
from tame_deploy.evaluation.evaluate import EvaluationOptions
from tame_deploy.metrics.evaluated_model import evaluated_network
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.training.recipe import decode_recipe
from tame_deploy.training.train_head import build_recipe_network, train_head

SHARED = Path(os.environ.get("TAME_DEPLOY_SHARED", Path(__file__).parents[2] / "shared"))
LAYERS = ("features.7", "features.10", "features.12")
METHODS = ("tame", "tame-sigmoid", "grad-cam", "grad-cam++", "layercam", "score-cam", "random")
TRAINED, HELD_OUT = 4, 4


def cut_crops(folder: Path) -> tuple[Path, Path]:
    """Cut 224x224 crops of 30 to 100 % of each picture's area; return the two lists."""
    lists: dict[str, list[str]] = {"train": [], "held-out": []}
    with (SHARED / "data" / "imagenet-sample.csv").open(newline="") as file:
        pictures = [(row["file"], row["class_id"]) for row in csv.DictReader(file)]
    for number, (name, class_id) in enumerate(pictures):
        generator = np.random.default_rng(number)
        picture = Image.open(SHARED / "data" / "imagenet-sample" / name).convert("RGB")
        for crop in range(TRAINED + HELD_OUT):
            side = round(min(picture.size) * generator.uniform(0.55, 1.0))
            left = int(generator.integers(0, picture.width - side + 1))
            top = int(generator.integers(0, picture.height - side + 1))
            box = (left, top, left + side, top + side)
            half = "train" if crop < TRAINED else "held-out"
            path = folder / half / f"{number:03}-{crop}.png"
            path.parent.mkdir(exist_ok=True)
            picture.resize((224, 224), Image.Resampling.BICUBIC, box).save(path)
            lists[half].append(f"{path.relative_to(folder)} {class_id}")
    for half, lines in lists.items():
        (folder / f"{half}.txt").write_text("\n".join(lines) + "\n")
    return folder / "train.txt", folder / "held-out.txt"


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


def held_out_pictures(path: Path, count: int) -> Subset:
    """Return one held-out crop of each of `count` pictures, spread over all of them."""
    pictures = open_pictures(PictureSource(str(path)), 1000)
    chosen = np.linspace(0, len(pictures) // HELD_OUT - 1, count).round().astype(int)
    return Subset(pictures, tuple(int(number) * HELD_OUT for number in chosen))


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
    training, held_out = cut_crops(options.output)
    recipe = make_recipe(training, options)
    run = options.output / "run"
    trained = train_head(recipe, run, resume=run.is_dir(), report=console.print)
    if options.train_only:
        return
    model = replace(recipe.model, head=str(trained.best_head))
    network = build_recipe_network(replace(recipe, model=model))
    pictures = held_out_pictures(held_out, options.pictures)
    with evaluated_network(TorchBackend(network)) as model:
        baselines = [
            None if m == "tame" else make_baseline(m, model, network) for m in options.methods
        ]
        found = compare(
            model, pictures, baselines, EvaluationOptions(metrics=("ad-ic",)), started=console.print
        )
        draw_grid(model, pictures, baselines, options.output / "grid.jpg")
    facts = machine_facts("tame-deploy", "torch", "grad-cam")
    rows = [{k: v for k, v in one.as_json().items() if k != "unreadable"} for one in found]
    names = ("epochs", "lr", "maps", "initial_bias", "area_warmup")
    settings = {name: getattr(options, name) for name in names}
    results = {"machine": facts, "crops_trained_on": 500 * TRAINED, **settings, "methods": rows}
    path = write_results("squeezenet", results)
    headings, lines = comparison_lines(found)
    shown = Table(*headings)
    for line in lines:
        shown.add_row(*line)
    console.print(shown)
    console.print(f"{facts['processor']}; {path}, {options.output / 'grid.jpg'}")


if __name__ == "__main__":
    main()
