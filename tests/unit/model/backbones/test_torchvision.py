"""Backbones: published and own weights, in the forms they come in."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from tame_deploy.errors import InputError
from tame_deploy.model.backbones import BackboneRequest, load_backbone


@pytest.fixture
def no_initial_values(monkeypatch):
    """Leave the weights of large networks as memory was, where only their shapes matter."""
    for name in ("normal_", "trunc_normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


def own_file(tmp_path, module, prefix="", rename=lambda name: name):
    path = tmp_path / "weights.pth"
    torch.save({prefix + rename(name): t for name, t in module.state_dict().items()}, path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "mnasnet0_5", "densenet121", "shufflenet_v2_x0_5", "googlenet"]
)
@torch.no_grad()
def test_a_file_of_the_models_own_gives_the_model(tmp_path, name):
    arguments = {"init_weights": False} if name == "googlenet" else {}
    module = torchvision.models.get_model(name, weights=None, num_classes=7, **arguments).eval()
    own = own_file(tmp_path, module, "module.")
    asked = {"transform_input": False} if name == "googlenet" else {}
    backbone = load_backbone(BackboneRequest(name, own, **asked))
    picture = torch.randn(1, 3, 224, 224)
    assert not backbone.module.training
    assert torch.allclose(backbone.module(picture), module(picture), atol=1e-5)


@pytest.mark.slow
def test_published_weights_with_auxiliary_heads_normalise_as_they_were_trained(
    tmp_path, monkeypatch
):
    """The file lies where torch keeps downloads; only its weights are made up here."""
    weights = torchvision.models.get_model_weights("googlenet").DEFAULT
    module = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False)
    kept = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    kept.parent.mkdir(parents=True)
    torch.save(module.state_dict(), kept)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # no network is needed
    backbone = load_backbone(BackboneRequest("googlenet"))
    assert backbone.source.source == f"torchvision {weights}"
    assert backbone.labels[:2] == ("tench", "goldfish")
    assert backbone.module.transform_input


def test_densenets_old_names_are_known(tmp_path):
    module = torchvision.models.densenet121(num_classes=3)

    def old(name):
        return name.replace("norm1", "norm.1").replace("conv2", "conv.2")

    backbone = load_backbone(BackboneRequest("densenet121", own_file(tmp_path, module, "", old)))
    assert torch.equal(backbone.module.classifier.weight, module.classifier.weight)


@pytest.mark.slow
@pytest.mark.usefixtures("no_initial_values")
def test_a_transformer_takes_the_size_of_its_weights(tmp_path):
    with torch.device("meta"):
        shapes = torchvision.models.vit_b_32(num_classes=3, image_size=64).state_dict()
    path = tmp_path / "weights.pth"  # of one number each, for the file would have 350 MB
    torch.save({name: torch.zeros(()).expand(one.shape) for name, one in shapes.items()}, path)
    request = BackboneRequest("vit_b_32", str(path), image_size=(64, 64))
    backbone = load_backbone(request)
    assert backbone.module(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(InputError, match="square pictures"):
        load_backbone(BackboneRequest("vit_b_32", "random", image_size=(224, 448)))
    with pytest.raises(InputError, match="cannot build vit_b_32"):
        load_backbone(BackboneRequest("vit_b_32", "random", image_size=(225, 225)))


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    path = own_file(tmp_path, nn.Linear(3, 3))
    with pytest.raises(InputError, match="does not fit the backbone: lacks conv1.weight"):
        load_backbone(BackboneRequest("resnet18", path))


def test_preprocessing_comes_with_the_weights():
    image = load_backbone(BackboneRequest("efficientnet_b3", "random")).image
    assert (image.height, image.resize, image.interpolation) == (300, 320, "bicubic")
    larger = load_backbone(BackboneRequest("resnet18", "random", image_size=(448, 448))).image
    assert (larger.height, larger.resize) == (448, 512)


@pytest.mark.parametrize("transform_input", [True, False])
def test_googlenet_of_ones_own_asks_how_pictures_come(tmp_path, monkeypatch, transform_input):
    monkeypatch.setattr(torchvision.models, "get_model", small_googlenet)
    path = own_file(tmp_path, small_googlenet())
    with pytest.raises(InputError, match="pass --transform-input yes if .* no if it was built"):
        load_backbone(BackboneRequest("googlenet", path))
    asked = BackboneRequest("googlenet", path, transform_input=transform_input)
    assert load_backbone(asked).module.transform_input == transform_input


def small_googlenet(*_, transform_input=False, **__):
    module = nn.Linear(3, 3)
    module.transform_input = transform_input
    return module


def test_preprocessing_that_a_file_does_not_declare_is_said(tmp_path):
    module = torchvision.models.resnet18(num_classes=3)
    backbone = load_backbone(BackboneRequest("resnet18", own_file(tmp_path, module)))
    (remark,) = backbone.remarks
    assert "(as of torchvision's ResNet18_Weights.IMAGENET1K_V1); declare it" in remark
    assert "assumed preprocessing: pictures of 224x224" in backbone.source.source


@pytest.mark.slow
@pytest.mark.usefixtures("no_initial_values")
def test_class_tokens_must_be_spoken_for(tmp_path):
    from tame_deploy.artifact.types import variant_config
    from tame_deploy.model.network import HeadRequest, build_network
    from tests.unit.model.test_head import random_head

    state = random_head(variant_config("tame", (768,), 4)).state_dict()
    torch.save({k: torch.zeros_like(t) for k, t in state.items()}, tmp_path / "h.pt")
    request = BackboneRequest("vit_b_32", "random", classes=4, image_size=(64, 64))
    backbone = load_backbone(request)
    layers = ["encoder.layers.encoder_layer_11"]
    head = str(tmp_path / "h.pt")
    with pytest.raises(InputError, match="pass --tokens patch"):
        build_network(backbone, HeadRequest(head), layers)
    network = build_network(backbone, HeadRequest(head, tokens="patch-times-class"), layers)
    assert network.head.config.tokens == "patch-times-class"
    plain = load_backbone(BackboneRequest("resnet18", "random", classes=4))
    with pytest.raises(InputError, match="no class token"):
        build_network(plain, HeadRequest("random", tokens="patch-times-class"), ["layer4"])
