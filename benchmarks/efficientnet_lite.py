"""EfficientNet-Lite0, its parts named as in timm's tf_efficientnet_lite0.

A network that was made to be quantized: ReLU6, depthwise convolutions, no squeeze-and-excite.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu6

#: (kernel, stride, expansion, channels, blocks) of each stage.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
EPSILON = 1e-3


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow does: what is odd goes below and to the right."""

    def forward(self, values: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return conv2d(values, self.weight, None, 1, kernel // 2, 1, self.groups)
        size = int(values.shape[-1])
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
        values = pad(values, (before, after, before, after))
        return conv2d(values, self.weight, None, stride, 0, 1, self.groups)


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> SameConv:
    return SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)


class Separable(nn.Module):
    """The block of the first stage: depthwise, then pointwise."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = conv(inputs, inputs, kernel, stride, inputs)
        self.bn1 = nn.BatchNorm2d(inputs, EPSILON)
        self.conv_pw = conv(inputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs, EPSILON)

    def forward(self, values: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(relu6(self.bn1(self.conv_dw(values)))))


class Inverted(nn.Module):
    """The block of all other stages: wide inside, with a shortcut where the shapes allow one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = inputs * expansion
        self.conv_pw = conv(inputs, inside)
        self.bn1 = nn.BatchNorm2d(inside, EPSILON)
        self.conv_dw = conv(inside, inside, kernel, stride, inside)
        self.bn2 = nn.BatchNorm2d(inside, EPSILON)
        self.conv_pwl = conv(inside, outputs)
        self.bn3 = nn.BatchNorm2d(outputs, EPSILON)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, values: Tensor) -> Tensor:
        wide = relu6(self.bn1(self.conv_pw(values)))
        found = self.bn3(self.conv_pwl(relu6(self.bn2(self.conv_dw(wide)))))
        return found + values if self.shortcut else found


def stage(number: int, inputs: int) -> nn.Sequential:
    kernel, stride, expansion, outputs, count = STAGES[number]
    if number == 0:
        return nn.Sequential(Separable(inputs, outputs, kernel, stride))
    widths = pairwise((inputs, *[outputs] * count))
    return nn.Sequential(
        *(
            Inverted(before, after, kernel, stride if place == 0 else 1, expansion)
            for place, (before, after) in enumerate(widths)
        )
    )


class EfficientNetLite0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = conv(3, 32, 3, 2)
        self.bn1 = nn.BatchNorm2d(32, EPSILON)
        widths = (32, *(outputs for *_, outputs, _ in STAGES))
        self.blocks = nn.Sequential(*(stage(n, widths[n]) for n in range(len(STAGES))))
        self.conv_head = conv(320, 1280)
        self.bn2 = nn.BatchNorm2d(1280, EPSILON)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, pictures: Tensor) -> Tensor:
        values = self.blocks(relu6(self.bn1(self.conv_stem(pictures))))
        values = relu6(self.bn2(self.conv_head(values)))
        return self.classifier(values.mean((2, 3)))


def efficientnet_lite0() -> nn.Module:
    return EfficientNetLite0()
