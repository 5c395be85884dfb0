"""The bundled demo: a small classifier of drawn shapes, with a head trained on it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.data.shapes import LABELS, SIZE

__all__ = ["BACKBONE_FILE", "HEAD_FILE", "IMAGE", "LABELS", "LAYERS", "NAME", "DemoNet"]

NAME = "demo"
LAYERS = ("block2", "block3", "block4")
IMAGE = ImageSpec(
    height=SIZE, width=SIZE, resize=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)

_DATA = Path(__file__).parents[1] / "data"
BACKBONE_FILE = _DATA / "demo-backbone.safetensors"
HEAD_FILE = _DATA / "demo-head.safetensors"


class DemoNet(nn.Module):
    """Four strided convolution blocks and a linear classifier, 0.25 million parameters."""

    def __init__(self, num_classes: int = len(LABELS)) -> None:
        super().__init__()
        self.block1 = _block(3, 24)
        self.block2 = _block(24, 48)
        self.block3 = _block(48, 96)
        self.block4 = _block(96, 128)
        self.classifier = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of float32 pictures (B, 3, 128, 128)."""
        features = self.block4(self.block3(self.block2(self.block1(images))))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def _block(given: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
