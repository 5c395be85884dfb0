"""Training in processes of its own: killed and resumed, and shared by two of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tame_deploy.model.checkpoint import read_head
from tame_deploy.training.recipe import write_toml
from tame_deploy.training.train_head import train_head
from tests.command_line import run, signal_when
from tests.integration.test_training import BASE, losses, one_thread, recipe, rows  # noqa: F401

#: What torchrun runs: the command line, once for each recipe, so that two runs cost one start.
BOTH = """
import sys
from tame_deploy.cli.app import app
for name in ("batch", "own"):
    app(["train", "--recipe", f"{name}.toml", "-o", f"two-{name}"], standalone_mode=False)
"""


def test_a_killed_run_goes_on_to_the_very_same_head(tmp_path, monkeypatch):
    file = tmp_path / "recipe.toml"
    # The other process must take one thread, too: other sums round differently.
    (tmp_path / "lonely.py").write_text(
        "import torch\nfrom tests.conftest import TinyNet\ntorch.set_num_threads(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    chosen = recipe(run__epochs=12, run__accumulate=2, model__backbone="lonely:TinyNet")
    file.write_text(write_toml(chosen))
    folder = tmp_path / "killed"
    # Killed in the middle of an epoch, with steps taken after the last checkpoint or not.
    run(
        "train", "--recipe", file, "-o", folder, cwd=tmp_path, expect=-signal.SIGKILL,
        meanwhile=signal_when((folder / "last.ckpt").is_file, signal.SIGKILL),
    )  # fmt: skip
    step = torch.load(folder / "last.ckpt", weights_only=True)["step"]
    assert 0 < step < 36
    resumed = train_head(chosen, folder, resume=True)
    whole = train_head(chosen, tmp_path / "whole")
    for name in ("head-last.safetensors", "head-best.safetensors"):
        one, other = (read_head(path / name).head.state_dict() for path in (folder, whole.folder))
        assert all(torch.allclose(one[key], other[key], rtol=1e-4, atol=1e-6) for key in one), name
    assert [row["step"] for row in rows(folder)] == [str(step) for step in range(1, 37)]
    assert resumed.best_loss == pytest.approx(whole.best_loss, rel=1e-5)


@pytest.fixture(scope="module")
def by_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    for maps in ("batch", "own"):
        text = write_toml(recipe(**ROBUST, loss__maps=maps, run__batch_size=4))
        (folder / f"{maps}.toml").write_text(text)
    (folder / "both.py").write_text(BOTH)
    root = Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "both.py"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}, cwd=folder, timeout=240,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return folder, done.stdout


#: Not AdamW: it would blow up the rounding that is the whole gradient of a bias before a norm.
ROBUST = {"optimizer__name": "sgd", "optimizer__max_lr": 0.05}


@pytest.mark.parametrize("maps", ["batch", "own"])
def test_two_processes_give_the_losses_of_one(by_two_processes, tmp_path, maps):
    folder, output = by_two_processes
    train_head(recipe(**ROBUST, loss__maps=maps), tmp_path / "one")
    for split in ("training", "validation"):
        for one, two in zip(
            rows(tmp_path / "one", split), rows(folder / f"two-{maps}", split), strict=True
        ):
            for name in ("step", "loss", "cross_entropy", "area", "variation"):
                assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-5, abs=1e-6), name
    assert output.count("trained 12 steps") == 2  # the first process alone says so
