"""The demo, trained from nothing and judged: the longest test of all."""

import pytest
import safetensors.torch

from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures
from tame_deploy.evaluation.baselines import make_baseline
from tame_deploy.evaluation.compare import compare
from tame_deploy.evaluation.evaluate import EvaluationOptions
from tame_deploy.metrics.evaluated_model import evaluated_network
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.training.demo_classifier import train_demo_classifier
from tame_deploy.training.recipe import decode_recipe, recipe_table
from tame_deploy.training.train_head import build_recipe_network, train_head
from tests.integration.test_evaluation import means

PICTURES = DrawnPictures(HELD_OUT_SEED, 12)
QUICK = EvaluationOptions(metrics=("ad-ic", "localisation", "entropy"), batch_size=5)


@pytest.mark.timeout(600)
def test_a_demo_trained_anew_and_small_beats_grad_cam_and_noise(tmp_path):
    # Small batches, and the same pictures again: steps teach, and drawing is dear.
    classifier = train_demo_classifier(1000, 6, batch_size=16)
    weights = tmp_path / "classifier.safetensors"
    safetensors.torch.save_file(classifier.state_dict(), weights)
    table = recipe_table("demo")
    table["model"]["weights"] = str(weights)
    table["data"]["train"] = "demo:1000"
    table["run"] |= {"epochs": 3, "batch_size": 16}
    trained = train_head(decode_recipe(table), tmp_path / "run")
    table["model"]["head"] = str(trained.best_head)
    network = build_recipe_network(decode_recipe(table))
    model = evaluated_network(TorchBackend(network))
    methods = [None, *(make_baseline(name, model, network) for name in ("grad-cam", "random"))]
    options = EvaluationOptions(metrics=("ad-ic", "localisation"))
    pictures = DrawnPictures(HELD_OUT_SEED, 240)
    tame, grad_cam, noise = map(means, compare(model, pictures, methods, options))
    assert tame["accuracy"] >= 97
    assert tame["pointing_game"] >= 90
    for share in (100, 50, 15):
        drop, increase = f"average_drop_{share}", f"increase_{share}"
        assert tame[drop] < min(grad_cam[drop], noise[drop])
        assert tame[increase] > max(grad_cam[increase], noise[increase])
