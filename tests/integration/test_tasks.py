"""One logit, many labels, and networks that end in probabilities: from PyTorch to the answer."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from tame_deploy import load
from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec
from tame_deploy.data.labelled import DrawnPictures
from tame_deploy.data.shapes import draw_picture
from tame_deploy.errors import InputError
from tame_deploy.evaluation.baselines import make_baseline
from tame_deploy.evaluation.evaluate import EvaluationOptions, evaluate
from tame_deploy.export.artifact_export import export_artifact
from tame_deploy.export.options import ExportOptions
from tame_deploy.metrics.evaluated_model import evaluated_network
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.runtime.explain.stream import NamedPicture
from tame_deploy.runtime.jobs.files import FileOptions, explain_files
from tame_deploy.runtime.jobs.sources import Source
from tame_deploy.training.losses import LossConfig
from tame_deploy.training.step import MaskedStep
from tests.command_line import one_line, run_here
from tests.conftest import TinyNet
from tests.once import made_once

SIZE = 32
LAYERS = ("stages.0", "stages.1")
PICTURES = [np.asarray(draw_picture(seed)[0]) for seed in range(4)]


class Ended(TinyNet):
    """A tiny network with an end that somebody put there."""

    image_spec = ImageSpec(height=SIZE, width=SIZE, resize=SIZE)

    def __init__(self, classes, end=None):
        torch.manual_seed(0)
        super().__init__(classes)
        self.classifier.weight.data *= 300  # or all classes nearly tie
        with torch.no_grad():  # about 0, so that there are labels for and against
            self.classifier.bias -= super().forward(torch.randn(8, 3, SIZE, SIZE)).mean(0)
        self.end = end or nn.Identity()

    def forward(self, images):
        return self.end(super().forward(images))


def one_logit():
    return Ended(1, nn.Flatten(0))


def four_logits():
    return Ended(4)


def five_logits(num_classes=5):
    return Ended(num_classes)


def softmaxed():
    return Ended(4, nn.Softmax(1))


def sigmoids():
    return Ended(4, nn.Sigmoid())


#: What users have, and what they say of it.
NETWORKS = {
    "binary": (one_logit, {"task": "binary"}),
    "multilabel": (four_logits, {"task": "multilabel"}),
    "softmaxed": (softmaxed, {}),
    "sigmoids": (sigmoids, {"task": "multilabel", "outputs": "probabilities"}),
}


def network_of(name):
    build, said = NETWORKS[name]
    image = ImageSpec(SIZE, SIZE, SIZE)
    module = build().eval().requires_grad_(False)
    backbone = Backbone(name, module, image, None, WeightsSource("a test"), **said)
    return build_network(backbone, HeadRequest("random"), LAYERS)


def exported(factory, name):
    """Return an artifact of one of the networks; tests must not write to it."""

    def make(folder):
        folder.mkdir()
        export_artifact(network_of(name), folder / name, ExportOptions())

    return made_once(factory, f"task-{name}", make) / name


def shares_of(name, explainer):
    """Return what the network itself says of the pictures, and what the artifact says."""
    found = explainer.explain(PICTURES, [-1])
    normalised = torch.from_numpy(
        np.stack([np.asarray(one, np.float32) / 255 for one in found_pixels(explainer)])
    )
    image = explainer.artifact.manifest.image
    mean, std = torch.tensor(image.mean), torch.tensor(image.std)
    images = ((normalised - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        return network_of(name).backbone.module(images), found


def found_pixels(explainer):
    from PIL import Image

    from tame_deploy.picture.preprocess import prepare

    spec = explainer.artifact.manifest.image
    return [np.asarray(prepare(Image.fromarray(one), spec)) for one in PICTURES]


@pytest.mark.parametrize("name", ["binary", "multilabel", "softmaxed"])
def test_an_artifact_gives_the_probabilities_that_its_network_means(tmp_path_factory, name):
    with load(exported(tmp_path_factory, name), backend="onnxruntime") as explainer:
        given, found = shares_of(name, explainer)
    meant = {
        "binary": lambda: torch.stack([1 - given.sigmoid(), given.sigmoid()], 1),
        "multilabel": given.sigmoid,
        "softmaxed": lambda: given,
    }[name]()
    np.testing.assert_allclose(found.probabilities, meant.numpy(), atol=1e-4)
    task = {"softmaxed": "multiclass"}.get(name, name)
    assert (found.task, found[0].task) == (task, task)
    assert explainer.artifact.manifest.task == task


def test_one_logit_is_explained_for_and_against(tmp_path_factory):
    with load(exported(tmp_path_factory, "binary"), backend="onnxruntime") as explainer:
        found = explainer.explain(PICTURES, top_k=2)
        assert explainer.labels == ("negative", "positive")
    assert {tuple(sorted(row)) for row in found.class_ids.tolist()} == {(0, 1)}
    assert not np.allclose(found.maps[:, 0], found.maps[:, 1], atol=0.01)


def test_what_was_undone_stands_in_the_manifest(tmp_path_factory):
    with load(exported(tmp_path_factory, "softmaxed"), backend="onnxruntime") as explainer:
        assert "gives a softmax" in explainer.artifact.manifest.weights["backbone"].source


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_metrics_take_the_tasks_probability(name):
    network = network_of(name)
    with evaluated_network(TorchBackend(network)) as model:
        pixels = np.random.default_rng(0).random((2, SIZE, SIZE, 3), np.float32)
        found = model.explained(pixels, model.predict(pixels), range(2))
        images = torch.from_numpy(pixels.transpose(0, 3, 1, 2))
        mean = torch.tensor(network.backbone.image.mean).view(1, 3, 1, 1)
        std = torch.tensor(network.backbone.image.std).view(1, 3, 1, 1)
        given = network.backbone.module((images - mean) / std)
    best = {
        "binary": lambda: torch.maximum(given.sigmoid(), 1 - given.sigmoid()),
        "multilabel": lambda: given.sigmoid().amax(1),
    }.get(name, lambda: given.amax(1))()
    np.testing.assert_allclose(found.confidences, best.numpy(), atol=1e-5)


OF_THIS_FILE = "tests.integration.test_tasks"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("one_logit",), "the network gives one logit; pass --task binary"),
        (("five_logits", "--task", "binary"), "this one gives 5; pass --task multiclass"),
        (("sigmoids",), "pass --task multilabel --outputs probabilities if they are sigmoids"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_before_anything_is_exported(
    tmp_path, command, message
):
    done = run_here(
        "export", "-b", f"{OF_THIS_FILE}:{command[0]}", *command[1:], "--head", "random",
        "--layers", ",".join(LAYERS), "--image-size", SIZE, "-o", tmp_path / "it", expect=1,
    )  # fmt: skip
    assert message in one_line(done)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the rows of metrics.csv of a run by network, and what the runs said."""
    from tame_deploy.training.recipe import decode_recipe
    from tame_deploy.training.train_head import train_head

    def rows_of(name, task):
        recipe = {
            "model": {"backbone": f"{OF_THIS_FILE}:{name}", "layers": list(LAYERS), "task": task,
                      "image_size": [SIZE, SIZE]},
            "data": {"train": "demo:16", "validation": "demo-held-out:4"},
            "run": {"epochs": 1, "batch_size": 4, "workers": 0},
        }  # fmt: skip
        folder = tmp_path_factory.mktemp(name)
        said = []
        train_head(decode_recipe(recipe), folder / "run", report=said.append)
        text = (folder / "run" / "metrics.csv").read_text().splitlines()
        names = text[0].split(",")
        return [dict(zip(names, line.split(","), strict=True)) for line in text[1:]], said

    return rows_of


@pytest.mark.parametrize(("name", "task"), [("one_logit", "binary"), ("four_logits", "multilabel")])
def test_training_minimises_the_tasks_cross_entropy(trained, name, task):
    rows, said = trained(name, task)
    assert any(line.startswith(task) for line in said)
    assert all(float(row["cross_entropy"]) > 0 for row in rows)
    validation = [row for row in rows if row["split"] == "validation"][-1]
    assert float(validation["average_drop"]) > 0


def test_evaluation_has_no_accuracy_of_labels_and_says_the_task():
    with evaluated_network(TorchBackend(network_of("multilabel"))) as model:
        options = EvaluationOptions(metrics=["ad-ic", "insertion-deletion"], batch_size=2)
        found = evaluate(model, DrawnPictures(0, 2), options)
    assert "accuracy" not in found.estimates()
    assert found.settings["task"] == "multilabel"
    assert 0 < found.estimates()["insertion"].mean <= 100


def test_cams_explain_one_logit_for_and_against():
    pytest.importorskip("pytorch_grad_cam")
    network = network_of("binary")
    with evaluated_network(TorchBackend(network)) as model:
        method = make_baseline("grad-cam", model, network)
        pixels = np.random.default_rng(0).random((1, SIZE, SIZE, 3), np.float32)
        against, speaking_for = (method.explain(pixels, np.array([one])) for one in (0, 1))
    assert max(against.max(), speaking_for.max()) > 0
    assert not np.allclose(against, speaking_for)


@pytest.mark.parametrize(("threshold", "expected"), [(None, 0.5), (0.9, 0.9), (0.0, 0.0)])
def test_records_list_the_labels_that_reach_the_threshold(
    tmp_path_factory, tmp_path, threshold, expected
):
    options = FileOptions(pictures=False, threshold=threshold)
    with load(exported(tmp_path_factory, "multilabel"), backend="onnxruntime") as explainer:
        named = (NamedPicture(str(place), one) for place, one in enumerate(PICTURES))
        explain_files(explainer, Source(named, len(PICTURES)), tmp_path, options=options)
        found = explainer.explain(PICTURES)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    for one, line in zip(found, lines, strict=True):
        listed = [label["class_id"] for label in json.loads(line)["labels"]]
        assert sorted(listed) == np.flatnonzero(one.probabilities >= expected).tolist()
        assert listed == [score.class_id for score in one.top(len(listed))]


def test_a_threshold_is_a_probability():
    with pytest.raises(InputError, match="--threshold is 50; expected 0 to 1"):
        FileOptions(threshold=50)


def test_training_explains_each_of_a_pictures_labels_in_turn():
    network = network_of("multilabel")
    masked = MaskedStep(network, LossConfig())
    images = torch.rand(16, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shown = masked.classify(images) >= 0
    _, likeliest = masked.look(images)
    draws = torch.rand(200, 16, 4, generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(16, 4, dtype=torch.bool)
    for one in draws:
        seen[torch.arange(16), masked.look(images, one)[1]] = True
    # Every label that is as likely as not, and no other; the likeliest where there is none.
    assert bool((shown.sum(1) > 1).any())
    assert torch.equal(seen, shown.scatter(1, likeliest[:, None], True))
