"""A head is trained, and the run survives what happens to runs."""

import csv
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from tame_deploy.errors import InputError, TrainingError
from tame_deploy.model.head_checkpoint import read_head
from tame_deploy.training.data import open_training_data
from tame_deploy.training.device import open_fabric
from tame_deploy.training.find_lr import find_lr
from tame_deploy.training.head_training import HeadTraining
from tame_deploy.training.recipe import decode_recipe
from tame_deploy.training.step import MaskedStep
from tame_deploy.training.train_head import build_recipe_network, train_head
from tame_deploy.training.validation import validate

BASE = {
    "model": {
        "backbone": "tests.conftest:TinyNet",
        "classes": 6,
        "task": "multiclass",
        "image_size": [32, 32],
        "layers": ["stages.1", "stages.2", "stages.3"],
        "initial_bias": 1.0,
    },
    "data": {"train": "demo:48", "validation": "demo-held-out:8"},
    "optimizer": {"name": "adamw", "max_lr": 2e-3},
    "run": {"epochs": 2, "batch_size": 8, "workers": 0, "checkpoint_every": 2},
}


def recipe(**changes):
    table = {section: dict(values) for section, values in BASE.items()}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        table.setdefault(section, {})[name] = value
    return decode_recipe(table)


def rows(folder, split="training"):
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def losses(folder):
    return [float(row["loss"]) for row in rows(folder)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Let torch take one thread: for networks this small, several only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    said = []
    return train_head(recipe(), folder, report=said.append), said


def test_a_run_leaves_heads_metrics_logs_and_pictures(trained):
    found, said = trained
    names = {path.name for path in found.folder.iterdir()}
    assert names == {
        "head-best.safetensors", "head-last.safetensors", "last.ckpt", "maps", "metrics.csv",
        "recipe.toml", "tensorboard",
    }  # fmt: skip
    assert found.steps == 12
    assert [row["step"] for row in rows(found.folder)] == [str(step) for step in range(1, 13)]
    assert [row["epoch"] for row in rows(found.folder, "validation")] == ["1", "2"]
    assert {path.name for path in (found.folder / "maps").iterdir()} >= {
        "step-000000.jpg", "step-000001.jpg", "step-000010.jpg", "step-000012.jpg",
    }  # fmt: skip
    assert any((found.folder / "tensorboard").glob("events*"))
    assert [line.split(":")[0] for line in said] == [
        "assumed preprocessing", "epoch 1/2", "epoch 2/2",
    ]  # fmt: skip


def test_the_best_head_is_that_of_the_lowest_validation_loss(trained):
    found, _ = trained
    validation = [float(row["loss"]) for row in rows(found.folder, "validation")]
    assert found.best_loss == pytest.approx(min(validation), rel=1e-6)
    last, best = (read_head(path).head for path in (found.last_head, found.best_head))
    same = torch.equal(last.fuser.weight, best.fuser.weight)
    assert same == (validation[-1] == min(validation))


def test_a_run_leaves_the_process_as_it_was(trained):
    assert float(torch.tensor([1e-40]) * 1.0) > 0  # denormals are numbers again


def test_batch_norms_learn_what_is_usual(trained):
    head = read_head(trained[0].last_head).head
    assert [int(norm.num_batches_tracked) for norm in head.bns] == [12, 12, 12]
    assert not torch.allclose(head.bns[0].running_mean, torch.zeros(1))


def validated(batch_size, pictures):
    chosen = recipe(run__batch_size=batch_size, data__validation=f"demo-held-out:{pictures}")
    network = build_recipe_network(chosen)
    data = open_training_data(chosen, network)
    training = HeadTraining(open_fabric(chosen.run), network, chosen, data)
    return validate(training, threading.Event())


def test_every_validation_picture_counts_alike_whatever_the_batch():
    found = validated(8, pictures=10)
    assert validated(3, pictures=10) == pytest.approx(found, rel=1e-5)
    assert validated(10, pictures=10) == pytest.approx(found, rel=1e-5)
    assert validated(8, pictures=9) != pytest.approx(found, rel=1e-5)  # the last one, too


def test_training_lowers_the_loss_on_what_it_sees(tmp_path):
    train_head(recipe(run__epochs=8), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert np.mean(found[-6:]) < np.mean(found[:6])


def test_equal_seeds_give_equal_runs_and_others_do_not(trained, tmp_path):
    train_head(recipe(), tmp_path / "same")
    train_head(recipe(run__seed=1), tmp_path / "other")
    assert losses(tmp_path / "same") == losses(trained[0].folder)
    assert losses(tmp_path / "other") != losses(trained[0].folder)


@pytest.mark.parametrize("maps", ["batch", "own"])
def test_gathered_rows_give_the_loss_and_gradients_of_all_maps(maps):
    network = build_recipe_network(recipe(loss__maps=maps))
    head = network.head.requires_grad_(True).train()
    step = MaskedStep(network, recipe(loss__maps=maps).loss)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    found, _ = step.losses(pixels)
    gathered = torch.autograd.grad(found.total, list(head.parameters()))

    def from_all_maps(features, class_ids):
        every = head(features)
        if class_ids.ndim == 1:
            return every[:, class_ids]
        return every.gather(1, class_ids[..., None, None].expand(-1, -1, *every.shape[2:]))

    head.class_maps = from_all_maps
    expected, _ = step.losses(pixels)
    plain = torch.autograd.grad(expected.total, list(head.parameters()))
    assert found.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    for one, other in zip(gathered, plain, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)


def test_the_backbone_is_left_as_it_was():
    network = build_recipe_network(recipe())
    network.head.requires_grad_(True)
    before = {k: v.clone() for k, v in network.backbone.module.state_dict().items()}
    step = MaskedStep(network, recipe().loss)
    step.losses(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))[0].total.backward()
    step.assert_untouched()
    assert all(torch.equal(v, before[k]) for k, v in network.backbone.module.state_dict().items())
    network.backbone.module.unused.weight.data.add_(1)
    with pytest.raises(AssertionError, match="a weight of the backbone has changed"):
        step.assert_untouched()
    network.backbone.module.stages.train()
    with pytest.raises(AssertionError, match="in training mode"):
        step.assert_untouched()


def test_accumulated_batches_make_one_step(tmp_path):
    train_head(recipe(run__accumulate=3, run__epochs=1), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == ["1", "2"]


def test_a_run_resumed_in_one_process_is_bit_for_bit_the_same(trained, tmp_path, monkeypatch):
    from tame_deploy.training.checkpoints import RunFolder

    save = RunFolder.save_checkpoint

    def stop_at_four(self, state, network):
        save(self, state, network)
        if state.step == 4:
            raise KeyboardInterrupt

    whole = trained[0]
    monkeypatch.setattr(RunFolder, "save_checkpoint", stop_at_four)
    with pytest.raises(
        KeyboardInterrupt, match=r"interrupted; the checkpoint of step 4 .* --resume"
    ):
        train_head(recipe(), tmp_path / "broken")
    monkeypatch.undo()
    train_head(recipe(), tmp_path / "broken", resume=True)
    one = read_head(tmp_path / "broken" / "head-last.safetensors").head.state_dict()
    other = read_head(whole.last_head).head.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert losses(tmp_path / "broken") == losses(whole.folder)


def test_a_finished_run_resumes_to_nothing_more_to_do(trained):
    before = trained[0].last_head.read_bytes()
    again = train_head(recipe(), trained[0].folder, resume=True)
    assert again.best_loss == trained[0].best_loss
    assert again.last_head.read_bytes() == before


@pytest.mark.parametrize("precision", ["bf16-mixed"])
def test_mixed_precision_trains_alike(trained, tmp_path, precision):
    train_head(recipe(run__precision=precision), tmp_path / "run")
    half, whole = losses(tmp_path / "run"), losses(trained[0].folder)
    assert half == pytest.approx(whole, rel=0.05)
    assert half != whole


NAN_NET = '''
import torch
from torch import nn

class Net(nn.Module):
    """Three stages; answers NaN where a picture is bright."""
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 4, 3, 4)
        self.b = nn.Conv2d(4, 5, 3, 2)
        self.c = nn.Conv2d(5, 6, 3, 2)
    def forward(self, images):
        bright = (images.amax((1, 2, 3)) > 0.9).float()
        logits = self.c(torch.relu(self.b(torch.relu(self.a(images))))).mean((2, 3))
        return logits / (1 - bright[:, None])
'''


def test_a_loss_that_is_no_number_stops_and_names_the_picture(tmp_path, monkeypatch):
    (tmp_path / "nan_net.py").write_text(NAN_NET)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(24):
        pixels = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels + 0 if index != 17 else np.full_like(pixels, 255)).save(
            folder / f"{index:02}.png"
        )
    chosen = recipe(
        model__backbone="nan_net:Net", model__layers=["a", "b"], model__classes=None,
        data__train=str(folder), data__validation=str(folder), run__checkpoint_every=1,
        data__random_crop=False,
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"the loss is nan at step \d, because of .*17.png"):
        train_head(chosen, tmp_path / "run")
    if (tmp_path / "run" / "last.ckpt").exists():
        head = read_head(tmp_path / "run" / "head-last.safetensors").head
        assert torch.isfinite(head.fuser.weight).all()


def test_too_many_unreadable_pictures_stop_the_run_and_few_do_not(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(16):
        Image.effect_noise((150, 150), 50).convert("RGB").save(folder / f"{index:02}.png")
    (folder / "03.png").write_bytes(b"broken")
    chosen = recipe(data__train=str(folder), data__validation="demo-held-out:8")
    with pytest.raises(InputError, match="1 of 16 pictures .* more than 5%.*03.png"):
        train_head(chosen, tmp_path / "strict")
    chosen = recipe(
        data__train=str(folder), data__validation="demo-held-out:8", data__max_unreadable=0.1
    )
    found = train_head(chosen, tmp_path / "lenient")
    assert len(found.unreadable) == 1
    assert "03.png" in found.unreadable[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__train": None}, "no pictures to train on; pass --data"),
        ({"data__train": "demo:4"}, "found 4 pictures to train on, fewer than a batch of 8"),
        ({"data__validation": None, "data__validation_share": 0}, "validation_share is 0"),
        ({"run__accumulate": 9}, "found 48 pictures to train on; a step takes 72"),
        ({"run__accelerator": "gpu"}, "cannot train on this machine as asked"),
        ({"model__layers": ["stages.9"]}, "no layer 'stages.9'"),
        ({"model__variant": "best"}, "unknown head variant 'best'"),
    ],
)
def test_runs_that_cannot_start_say_why(tmp_path, changes, message):
    if "gpu" in changes.values() and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises((InputError, TrainingError), match=message):
        train_head(recipe(**changes), tmp_path / "run")


def test_one_class_alone_is_refused(tmp_path):
    for index in range(10):
        Image.new("RGB", (130, 130)).save(tmp_path / f"{index}.png")
    (tmp_path / "list.txt").write_text("\n".join(f"{index}.png 3" for index in range(10)))
    with pytest.raises(InputError, match="all 10 pictures of .* are of class 3; expected several"):
        train_head(recipe(data__train=str(tmp_path / "list.txt")), tmp_path / "run")
    (tmp_path / "data" / "cat").mkdir(parents=True)
    for index in range(10):
        Image.new("RGB", (130, 130)).save(tmp_path / "data" / "cat" / f"{index}.png")
    with pytest.raises(InputError, match="all 10 pictures of .* are in one class folder, cat"):
        train_head(recipe(data__train=str(tmp_path / "data")), tmp_path / "run")


def test_the_range_test_suggests_a_rate_below_the_one_that_bursts(tmp_path):
    found = find_lr(
        recipe(optimizer__name="sgd", data__train="demo:80"), steps=60, lowest=1e-6, highest=10
    )
    assert list(found.rates) == sorted(found.rates)
    assert 1e-6 < found.suggestion <= found.lowest <= 10
    assert found.draw(tmp_path / "plot.png").stat().st_size > 10_000


def test_a_range_test_whose_pictures_cannot_be_read_is_told_in_one_line(monkeypatch):
    def failing(*_):
        raise InputError("Caught InputError in worker\ntame_deploy.errors.InputError: 20 in a row")

    monkeypatch.setattr("tame_deploy.training.find_lr._raise_rate", failing)
    with pytest.raises(InputError, match="^20 in a row$"):
        find_lr(recipe(), steps=50)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lowest": 1, "highest": 0.1}, "found rates 1 to 0.1"), ({"steps": 5}, "of 5 steps says")],
)
def test_range_tests_that_say_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        find_lr(recipe(), **options)
