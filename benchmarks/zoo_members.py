"""The architectures of the zoo: small members of many families, by the names that users type.

A picture's side in pixels stands beside the name where another than the network's own is asked for,
because a table of what works does not need large pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MEMBERS", "Member"]


@dataclass(frozen=True)
class Member:
    """One architecture: its family, its name after --backbone, and the side of its pictures."""

    family: str
    name: str
    side: int | None = None
    prepare: Callable[[Path], Any] | None = None


def _torchvision() -> list[Member]:
    sides = {
        "AlexNet": ("alexnet", 128), "VGG": ("vgg11_bn", 96), "ResNet": ("resnet18", 128),
        "ResNet, bottlenecks": ("resnet50", 96), "ResNeXt": ("resnext50_32x4d", 96),
        "DenseNet": ("densenet121", 96), "GoogLeNet": ("googlenet", 128),
        "Inception v3": ("inception_v3", 160), "MobileNetV2": ("mobilenet_v2", 128),
        "MobileNetV3": ("mobilenet_v3_small", 128), "MNASNet": ("mnasnet0_5", 128),
        "ShuffleNetV2": ("shufflenet_v2_x0_5", 128), "SqueezeNet": ("squeezenet1_1", 128),
        "EfficientNet": ("efficientnet_b0", 128), "EfficientNetV2": ("efficientnet_v2_s", 96),
        "RegNet": ("regnet_y_400mf", 128), "ConvNeXt": ("convnext_tiny", 96),
        "Swin": ("swin_t", 128), "Swin v2": ("swin_v2_t", 128), "ViT": ("vit_b_32", 128),
        "MaxViT": ("maxvit_t", 224),
    }  # fmt: skip
    return [Member(family, name, side) for family, (name, side) in sides.items()]


def _timm() -> list[Member]:
    sides: dict[str, tuple[str, int | None]] = {
        "ResNet-D": ("resnet18d", 128), "SE-ResNet": ("seresnet18", 128),
        "SK-ResNet": ("skresnet18", 128), "Res2Net": ("res2net50_26w_4s", 96),
        "ResNeSt": ("resnest14d", 128), "CSPNet": ("cspresnet50", 96), "DLA": ("dla34", 128),
        "VoVNet": ("ese_vovnet19b_dw", 128), "GhostNet": ("ghostnet_050", 128),
        "GhostNetV2": ("ghostnetv2_100", 128), "RepVGG": ("repvgg_a0", 128),
        "MobileOne": ("mobileone_s0", 128), "HRNet": ("hrnet_w18_small", 128),
        "NFNet": ("dm_nfnet_f0", 96), "NF-ResNet": ("nf_regnet_b1", 128),
        "EfficientNet-Lite": ("tf_efficientnet_lite0", 128), "MixNet": ("mixnet_s", 128),
        "LCNet": ("lcnet_050", 128), "TinyNet": ("tinynet_e", 106), "ReXNet": ("rexnet_100", 128),
        "HardCoRe-NAS": ("hardcorenas_a", 128), "MobileNetV4": ("mobilenetv4_conv_small", 128),
        "MobileViT": ("mobilevit_xxs", 128), "EdgeNeXt": ("edgenext_xx_small", 128),
        "ConvNeXt, timm's": ("convnext_atto", 128), "ConvNeXt v2": ("convnextv2_atto", 128),
        "InceptionNeXt": ("inception_next_atto", 128), "PoolFormer": ("poolformer_s12", 128),
        "ViT, timm's": ("vit_tiny_patch16_224", None), "DeiT": ("deit_tiny_patch16_224", None),
        "DeiT, distillation token": ("deit_tiny_distilled_patch16_224", None),
        "DINOv2, registers": ("vit_small_patch14_reg4_dinov2", 112),
        "EVA-02": ("eva02_tiny_patch14_224", None), "BEiT": ("beit_base_patch16_224", None),
        "CaiT": ("cait_xxs24_224", None), "XCiT": ("xcit_nano_12_p16_224", None),
        "PiT": ("pit_ti_224", None), "LeViT": ("levit_128s", None),
        "MLP-Mixer": ("mixer_s32_224", None), "ResMLP": ("resmlp_12_224", None),
        "gMLP": ("gmlp_ti16_224", None), "Swin, timm's": ("swin_tiny_patch4_window7_224", None),
        "Hiera": ("hiera_tiny_224", None), "MViTv2": ("mvitv2_tiny", None),
        "NesT": ("nest_tiny", None), "Twins": ("twins_svt_small", None),
        "PVT v2": ("pvt_v2_b0", 128), "DaViT": ("davit_tiny", None),
        "FocalNet": ("focalnet_tiny_srf", 128), "FastViT": ("fastvit_t8", 128),
        "RepViT": ("repvit_m0_9", 128), "TinyViT": ("tiny_vit_5m_224", None),
        "EfficientViT": ("efficientvit_b0", 128), "StarNet": ("starnet_s1", 128),
        "CoAtNet": ("coatnet_nano_rw_224", None), "HGNet": ("hgnetv2_b0", 128),
    }  # fmt: skip
    return [Member(family, f"timm:{name}", side) for family, (name, side) in sides.items()]


def _saved(model_type: str, size: int, **sizes: Any) -> Callable[[Path], Any]:
    """Return what saves a small transformers classifier of random weights to a folder."""

    def save(folder: Path) -> None:
        from transformers import AutoConfig, AutoModelForImageClassification, ViTImageProcessor

        config = AutoConfig.for_model(model_type, image_size=size, num_labels=10, **sizes)
        AutoModelForImageClassification.from_config(config).save_pretrained(folder)
        ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)

    return save


_SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def _transformers() -> list[Member]:
    makers = {
        "ViT, transformers'": _saved("vit", 64, patch_size=8, **_SMALL),
        "DeiT, transformers'": _saved("deit", 64, patch_size=8, **_SMALL,
                                      architectures=["DeiTForImageClassification"]),
        "DINOv2, transformers'": _saved("dinov2", 56, patch_size=7, **_SMALL),
        "DINOv2, registers, transformers'": _saved(
            "dinov2_with_registers", 56, patch_size=7, num_register_tokens=4, **_SMALL
        ),
        "BEiT, transformers'": _saved("beit", 64, patch_size=8, **_SMALL),
        "ResNet, transformers'": _saved("resnet", 64, embedding_size=16,
                                        hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1]),
        "ConvNeXt, transformers'": _saved("convnext", 64, hidden_sizes=[16, 32, 64, 128],
                                          depths=[1, 1, 2, 1]),
        "Swin, transformers'": _saved("swin", 64, patch_size=4, embed_dim=16, depths=[2, 2, 2],
                                      num_heads=[1, 2, 4], window_size=4),
        "MobileNetV2, transformers'": _saved("mobilenet_v2", 64, depth_multiplier=0.5),
        "RegNet, transformers'": _saved("regnet", 64, embedding_size=16,
                                        hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1],
                                        groups_width=8),
    }  # fmt: skip
    return [Member(family, "hf", None, prepare=save) for family, save in makers.items()]


MEMBERS = (*_torchvision(), *_timm(), *_transformers())
