"""The default recipe: a head starts as CAM, and is trained for what it is scored by."""

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch

from tame_deploy.errors import InputError
from tame_deploy.metrics.masking import heat_of, keep_highest
from tame_deploy.model.head_checkpoint import read_head
from tame_deploy.training import starting
from tame_deploy.training.data import open_training_data
from tame_deploy.training.device import open_fabric
from tame_deploy.training.head_training import HeadTraining
from tame_deploy.training.recipe import decode_recipe, recipe_table
from tame_deploy.training.step import MaskedStep
from tame_deploy.training.train_head import build_recipe_network, train_head
from tame_deploy.training.validation import validate
from tests.integration.test_training import losses, one_thread, recipe  # noqa: F401

SHARES = (100.0, 50.0, 15.0)
SCORED = {"loss__mask": "minmax", "loss__shares": list(SHARES), "loss__maps": "own"}


def default_recipe():
    """Return the default recipe for the bundled demo, short."""
    table = recipe_table("default")
    table["model"] |= {"backbone": "demo", "layers": ["block2", "block3", "block4"]}
    table["data"] = {"train": "demo:32", "validation": "demo-held-out:4"}
    table["run"] |= {"epochs": 2, "batch_size": 8, "workers": 0, "checkpoint_every": 2}
    return decode_recipe(table)


def test_a_picture_is_masked_in_training_as_it_is_masked_when_it_is_scored():
    chosen = recipe(**SCORED)
    network = build_recipe_network(chosen)
    step = MaskedStep(network, chosen.loss)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    features, labels = step.look(pixels / 255)
    with torch.no_grad():
        maps = step.network.head.class_maps(features, labels[:, None])
        masks = torch.nn.functional.interpolate(
            step.masks(features, labels[:, None]), (32, 32), mode="bilinear"
        )
        found = step.kept(masks, range(3))[:, 0].numpy()
    heat = heat_of(maps[:, 0].numpy(), 32, 32)
    expected = [keep_highest(heat[i : i + 1], share)[0] for i, share in enumerate(SHARES)]
    assert np.abs(found - np.stack(expected)).max() < 1e-5
    assert [round(float((one > 0).mean()), 2) for one in found[1:]] == [0.5, 0.15]


def test_training_draws_the_head_that_starts_as_cam_away_from_it(tmp_path):
    said = []
    trained = train_head(default_recipe(), tmp_path / "run", report=said.append)
    assert any("starts as CAM, exactly" in line for line in said)
    head = read_head(trained.last_head).head
    assert head.config.width == tuple(round(count / 16) for count in head.config.channels)
    rows = head.fuser.weight.flatten(1)
    for layer, part in enumerate(
        rows.split([sum(head.config.fuser_widths(i)) for i in range(3)], 1)
    ):
        branch = part[:, head.config.channels[layer] :]
        assert float(branch.abs().max()) > 0  # as CAM, they were zero


@pytest.fixture
def training():
    def make(**changes):
        chosen = recipe(**changes)
        network = build_recipe_network(chosen)
        data = open_training_data(chosen, network)
        return HeadTraining(open_fabric(chosen.run), network, chosen, data)

    return make


def take_steps(training, count):
    for batches in list(training.rest_of_epoch())[:count]:
        training.take_step(batches)


def test_the_average_of_the_weights_is_what_is_kept(training):
    run = training(optimizer__average=0.5)
    before = run.head.fuser.weight.detach().clone()
    take_steps(run, 1)
    after_one = run.head.fuser.weight.detach().clone()
    take_steps(run, 1)
    after_two = run.head.fuser.weight.detach().clone()
    with run.judged_head():
        kept = run.network.head.fuser.weight.detach().clone()
    assert not torch.allclose(before, after_one)
    assert torch.allclose(kept, (after_one + after_two) / 2, atol=1e-7)
    assert run.network.head is run.head  # which training goes on with
    run.finish()
    assert torch.equal(run.network.head.fuser.weight, kept)


def test_a_run_with_an_average_resumes_bit_for_bit(tmp_path, monkeypatch):
    from tame_deploy.training.checkpoints import RunFolder

    chosen = default_recipe()
    whole = train_head(chosen, tmp_path / "whole")
    save = RunFolder.save_checkpoint

    def stop_at_four(self, state, network):
        save(self, state, network)
        if state.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save_checkpoint", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        train_head(chosen, tmp_path / "broken")
    monkeypatch.undo()
    train_head(chosen, tmp_path / "broken", resume=True)
    assert losses(tmp_path / "broken") == losses(whole.folder)
    one = read_head(tmp_path / "broken" / "head-last.safetensors").head.state_dict()
    other = read_head(whole.last_head).head.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("sharing", [0.0, 0.9])
def test_classes_that_no_picture_shows_learn_from_the_others_if_they_share(training, sharing):
    run = training(optimizer__class_sharing=sharing, optimizer__weight_decay=0.0, **SCORED)
    before = run.head.fuser.weight.detach().clone()
    take_steps(run, 2)
    moved = (run.head.fuser.weight.detach() - before).flatten(1).abs().amax(1) > 0
    unseen = [number for number in range(6) if number not in run.seen]
    assert bool(moved[sorted(run.seen)].all())
    assert unseen, "the classifier named all six classes: the test shows nothing"
    assert all(bool(moved[number]) == (sharing > 0) for number in unseen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss__mask": "softmax"}, "loss.mask is 'softmax'; expected one of sigmoid, minmax"),
        ({"loss__shares": [0.0]}, "expected percents above 0, at most 100"),
        ({"loss__shares": []}, "expected percents above 0"),
        ({"optimizer__average": 1.0}, "average is 1.0; expected 0 to 1"),
        ({"optimizer__class_sharing": 1.5}, "class_sharing is 1.5; expected 0 to 1"),
        ({"model__init": "best"}, "model.init is 'best'; expected one of random, cam, auto"),
    ],
)
def test_what_makes_no_recipe_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        recipe(**changes)


@pytest.mark.parametrize("batch_size", [2, 3, 6])
def test_no_batch_size_changes_what_validation_says(training, batch_size):
    found = [
        validate(
            training(**SCORED, run__batch_size=size, data__validation="demo-held-out:7"), Event()
        )
        for size in (7, batch_size)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_full_width_is_a_width_and_leads_to_every_variant():
    network = build_recipe_network(recipe(model__width="full"))
    assert network.head.config.width == "channels"
    chosen = recipe(model__width="full", model__variant="no-skip")
    assert build_recipe_network(chosen).head.config.variant == "no-skip"


def test_what_is_wrong_with_folder_or_pictures_is_said_before_the_head_is_fitted(tmp_path):
    (tmp_path / "something").touch()
    said = []
    with pytest.raises(InputError, match="is not empty"):
        train_head(default_recipe(), tmp_path, report=said.append)
    few = replace(default_recipe(), run=replace(default_recipe().run, batch_size=99))
    with pytest.raises(InputError, match="found 32 pictures to train on, fewer than a batch"):
        train_head(few, tmp_path / "run", report=said.append)
    assert not any("maps that the head starts from" in line for line in said)


def test_a_fallback_to_random_weights_keeps_the_initial_bias(tmp_path):
    chosen = recipe(
        model__init="auto", model__initial_bias=3.0
    )  # TinyNet's features end before ReLU
    network = build_recipe_network(chosen)
    before = network.head.fuser.bias.detach().clone()

    def refuse(_):
        raise InputError("none")

    pictures, _ = open_training_data(chosen, network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "cam_network", refuse)
        starting.start_head(chosen.model, network, pictures, torch.device("cpu"))
    assert torch.allclose(network.head.fuser.bias, before + 3)


def test_a_width_above_a_layers_channels_is_named():
    with pytest.raises(InputError, match="width is 64, above the 6 channels of a layer"):
        build_recipe_network(recipe(model__width=64))
