"""A model of one's own through the pipeline: layers, train, export, explain, evaluate, compare."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command_line import run_here
from tests.once import made_once

pytestmark = pytest.mark.slow

SOURCE = '''
import torch
from torch import nn


class Block(nn.Module):
    """A layer that gives out a tuple, as transformers' do."""

    def __init__(self, channels):
        super().__init__()
        self.inner = nn.Conv2d(channels, 8, 3, 2, 1)

    def forward(self, features):
        return torch.relu(self.inner(features)), None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.last, self.head = Block(3), Block(8), nn.Linear(8, 4)

    def forward(self, images):
        features = self.last(self.first(images)[0])[0]
        return self.head(features.mean((2, 3))), features


def build():
    return nn.DataParallel(Net().half())
'''
#: What the file does not say, so that nothing is assumed.
SAID = ("--image-size", 32, "--crop", "none", "--interpolation", "bilinear", "--rescale", "none",
        "--mean", "104,117,124", "--std", "1,1,1", "--channel-order", "bgr")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Let torch take one thread: for networks this small, several only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of an own model's file and artifact."""

    def make(folder):
        folder.mkdir()
        (folder / "net.py").write_text(SOURCE)
        done = run_here(
            "export", "-b", "net.py:build", *SAID, "--layers", "first,last", "--head", "random",
            "-o", "artifact", cwd=folder,
        )  # fmt: skip
        assert "note:" not in done.stderr

    return made_once(tmp_path_factory, "own-model", make)


def own_network(folder):
    """The network as its author runs it: BGR levels of 0 to 255 less their means."""
    scope = {"__name__": "own"}
    exec(compile(SOURCE, "net.py", "exec"), scope)
    network = scope["Net"]().eval()

    def run(levels):
        pictures = torch.from_numpy(levels[..., ::-1].copy()).permute(0, 3, 1, 2).float()
        means = torch.tensor([124.0, 117, 104]).view(1, 3, 1, 1)  # of blue, green, red
        return network(pictures - means)[0].softmax(1).detach().numpy()

    return run


def test_the_artifact_answers_as_the_authors_own_code(exported, tmp_path):
    levels = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), np.uint8)
    for index, one in enumerate(levels):
        Image.fromarray(one).save(tmp_path / f"{index}.png")
    run_here("explain", exported / "artifact", tmp_path / "0.png", tmp_path / "1.png",
             "-o", tmp_path / "out", "--backend", "onnxruntime")  # fmt: skip
    expected = own_network(exported)(levels)
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    for record, probabilities in zip(map(json.loads, lines), expected, strict=True):
        for top in record["top"]:
            assert top["probability"] == pytest.approx(probabilities[top["class_id"]], abs=2e-3)
    manifest = json.loads((exported / "artifact" / "manifest.json").read_text())
    assert manifest["backbone"] == "net.py:build"
    assert manifest["weights"]["backbone"]["source"] == "as net.py:build builds it"
    assert manifest["feature_layers"] == ["first", "last"]


def test_the_artifact_stands_beside_its_network(exported, tmp_path):
    run_here(
        "compare", exported / "artifact", "-b", "net.py:build", *SAID, "--methods", "tame,grad-cam",
        "--cam-layer", "last.inner", "--data", "demo-held-out:2", "--backend", "onnxruntime",
        "--metrics", "ad-ic", "-o", tmp_path / "out", cwd=exported,
    )  # fmt: skip
    assert (tmp_path / "out" / "grad-cam.json").is_file()


def test_layers_names_those_inside_the_wrapper(exported):
    done = run_here("layers", "net.py:build", "--json", "--image-size", 32, cwd=exported)
    assert {"first", "last"} <= {row["layer"] for row in json.loads(done.stdout)["layers"]}


def test_a_head_is_trained_on_a_model_of_transformers_and_exported(tmp_path):
    t = pytest.importorskip("transformers")
    names = {0: "cat", 1: "dog", 2: "owl"}
    config = t.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        image_size=32, patch_size=8, id2label=names, label2id={v: k for k, v in names.items()},
    )  # fmt: skip
    t.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    t.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    layers = ("--layers", "vit.layers.0,vit.layers.1")
    run_here(
        "train", "-b", "hf:vit", *layers, "--data", "demo:6", "--epochs", 1, "--batch-size", 4,
        "--set", "run.workers=0", "--set", "model.tokens=patch", "-o", "run", cwd=tmp_path,
    )  # fmt: skip
    (tmp_path / "moved").mkdir()
    (tmp_path / "vit").rename(tmp_path / "moved" / "vit")  # its place is no part of its name
    done = run_here("export", "-b", "hf:moved/vit", "--head", "run/head-best.safetensors",
                    "-o", "artifact", cwd=tmp_path)  # fmt: skip
    assert "note:" not in done.stderr
    assert (tmp_path / "artifact" / "labels.txt").read_text().split() == ["cat", "dog", "owl"]


def test_layers_of_a_model_of_timm_are_listed():
    pytest.importorskip("timm")
    done = run_here("layers", "timm:test_resnet", "--json", "--image-size", 64)
    rows = json.loads(done.stdout)["layers"]
    assert {"layer3", "layer4"} <= {row["layer"] for row in rows}


def test_an_assumed_size_is_said_where_only_that_matters(tmp_path):
    (tmp_path / "net.py").write_text(SOURCE)
    told = run_here("layers", "net.py:build", "--json", cwd=tmp_path).stderr
    assert told.strip() == (
        "note: assumed pictures of 224x224, as nobody declared a size; pass --image-size for others"
    )
    assert not run_here("layers", "net.py:build", "--image-size", 32, cwd=tmp_path).stderr


def test_layers_takes_the_channels_that_nobody_declared(tmp_path):
    (tmp_path / "net.py").write_text(SOURCE.replace("Block(3)", "Block(1)"))
    asked = ("layers", "net.py:build", "--image-size", 32)
    refused = run_here(*asked, cwd=tmp_path, expect=1).stderr
    assert "takes pictures of one channel, and the means are of 3; expected one mean" in refused
    assert "first" in run_here(*asked, "--mean", 0.5, "--std", 0.2, cwd=tmp_path).stdout


def test_the_range_test_says_what_it_assumed(tmp_path):
    (tmp_path / "net.py").write_text(SOURCE)
    done = run_here(
        "find-lr", "-b", "net.py:build", "--layers", "last", "--data", "demo:6", "--batch-size", 2,
        "--steps", 50, "--set", "run.workers=0", "--set", "model.image_size=[8,8]",
        "--prefix-tokens", 0, cwd=tmp_path,
    )  # fmt: skip
    assert "assumed preprocessing: the middle cut out, the short side" in done.stderr


def test_assumed_preprocessing_is_said_on_the_screen(tmp_path):
    (tmp_path / "net.py").write_text(SOURCE)
    done = run_here(
        "evaluate", "-b", "net.py:build", "--image-size", 32, "--layers", "last", "--head",
        "random", "--data", "demo-held-out:2", "--metrics", "ad-ic", cwd=tmp_path,
    )  # fmt: skip
    assert "note: assumed preprocessing: the middle cut out, the short side" in done.stderr
    assert "ImageNet's mean 0.485,0.456,0.406" in done.stderr
