"""transformers' classifiers: their image processors and their labels are taken."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tame_deploy.errors import DownloadError, InputError, MissingExtraError
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.features import FeatureTap
from tame_deploy.model.geometry import count_prefix_tokens
from tame_deploy.picture.preprocess import prepare_batch

transformers = pytest.importorskip("transformers")
t = transformers

SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = SMALL | {"intermediate_size": 8, "image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2}
NAMES = {0: "cat", 1: "dog", 2: "owl"}
SQUARE = {"height": 32, "width": 32}


def load(name, *weights, **asked):
    return load_backbone(BackboneRequest(name, *weights, **asked))


def saved(folder, config, processor=None):
    config.architectures = []  # transformers looks through them without a check
    model = t.AutoModelForImageClassification.from_config(config)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return model.eval()


FAMILIES = {
    "vit": lambda: (t.ViTConfig(**VIT), t.ViTImageProcessor(size=SQUARE), 1),
    "deit": lambda: (t.DeiTConfig(**VIT), t.DeiTImageProcessor(size=SQUARE, crop_size=SQUARE), 2),
    "registers": lambda: (
        t.Dinov2WithRegistersConfig(**SMALL, image_size=32, patch_size=8, num_register_tokens=3),
        t.BitImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE),
        4,
    ),
    "convnext": lambda: (
        t.ConvNextConfig(**STAGES),
        t.ConvNextImageProcessor(size={"shortest_edge": 56}),
        None,
    ),
    "bgr": lambda: (
        t.ConvNextConfig(**STAGES),
        t.MobileViTImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE),
        None,
    ),
    "minus one": lambda: (
        t.ConvNextConfig(**STAGES),
        t.EfficientNetImageProcessor(size=SQUARE, rescale_offset=True, rescale_factor=1 / 127.5),
        None,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_network_sees_a_picture_as_transformers_prepares_it(tmp_path, family):
    config, processor, prefix_tokens = FAMILIES[family]()
    model = saved(tmp_path / "saved", config, processor)
    backbone = load(f"hf:{tmp_path}/saved")
    assert backbone.name == "hf:saved"  # wherever the folder lies
    assert backbone.remarks == ()
    assert count_prefix_tokens(backbone.module) == prefix_tokens
    waves = np.sin(np.mgrid[0:100, 0:80].sum(0)[:, :, None] / (9, 14, 20))
    picture = Image.fromarray((waves * 100 + 128).astype(np.uint8))
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    seen = []
    backbone.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = torch.from_numpy(prepare_batch([picture], backbone.image.for_input("float32")))
    assert FeatureTap(backbone.module, [])(pixels)[0].shape == model(theirs).logits.shape
    # Libraries resize with other roundings.
    assert (seen[0] - theirs).abs().mean() < 0.02 * theirs.std()


def test_labels_are_the_configurations(tmp_path):
    label_ids = {name: index for index, name in NAMES.items()}
    config = t.ViTConfig(**VIT, id2label=NAMES, label2id=label_ids)
    saved(tmp_path / "a", config, t.ViTImageProcessor(size=SQUARE))
    assert load(f"hf:{tmp_path}/a").labels == ("cat", "dog", "owl")
    saved(tmp_path / "b", t.ViTConfig(**VIT), t.ViTImageProcessor(size=SQUARE))
    assert load(f"hf:{tmp_path}/b").labels is None  # LABEL_0 is no name
    with pytest.raises(InputError, match="has 3 classes, not 5"):
        load(f"hf:{tmp_path}/a", classes=5)


def test_what_a_processor_cannot_be_read_as_is_said(tmp_path):
    wide = {"height": 40, "width": 40}
    saved(tmp_path / "a", t.ViTConfig(**VIT), t.DeiTImageProcessor(size=wide, crop_size=SQUARE))
    (remark,) = load(f"hf:{tmp_path}/a").remarks
    assert "its own preprocessing is only approximated: pixels of a wide picture" in remark
    saved(tmp_path / "b", t.ViTConfig(**VIT))
    backbone = load(f"hf:{tmp_path}/b")
    assert "pictures of" not in backbone.assumed  # the network says its size
    assert "ImageNet's mean" in backbone.assumed
    assert backbone.image.height == 32


def test_own_and_random_weights(tmp_path):
    model = saved(tmp_path / "a", t.ViTConfig(**VIT), t.ViTImageProcessor(size=SQUARE))
    state = {f"model.{k}": v.half() for k, v in model.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    backbone = load(f"hf:{tmp_path}/a", str(tmp_path / "w.safetensors"))
    assert backbone.module.classifier.weight.dtype == torch.float32
    assert "(as of hf:a)" in backbone.assumed
    backbone = load(f"hf:{tmp_path}/a", "random", classes=7, image_size=(48, 64))
    assert FeatureTap(backbone.module, [])(backbone.example)[0].shape == (1, 7)


def test_code_that_comes_with_a_model_does_not_run(tmp_path):
    saved(tmp_path / "a", t.ViTConfig(**VIT), t.ViTImageProcessor(size=SQUARE))
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    mark = tmp_path / "mark"
    names = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model"}
    config |= {"model_type": "own", "auto_map": names}
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    (tmp_path / "a" / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(InputError, match="code of its own, which was not run; .* --trust-remote"):
        load(f"hf:{tmp_path}/a")
    assert not mark.exists()


def test_models_that_are_no_classifiers_are_one_line(tmp_path):
    config = t.ViTConfig(**VIT)
    t.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "a")
    t.ViTImageProcessor(size=SQUARE).save_pretrained(tmp_path / "a")
    with pytest.raises(
        InputError, match="lacks weights of the classifier .classifier.bias"
    ) as said:
        load(f"hf:{tmp_path}/a")
    assert "\n" not in str(said.value)
    t.BertConfig().save_pretrained(tmp_path / "b")
    with pytest.raises(InputError, match="cannot build hf:.*Unrecognized configuration") as said:
        load(f"hf:{tmp_path}/b", preprocessing=None)
    assert "\n" not in str(said.value)


def test_a_hub_that_is_off_and_a_folder_that_is_not_there(monkeypatch):
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="cannot download hf:nobody/nothing: the hub is not"):
        load("hf:nobody/nothing")
    with pytest.raises(InputError, match="./nothing: no such folder"):
        load("hf:./nothing")


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tame-deploy\[transformers\]'"):
        load("hf:nobody/nothing")
