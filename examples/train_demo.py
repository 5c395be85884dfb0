"""Train the bundled demo from nothing: a small classifier of drawn shapes, then its TAME head.

    python examples/train_demo.py --output build/demo-training     # minutes on two cores

Leaves the classifier, the run of its head, and how good its maps are on pictures that neither has
seen. With --install the two go into tame_deploy/data, with some pictures, as they are shipped.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path

import safetensors.torch

from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures
from tame_deploy.data.shapes import LABELS, draw_picture
from tame_deploy.evaluation.evaluate import EvaluationOptions, evaluate
from tame_deploy.metrics.evaluated_model import evaluated_network
from tame_deploy.model import demo
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.training.demo_classifier import train_demo_classifier
from tame_deploy.training.recipe import Recipe, decode_recipe, recipe_table
from tame_deploy.training.train_head import TrainedHead, build_recipe_network, train_head

EVALUATED = 1200


def parse_options() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/demo-training"))
    parser.add_argument("--install", action="store_true", help="replace the bundled files")
    parser.add_argument("--keep-classifier", action="store_true", help="train the head alone")
    return parser.parse_args()


def main() -> None:
    """Train, judge on held-out pictures, and write the files."""
    options = parse_options()
    started = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    classifier = options.output / demo.BACKBONE_FILE.name
    if options.keep_classifier:
        shutil.copyfile(demo.BACKBONE_FILE, classifier)
    else:
        network = train_demo_classifier(report=lambda line: print(line, flush=True))
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        classifier.write_bytes(safetensors.torch.save(state))
    recipe = decode_recipe(recipe_table("demo"))
    recipe = replace(recipe, model=replace(recipe.model, weights=str(classifier)))
    trained = train_head(
        recipe,
        options.output / "head",
        overwrite=True,
        report=lambda line: print(line, flush=True),
    )
    print(f"trained in {time.monotonic() - started:.0f} s")
    judge(recipe, trained)
    if options.install:
        install(classifier, trained)


def judge(recipe: Recipe, trained: TrainedHead) -> None:
    """Print how good the maps are on held-out pictures."""
    model = replace(recipe.model, head=str(trained.best_head))
    network = build_recipe_network(replace(recipe, model=model))
    with evaluated_network(TorchBackend(network)) as model:
        found = evaluate(
            model,
            DrawnPictures(HELD_OUT_SEED, EVALUATED),
            EvaluationOptions(metrics=("ad-ic", "localisation")),
        )
    for name, score in found.estimates().items():
        print(f"{name}: {score.mean:.2f} ({score.low:.2f} to {score.high:.2f})")


def install(classifier: Path, trained: TrainedHead) -> None:
    """Replace the bundled files and pictures."""
    shutil.copyfile(classifier, demo.BACKBONE_FILE)
    shutil.copyfile(trained.best_head, demo.HEAD_FILE)
    pictures = demo.HEAD_FILE.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    for index in range(2 * len(LABELS)):
        picture, _, class_id = draw_picture(HELD_OUT_SEED + index)
        picture.save(pictures / f"{LABELS[class_id]}-{index // len(LABELS) + 1}.png")


if __name__ == "__main__":
    main()
