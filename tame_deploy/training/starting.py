"""What a head is before its first step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tame_deploy.errors import InputError
from tame_deploy.model.fused import Shares
from tame_deploy.model.head_start import cam_network, start_from_cam
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.training.data import PictureTensors
from tame_deploy.training.recipe import ModelConfig

__all__ = ["start_head"]

#: How many training pictures the rows of a head are fitted to, where they cannot be copied.
_FITTED = 128


def start_head(
    model: ModelConfig,
    network: ExplainedNetwork,
    pictures: PictureTensors,
    device: torch.device,
    report: Callable[[str], None] = lambda _: None,
) -> None:
    """Start a random head where the recipe says (`init`); others go on from where they are.

    Raises:
        InputError: if the recipe asks for CAM, and the network has no maps without training.
    """
    if model.head != "random":
        return
    if model.init == "cam" or (model.init == "auto" and network.head.config.skip):
        try:
            cam = cam_network(network)
        except InputError as error:
            if model.init == "cam":
                raise InputError(f"{error}, or start from random weights: --init random") from None
            report(
                f"the head starts from random weights, because {network.backbone.name} has no map "
                "without training (tame-deploy export --head cam says why)"
            )
        else:
            some = _some_pictures(network, pictures)
            report("looking for the maps that the head starts from")
            report(str(start_from_cam(network.to(device), cam.to(device), some.to(device))))
            return
    bias = network.attention_head.fuser.bias
    assert bias is not None
    bias.data.add_(model.initial_bias)


def _some_pictures(network: ExplainedNetwork, pictures: PictureTensors) -> Tensor:
    """Return normalised training pictures, float32 (N, channels, H, W)."""
    image = network.backbone.image
    step = max(1, len(pictures) // _FITTED)
    chosen = range(0, len(pictures), step)[:_FITTED]
    levels = torch.stack([pictures[0, index][0] for index in chosen])
    mean = torch.tensor(image.mean).view(1, -1, 1, 1)
    std = torch.tensor(image.std).view(1, -1, 1, 1)
    normalised: Tensor = (Shares(image)(levels.float()) - mean) / std
    return normalised
