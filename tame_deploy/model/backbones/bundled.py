"""The demo, whose weights come with the package."""

from __future__ import annotations

import torch

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.errors import InputError
from tame_deploy.model import demo
from tame_deploy.model.backbones.backbone import Loaded, random_source
from tame_deploy.model.backbones.preprocessing import declared_by
from tame_deploy.model.backbones.request import BackboneRequest
from tame_deploy.model.backbones.state_dict import load_file

__all__ = ["load_demo"]


def load_demo(request: BackboneRequest) -> Loaded:
    """Return the demo with its own weights, random ones or a file's.

    Raises:
        InputError: if classes or weights do not fit.
    """
    if request.classes not in (None, len(demo.LABELS)):
        raise InputError(f"the demo has {len(demo.LABELS)} classes, not {request.classes}")
    with torch.random.fork_rng():
        torch.manual_seed(request.seed)
        module = demo.DemoNet()
    source = random_source(request)
    notes: tuple[str, ...] = ()
    if request.weights == "default":
        load_file(module, str(demo.BACKBONE_FILE))
        source = WeightsSource("bundled demo", licence="Apache-2.0")
    elif request.weights != "random":
        source, notes = load_file(module, request.weights)
    declared = declared_by(demo.IMAGE)
    return Loaded(
        name=demo.NAME,
        module=module,
        source=source,
        declared=declared,
        labels=demo.LABELS,
        notes=notes,
    )
