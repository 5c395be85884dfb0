"""Backbones: classifiers of torchvision, timm and transformers by name, or of one's own code."""

from tame_deploy.model.backbones.backbone import Backbone
from tame_deploy.model.backbones.load import PAPER_LAYERS, load_backbone
from tame_deploy.model.backbones.preprocessing import Preprocessing
from tame_deploy.model.backbones.request import BackboneRequest, shape_request

__all__ = [
    "PAPER_LAYERS",
    "Backbone",
    "BackboneRequest",
    "Preprocessing",
    "load_backbone",
    "shape_request",
]
