"""ViT-S/16: torchvision's vision transformer in the size between "tiny" and "base"."""

from __future__ import annotations

from torch import nn
from torchvision.models import VisionTransformer


def vit_s_16() -> nn.Module:
    return VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536
    )
