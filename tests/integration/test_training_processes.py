"""Training in processes of its own: killed and resumed, and shared by two of them."""

import json
import signal
import socket
import subprocess
import sys

import pytest
import torch

from tame_deploy.model.head_checkpoint import read_head
from tame_deploy.training.recipe import write_toml
from tame_deploy.training.train_head import train_head
from tests.command_line import run, run_together, signal_when
from tests.integration.test_training import BASE, losses, one_thread, recipe, rows  # noqa: F401

#: What each process runs: two recipes, because a process may train twice.
BOTH = """
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


#: What torchrun tells two processes; only that the run has a name matters, and not which.
RANKS = [
    {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0",
     "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}
    for rank in ("0", "1")
]  # fmt: skip


def test_torchrun_tells_its_processes_what_these_tests_tell_theirs(tmp_path):
    """Those of torchrun import torch by themselves, which takes longer than their training."""
    (tmp_path / "tell.py").write_text(
        "import json, os, sys\n"
        "with open(f'{os.environ[\"RANK\"]}.json', 'w') as file:\n"
        "    json.dump(dict(os.environ), file)\n"
    )
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "tell.py"],
        cwd=tmp_path, timeout=240, check=True, capture_output=True,
    )  # fmt: skip
    for rank, expected in enumerate(RANKS):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert told.keys() >= {"MASTER_ADDR", "MASTER_PORT"}
        run_id = {"TORCHELASTIC_RUN_ID": told["TORCHELASTIC_RUN_ID"]}
        assert {name: told[name] for name in expected} == expected | run_id


@pytest.fixture(scope="module")
def by_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    for maps, changes in RECIPES.items():
        text = write_toml(recipe(**ROBUST, **changes, run__batch_size=4))
        (folder / f"{maps}.toml").write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    of_torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    done = run_together(BOTH, [of_torchrun | ranks for ranks in RANKS], cwd=folder)
    return folder, "".join(one.stdout for one in done)


#: Not AdamW: it would blow up the rounding that is the whole gradient of a bias before a norm.
ROBUST = {"optimizer__name": "sgd", "optimizer__max_lr": 0.05}

#: As published, and as the recipe `default` trains: a head that is fitted in the first process,
#: masks of several shares, an average of the weights.
RECIPES = {
    "batch": {"loss__maps": "batch"},
    "own": {
        "loss__maps": "own",
        "loss__mask": "minmax",
        "loss__shares": [100.0, 50.0, 15.0],
        "model__init": "cam",
        "model__width": "1/2",
        "optimizer__average": 0.5,
        "optimizer__class_sharing": 0.9,
    },
}


@pytest.mark.parametrize("maps", RECIPES)
def test_two_processes_give_the_losses_of_one(by_two_processes, tmp_path, maps):
    folder, output = by_two_processes
    train_head(recipe(**ROBUST, **RECIPES[maps]), tmp_path / "one")
    # Rounding decides which of two nearly equal pixels a mask of 15 % keeps.
    within = 1e-5 if maps == "batch" else 1e-3
    for split in ("training", "validation"):
        for one, two in zip(
            rows(tmp_path / "one", split), rows(folder / f"two-{maps}", split), strict=True
        ):
            for name in ("step", "loss", "cross_entropy", "area", "variation"):
                expected = pytest.approx(float(one[name]), rel=within, abs=within / 10)
                assert float(two[name]) == expected, name
    assert output.count("trained 12 steps") == 2  # the first process alone says so
