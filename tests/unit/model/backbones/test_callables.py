"""Networks of one's own, as people's code returns them."""

import sys

import pytest
import torch
from torch import nn

from tame_deploy.errors import InputError
from tame_deploy.model.backbones import BackboneRequest, load_backbone
from tame_deploy.model.backbones.unwrapping import plain_module
from tame_deploy.model.features import FeatureTap
from tame_deploy.model.network import HeadRequest, build_network

SOURCE = """
import torch
from torch import nn
from beside import WIDTH


class Net(nn.Module):
    def __init__(self, num_classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, 2, 1)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images):
        features = self.stem(images)
        return {"logits": self.head(features.mean((2, 3))), "features": features}


def half():
    return nn.DataParallel(Net().half())

def scripted():
    return torch.jit.trace(nn.Conv2d(3, 3, 3), torch.zeros(1, 3, 9, 9))

def declaring():
    net = nn.DataParallel(Net())
    net.preprocessing = {"resize": 70, "crop": "none"}
    return net

model = Net(3)

def number():
    return 7

def meta():
    return Net().to("meta")

table = {}
"""


@pytest.fixture
def net_file(tmp_path, monkeypatch):
    """Yield a file of a network, in a folder of its own with what it imports."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "net.py").write_text(SOURCE)
    (folder / "beside.py").write_text("WIDTH = 4\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield "project/net.py"
    for name in ("beside", "tame_deploy_backbone_net"):
        sys.modules.pop(name, None)


def load(name, **asked):
    return load_backbone(BackboneRequest(name, **asked))


def test_a_file_is_imported_with_its_own_folder(net_file):
    backbone = load(f"{net_file}:Net", classes=7)
    assert backbone.name == "net.py:Net"  # wherever the file lies
    assert FeatureTap(backbone.module, ["stem"])(backbone.example)[0].shape == (1, 7)
    assert backbone.module(backbone.example).shape == (1, 7)  # it returns a mapping by itself
    assert "assumed preprocessing: pictures of 224x224" in backbone.source.source
    (remark,) = backbone.remarks
    assert "ImageNet's mean 0.485,0.456,0.406" in remark
    assert "--preprocessing FILE" in remark


def test_what_options_declare_is_not_assumed(net_file, tmp_path):
    (tmp_path / "p.toml").write_text('resize = 70\ncrop = "center"\ninterpolation = "bicubic"\n')
    backbone = load(
        f"{net_file}:Net", preprocessing="p.toml", image_size=(64, 64), rescale="unit", resize=80
    )
    assert backbone.remarks == ()
    assert backbone.source.source == "as net.py:Net builds it"
    image = backbone.image
    assert (image.height, image.resize, image.interpolation, image.mean, image.std) == (
        64, 80, "bicubic", (0, 0, 0), (1, 1, 1)
    )  # fmt: skip


def test_wrappers_and_half_precision_come_off(net_file):
    backbone = load(f"{net_file}:half")
    assert dict(backbone.module.named_modules()).keys() == {"", "stem", "head"}
    assert {p.dtype for p in backbone.module.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in backbone.module.parameters())


def test_a_wrapper_may_declare_the_preprocessing(net_file):
    backbone = load(f"{net_file}:declaring")
    assert (backbone.image.resize, backbone.image.crop) == (70, "none")


def test_a_network_that_is_there_already_is_copied(net_file):
    backbone = load(f"{net_file}:model", classes=3)
    torch.rand(1)
    again = load(f"{net_file}:model", classes=3)
    assert torch.equal(backbone.module.head.weight, again.module.head.weight)  # by the seed
    kept = sys.modules["tame_deploy_backbone_net"].model
    assert torch.equal(kept.head.weight, again.module.head.weight)
    assert all(weight.requires_grad for weight in kept.parameters())
    assert isinstance(kept(torch.zeros(1, 3, 8, 8)), dict)


def test_compiled_parts_and_averages_come_off_anywhere():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)))
    names = list(dict(plain.named_modules()))
    plain[1] = torch.compile(plain[1])
    plain[1]._orig_mod[0].compile()
    averaged = torch.optim.swa_utils.AveragedModel(nn.DataParallel(torch.compile(plain)))
    found = plain_module(averaged, "net.py:build")
    assert list(dict(found.named_modules())) == names
    assert found(torch.zeros(1, 3, 9, 9)).shape == (1, 4, 5, 5)
    assert found[1][0]._compiled_call_impl is None


def test_a_network_of_bgr_takes_rgb_and_keeps_its_layers(net_file):
    plain, turned = (load(f"{net_file}:Net", channel_order=order) for order in ("rgb", "bgr"))
    pictures = torch.rand(2, 3, 8, 8)
    expected = FeatureTap(plain.module, ["stem"])(pictures.flip(1))
    found = FeatureTap(turned.module, ["stem"])(pictures)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1][0], expected[1][0])


def test_layers_that_are_no_modules_see_bgr_too(monkeypatch, tmp_path):
    (tmp_path / "adds.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)\n"
        "    def forward(self, x):\n        return torch.add(self.a(x), self.b(x)).mean((2, 3))\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    plain, turned = (
        load(f"{tmp_path}/adds.py:Net", channel_order=order).module for order in ("rgb", "bgr")
    )
    pictures = torch.rand(2, 3, 8, 8)
    logits, (layer,) = FeatureTap(turned, ["add"])(pictures)
    assert torch.equal(logits, plain(pictures.flip(1)))
    assert torch.equal(layer.mean((2, 3)), logits)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("project/net.py:Nett", "project/net.py has no 'Nett'; it has Net"),
        ("project/none.py:Net", "none.py: no such Python file; expected file.py:callable"),
        ("project/net.py:table", "is dict; expected a function or class that builds the network"),
        ("project/net.py:number", "gave int; expected a torch module"),
        ("project/net.py:scripted", "a TorchScript module whose layers cannot be tapped; return"),
        ("project/net.py:meta", "cannot be computed in float32 on the CPU"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_used_is_one_line(net_file, name, message):
    with pytest.raises(InputError) as caught:
        load(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"transform_input": True}, "--transform-input is of googlenet and inception_v3"),
        ({"trust_remote_code": True}, "--trust-remote-code is for hf:NAME"),
        ({"image_size": (8, 8), "mean": (0.5,), "std": (0.5,), "channel_order": "bgr"},
         "bgr is of three channels; found 1"),
    ],
)  # fmt: skip
def test_options_that_would_do_nothing_are_refused(net_file, asked, message):
    with pytest.raises(InputError, match=message):
        load(f"{net_file}:Net", **asked)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('boom')", "cannot import backbone broken:build: RuntimeError: boom"),
        ("def build(", "cannot import backbone broken:build: SyntaxError"),
        ("def build(): open('/none')", "cannot build backbone broken:build: FileNotFoundError"),
        ("x = 1", "cannot import backbone broken:build: broken has no 'build'; it has x"),
    ],
)
def test_a_callable_that_fails_is_one_line(tmp_path, monkeypatch, source, message):
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with pytest.raises(InputError, match=message) as caught:
        load("broken:build")
    assert "\n" not in str(caught.value)


def test_a_callable_that_takes_no_classes_says_what_to_do(tmp_path):
    (tmp_path / "five.py").write_text("from torch import nn\ndef build(): return nn.Linear(3, 5)")
    with pytest.raises(InputError, match="leave --classes out, or let it take num_classes"):
        load(f"{tmp_path}/five.py:build", classes=5)


def test_classes_that_a_callable_passes_over_are_refused(net_file, tmp_path):
    source = SOURCE.replace("nn.Linear(WIDTH, num_classes)", "nn.Linear(WIDTH, 5)")
    (tmp_path / net_file).write_text(source)
    backbone = load(f"{net_file}:Net", classes=7, image_size=(8, 8))
    with pytest.raises(InputError, match="--classes 7, but net.py:Net gives 5; build it with"):
        build_network(backbone, HeadRequest("random"), ["stem"])


def test_a_suggested_command_names_the_file_by_its_path(net_file, tmp_path):
    (tmp_path / net_file).write_text(SOURCE.replace(".mean((2, 3))", ".amax((2, 3))"))
    backbone = load(f"{net_file}:Net")
    with pytest.raises(InputError, match="tame-deploy layers project/net.py:Net"):
        build_network(backbone, HeadRequest("random"))
    with pytest.raises(InputError, match="train --backbone project/net.py:Net --layers a,b,c"):
        build_network(backbone, HeadRequest("cam"))


def test_a_pad_level_without_padding_is_refused(net_file):
    asked = {"image_size": (8, 8), "pad_level": 114}
    assert load(f"{net_file}:Net", crop="pad", **asked).image.pad_level == 114
    with pytest.raises(InputError, match="pad level 114 is for crop pad, and crop is center;"):
        load(f"{net_file}:Net", **asked)
