"""timm's models: what their pretrained configuration says is taken, nothing is guessed."""

import json

import pytest
import safetensors.torch
import torch

from tame_deploy.errors import DownloadError, InputError, MissingExtraError
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.geometry import count_prefix_tokens

timm = pytest.importorskip("timm")


def load(name, *weights, **asked):
    return load_backbone(BackboneRequest(name, *weights, **asked))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as `timm.models.save_for_hf` writes it."""
    folder = tmp_path_factory.mktemp("saved")
    model = timm.create_model("test_resnet", num_classes=3)
    config = model.pretrained_cfg | {"num_classes": 3, "label_names": ["cat", "dog", "owl"]}
    config |= {"crop_pct": 0.8, "mean": (0.5, 0.4, 0.3), "interpolation": "bilinear"}
    (folder / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": config})
    )
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def test_a_saved_model_comes_with_its_preprocessing_and_labels(folder):
    backbone = load(f"timm:local-dir:{folder}")
    image = backbone.image
    assert (image.height, image.resize, image.interpolation) == (160, 200, "bilinear")
    assert image.mean == (0.5, 0.4, 0.3)
    assert backbone.labels == ("cat", "dog", "owl")
    assert backbone.remarks == ()  # timm's own transform gives the same pixels
    assert not backbone.source.random
    with pytest.raises(InputError, match="has 3 classes, not 5"):
        load(f"timm:local-dir:{folder}", classes=5)


def test_own_weights_bring_their_classes_and_say_whose_preprocessing_they_get(folder):
    backbone = load("timm:test_resnet", str(folder / "model.safetensors"))
    assert backbone.module.fc.out_features == 3
    assert "(as of timm's test_resnet.r160_in1k)" in backbone.assumed
    kept = safetensors.torch.load_file(folder / "model.safetensors")
    assert torch.equal(backbone.module.fc.weight, kept["fc.weight"])


def test_transformers_take_the_size_asked_for_and_say_their_prefix_tokens():
    backbone = load("timm:test_vit4", "random", image_size=(64, 96), classes=4)
    assert backbone.module(backbone.example).shape == (1, 4)
    assert count_prefix_tokens(backbone.module) == 1
    assert backbone.source.random
    assert backbone.assumed == ""


def test_nothing_is_downloaded_for_random_weights_and_a_hub_that_is_off_is_said(monkeypatch):
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    assert load("timm:test_convnext", "random").image.height == 160
    with pytest.raises(
        DownloadError, match="cannot download timm:test_vit: the hub is not"
    ) as said:
        load("timm:test_vit")
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:test_vitt", "timm has no model 'test_vitt'. Nearest: timm:test_vit"),
        ("timm:test_vit.best", "timm's test_vit has no weights 'best'; it has r160_in1k"),
        ("timm:local-dir:/nowhere", "cannot build timm:local-dir:/nowhere: FileNotFoundError"),
        ("timm:moon:test_vit", "cannot build timm:moon:test_vit: ValueError: Unknown model source"),
    ],
)
def test_names_that_are_none_are_one_line(name, message):
    with pytest.raises(InputError) as caught:
        load(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tame-deploy\[timm\]'"):
        load("timm:test_vit", "random")
