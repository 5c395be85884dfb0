"""Training and evaluation on a GPU; skipped where there is none."""

import numpy as np
import pytest
import torch

from tame_deploy.data.labelled import HELD_OUT_SEED, DrawnPictures
from tame_deploy.evaluation.baselines import make_baseline
from tame_deploy.evaluation.evaluate import EvaluationOptions, evaluate
from tame_deploy.metrics.evaluated_model import evaluated_network
from tame_deploy.model.head_checkpoint import read_head
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.training.checkpoints import RunFolder
from tame_deploy.training.find_lr import find_lr
from tame_deploy.training.train_head import build_recipe_network, train_head
from tests.integration.test_training import losses, recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_gpu_gives_the_losses_of_a_cpu(tmp_path, precision):
    train_head(recipe(run__accelerator="cpu"), tmp_path / "cpu")
    train_head(recipe(run__accelerator="gpu", run__precision=precision), tmp_path / "gpu")
    tolerance = 1e-3 if precision == "32-true" else 0.05
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=tolerance)


def test_a_run_on_a_gpu_resumes(tmp_path, monkeypatch):
    save = RunFolder.save_checkpoint
    chosen = recipe(run__accelerator="gpu", run__precision="16-mixed")

    def stop_at_four(self, state, network):
        save(self, state, network)
        if state.step == 4:
            raise KeyboardInterrupt

    whole = train_head(chosen, tmp_path / "whole")
    monkeypatch.setattr(RunFolder, "save_checkpoint", stop_at_four)
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        train_head(chosen, tmp_path / "broken")
    monkeypatch.undo()
    train_head(chosen, tmp_path / "broken", resume=True)
    one = read_head(tmp_path / "broken" / "head-last.safetensors").head.state_dict()
    other = read_head(whole.last_head).head.state_dict()
    assert all(torch.allclose(one[key], other[key], rtol=1e-2, atol=1e-3) for key in one)


def test_metrics_and_baselines_on_a_gpu_agree_with_a_cpu():
    options = EvaluationOptions(metrics=("ad-ic",), batch_size=4)
    pictures = DrawnPictures(HELD_OUT_SEED, 4)
    found = {}
    for device in ("cpu", "cuda"):
        network = build_recipe_network(recipe())
        model = evaluated_network(TorchBackend(network, device=device))
        for method in (None, make_baseline("grad-cam", model, network)):
            scores = evaluate(model, pictures, options, method=method).scores
            found[device, method and method.name] = scores["average_drop_100"]
    for method in (None, "grad-cam"):
        assert np.allclose(found["cpu", method], found["cuda", method], atol=0.5)


def test_the_range_test_runs_on_a_gpu():
    assert find_lr(recipe(run__accelerator="gpu"), steps=50).suggestion > 0
