"""A model's own declaration of its preprocessing is read as what it does to a picture."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models, transforms
from torchvision.transforms import v2

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.backbones.agreement import disagreement
from tame_deploy.model.backbones.declared import read_declaration
from tame_deploy.model.backbones.preprocessing import IMAGENET, Preprocessing, image_spec

BICUBIC = transforms.InterpolationMode.BICUBIC
NORMALISE = transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


class Net(nn.Module):
    pass


def read(**attributes):
    net = Net()
    for name, value in attributes.items():
        setattr(net, name, value)
    return read_declaration([net], "net.py:build")


def chain(*steps):
    return transforms.Compose([*steps, transforms.ToTensor(), NORMALISE])


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (chain(transforms.Resize(48), transforms.CenterCrop(32)), (32, 32, 48, "center")),
        (chain(transforms.Resize((32, 40), BICUBIC)), (32, 40, 40, "none")),
        (chain(transforms.Resize(36), transforms.CenterCrop((24, 32))), (24, 32, 36, "center")),
        (
            v2.Compose([v2.PILToTensor(), v2.Resize(48), v2.CenterCrop(32),
                        v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.2])]),
            (32, 32, 48, "center"),
        ),
        (models.ResNet18_Weights.DEFAULT.transforms, (224, 224, 256, "center")),
        (models.EfficientNet_B0_Weights.DEFAULT.transforms(), (224, 224, 256, "center")),
    ],
)  # fmt: skip
def test_torchvisions_transforms_are_understood_and_agree(transform, expected):
    declared, own = read(transforms=transform)
    if len(declared.mean) == 1:  # one number for all channels
        declared = Preprocessing(**vars(declared) | {"mean": (0.5,) * 3, "std": (0.2,) * 3})
    image = image_spec(declared, IMAGENET)
    assert (image.height, image.width, image.resize, image.crop) == expected
    assert disagreement(image, declared.channel_order, own) == ""


def test_pixels_that_are_never_scaled_stay_whole():
    steps = [v2.PILToTensor(), v2.Resize((32, 32)), v2.ToDtype(torch.float32)]
    declared, own = read(transforms=v2.Compose(steps))
    image = image_spec(declared, IMAGENET)
    assert image.std == pytest.approx((1 / 255,) * 3)
    assert disagreement(image, None, own) == ""


@pytest.mark.parametrize(
    "changed",
    [{"crop": "none"}, {"mean": (0.1,) * 3}, {"resize": 60}],
)
def test_what_is_prepared_otherwise_is_noticed(changed):
    transform = chain(transforms.Resize(48), transforms.CenterCrop(32))
    declared, own = read(transforms=transform)
    image = image_spec(Preprocessing(**vars(declared) | {"rescale": None} | changed), IMAGENET)
    assert "is only approximated: pixels" in disagreement(image, None, own)


def test_an_image_spec_and_plain_values_are_taken_at_their_word():
    image = ImageSpec(height=20, width=24, crop="none", mean=(0.1, 0.2, 0.3))
    declared, own = read(image_spec=image)
    assert image_spec(declared, IMAGENET) == image
    assert own is None
    declared, _ = read(preprocessing={"mean": (0.5, 0.5, 0.5), "channel_order": "bgr"})
    assert declared == Preprocessing(mean=(0.5,) * 3, channel_order="bgr")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"crop_pct": 0.95, "interpolation": "bicubic"}, (168, "center", "bicubic")),
        ({"crop_pct": 1.0, "crop_mode": "squash"}, (160, "none", "bicubic")),
        ({"crop_pct": 1.0, "crop_mode": "border"}, (160, "pad", "bicubic")),
    ],
)
def test_timms_configuration_is_understood_without_timm(config, expected):
    declared, _ = read(pretrained_cfg={"input_size": (3, 160, 160), "mean": (0.5,) * 3} | config)
    assert (declared.resize, declared.crop, declared.interpolation) == expected
    assert (declared.image_size, declared.std) == ((160, 160), IMAGENET.std)


def test_the_callable_may_declare_it_too_and_the_module_comes_first():
    def build():
        return Net()

    build.preprocessing = {"resize": 300}
    assert read_declaration([Net(), build], "net.py:build")[0].resize == 300
    net = Net()
    net.preprocessing = {"resize": 100}
    assert read_declaration([net, build], "net.py:build")[0].resize == 100


def test_parts_and_methods_of_such_names_declare_nothing():
    class Other(Net):
        def preprocessing(self, pixels):
            return pixels

    net = Other()
    net.transforms = nn.Sequential(nn.Conv2d(3, 3, 1))
    assert read_declaration([net], "net.py:build") == (Preprocessing(), None)
    assert read_declaration([net, torch.compile(net)], "net.py:build") == (Preprocessing(), None)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"transforms": chain(transforms.Pad(3))}, "transforms, whose step Pad is not understood"),
        ({"transforms": chain(transforms.Resize(32))}, "not give pictures of one size"),
        ({"transforms": chain(transforms.CenterCrop(32))}, "lacks Resize or CenterCrop"),
        ({"preprocessing": {"mean": 0.5}}, "preprocessing, mean is 0.5; expected a list"),
        ({"preprocessing": {"brightness": 1}}, "which has brightness; expected mean, std"),
        ({"image_spec": "imagenet"}, "image_spec, which is str, and that is not understood"),
        (
            {"default_cfg": {"mean": (0.5,) * 3, "crop_pct": 1.0, "interpolation": "random"}},
            "default_cfg, whose interpolation is 'random'",
        ),
        (
            {"default_cfg": {"input_size": (224, 224)}},
            "default_cfg, which cannot be read (ValueError: not enough values to unpack",
        ),
        ({"default_cfg": {"input_size": 224}}, "default_cfg, which cannot be read (TypeError: "),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(attributes, message):
    with pytest.raises(InputError) as caught:
        read(**attributes)
    assert message in str(caught.value)
    assert "--preprocessing FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_transform_that_fails_is_said():
    def fails(picture):
        raise ValueError("boom")

    assert "cannot be run (ValueError: boom)" in disagreement(ImageSpec(), None, fails)
    found = disagreement(ImageSpec(), None, lambda _: np.zeros((3, 9, 9)))
    assert found == "its own preprocessing gives 3x9x9, not 3x224x224"
