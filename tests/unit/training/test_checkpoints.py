"""What is on disk is whole at any moment."""

import dataclasses
import resource

import pytest
import torch

from tame_deploy.errors import InputError, TrainingError
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.head_checkpoint import read_head
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.training.checkpoints import MetricsFile, RunFolder, TrainingState
from tame_deploy.training.recipe import decode_recipe


@pytest.fixture(scope="module")
def network():
    return build_network(load_backbone(BackboneRequest("demo")), HeadRequest("random"))


def state(network, step):
    return TrainingState(
        step=step, best=1.5, world=1, head=network.head.state_dict(),
        optimizer={}, scheduler={}, scaler={},
    )  # fmt: skip


def recipe(**sections):
    return decode_recipe({"model": {"backbone": "demo"}, **sections})


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.start(recipe(), overwrite=False)
    return folder


def test_a_kept_state_comes_back(folder, network):
    folder.save_checkpoint(state(network, 7), network)
    found = folder.resume(recipe(), world=1)
    assert (found.step, found.best) == (7, 1.5)
    assert torch.equal(found.head["fuser.weight"], network.head.fuser.weight)
    assert read_head(folder.last_head).layers == ("block2", "block3", "block4")


def test_a_run_that_kept_nothing_starts_from_its_beginning(folder):
    assert folder.resume(recipe(), world=1) is None


def test_a_full_disk_leaves_the_previous_checkpoint_intact(folder, network):
    folder.save_checkpoint(state(network, 7), network)
    before = folder.checkpoint.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"cannot write .*last.ckpt: .*intact.*--resume"):
            folder.save_checkpoint(state(network, 8), network)
        with pytest.raises(TrainingError, match=r"head-last.safetensors.*intact"):
            folder.save_head(network, folder.last_head)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert folder.checkpoint.read_bytes() == before
    assert folder.resume(recipe(), world=1).step == 7
    read_head(folder.last_head)
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "head-last.safetensors", "last.ckpt", "recipe.toml",
    ]  # fmt: skip


def test_another_recipe_does_not_resume(folder, network):
    folder.save_checkpoint(state(network, 7), network)
    other = recipe(loss={"area": 1.0}, run={"epochs": 9})
    with pytest.raises(InputError, match=r"another recipe \(loss.area: 2.0 then, 1.0 now; run.ep"):
        folder.resume(other, world=1)
    assert folder.resume(recipe(run={"workers": 0}), world=1).step == 7


def test_another_number_of_processes_does_not_resume(folder, network):
    folder.save_checkpoint(state(network, 7), network)
    with pytest.raises(InputError, match="had 1 processes and now has 2"):
        folder.resume(recipe(), world=2)


def test_a_run_on_other_pictures_does_not_resume(folder, network):
    folder.save_checkpoint(dataclasses.replace(state(network, 7), data="these"), network)
    assert folder.resume(recipe(), world=1, data="these").step == 7
    with pytest.raises(InputError, match="was on other pictures than are there now"):
        folder.resume(recipe(), world=1, data="others")


def test_a_spoiled_head_is_never_kept(folder, network):
    folder.save_checkpoint(state(network, 7), network)
    spoiled = {**network.head.state_dict(), "fuser.bias": torch.full((6,), torch.nan)}
    with pytest.raises(TrainingError, match="holds NaN or infinity after step 8; .* is kept"):
        folder.save_checkpoint(dataclasses.replace(state(network, 8), head=spoiled), network)
    assert folder.resume(recipe(), world=1).step == 7


def test_what_a_kill_leaves_of_a_start_is_no_obstacle(tmp_path):
    (tmp_path / ".recipe.toml.1.partial").write_text("[mod")
    RunFolder(tmp_path).start(recipe(), overwrite=False)


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x03\x04 torn"])
def test_a_damaged_checkpoint_is_said_to_be(folder, network, data):
    folder.checkpoint.write_bytes(data)
    with pytest.raises(InputError, match=r"last.ckpt is damaged"):
        folder.resume(recipe(), world=1)


def test_a_folder_with_a_run_is_not_started_anew_unasked(folder, network):
    folder.save_checkpoint(state(network, 7), network)
    with pytest.raises(InputError, match="not empty; pass --resume .* --overwrite"):
        folder.start(recipe(), overwrite=False)
    folder.start(recipe(), overwrite=True)
    assert not folder.checkpoint.exists()


def test_a_folder_that_holds_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds no training run; nothing in it is overwritten"):
        RunFolder(tmp_path).start(recipe(), overwrite=True)
    with pytest.raises(InputError, match="there is no run to resume"):
        RunFolder(tmp_path).resume(recipe(), world=1)


def test_metrics_of_steps_after_the_checkpoint_are_cut_off_and_so_is_a_torn_row(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path, 0)
    for step in (1, 2, 3):
        metrics.add({"step": step, "split": "training", "loss": step / 3, "seconds": 1.0})
    path.write_text(path.read_text() + "2,1,trai")
    MetricsFile(path, 2).add({"step": 3, "split": "training", "loss": 9.0, "seconds": 1.0})
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    assert [(row[0], row[3]) for row in rows] == [
        ("1", "0.3333333"),
        ("2", "0.6666667"),
        ("3", "9"),
    ]
