"""The demo's classifier and its head, trained anew from drawn pictures and judged."""

import numpy as np
import torch

from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures
from tame_deploy.evaluation.baselines import make_baseline
from tame_deploy.evaluation.compare import compare
from tame_deploy.evaluation.evaluate import EvaluationOptions
from tame_deploy.metrics.evaluated_model import evaluated_network
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.training.demo_classifier import normalised, train_demo_classifier
from tame_deploy.training.recipe import decode_recipe, recipe_table
from tame_deploy.training.train_head import build_recipe_network, train_head
from tests.integration.test_evaluation import means

PICTURES = DrawnPictures(HELD_OUT_SEED, 60)


def test_a_few_steps_teach_a_classifier_shapes_that_it_has_not_seen():
    classifier = train_demo_classifier(200, 4, batch_size=16)
    images = np.stack([np.asarray(PICTURES.image(index)) for index in range(len(PICTURES))])
    labels = torch.tensor([PICTURES.label(index) for index in range(len(PICTURES))])
    with torch.no_grad():
        logits = classifier(normalised(torch.from_numpy(images).permute(0, 3, 1, 2)))
    assert (logits.argmax(1) == labels).float().mean() > 0.3  # a sixth by chance


def test_a_head_trained_anew_and_briefly_beats_grad_cam_and_noise(tmp_path):
    table = recipe_table("demo")
    table["data"]["train"] = "demo:400"
    table["run"] |= {"epochs": 3, "batch_size": 16}  # small batches: steps teach
    trained = train_head(decode_recipe(table), tmp_path / "run")
    table["model"]["head"] = str(trained.best_head)
    network = build_recipe_network(decode_recipe(table))
    model = evaluated_network(TorchBackend(network))
    methods = [None, *(make_baseline(name, model, network) for name in ("grad-cam", "random"))]
    options = EvaluationOptions(metrics=("ad-ic", "localisation"))
    tame, grad_cam, noise = map(means, compare(model, PICTURES, methods, options))
    assert tame["accuracy"] >= 97
    assert tame["pointing_game"] >= 90
    for share in (100, 50, 15):
        drop, increase = f"average_drop_{share}", f"increase_{share}"
        assert tame[drop] < min(grad_cam[drop], noise[drop])
        assert tame[increase] > max(grad_cam[increase], noise[increase])
