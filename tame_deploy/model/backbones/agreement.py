"""Whether the preprocessing that was read off a model is the model's own, and its channels fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.errors import InputError
from tame_deploy.model.backbones.backbone import Backbone, Transform, first_line
from tame_deploy.model.backbones.preprocessing import ChannelOrder
from tame_deploy.picture.preprocess import prepare_batch

__all__ = ["check_channels", "disagreement"]

#: Levels of 0 to 255 by which the pixels of two resizing libraries may differ on average.
_TOLERANCE = 1.5


def disagreement(image: ImageSpec, order: ChannelOrder | None, own: Transform) -> str:
    """Return how the model's own transform prepares a picture otherwise; "" if it does not.

    The picture is wide, smooth, and different in each channel, so that another crop, another mean
    or another order of channels shows.
    """
    rows, columns = np.mgrid[0:120, 0:200] / 40
    waves = (np.sin(columns), np.sin(rows + columns / 2), np.cos(columns - rows))
    pixels = np.stack([(wave * 100 + 128).round() for wave in waves], 2).astype(np.uint8)
    picture = Image.fromarray(pixels).resize((400, 240), Image.Resampling.BILINEAR)
    try:
        theirs = np.asarray(own(picture), np.float32)
    # It is foreign code, and only a check.
    except Exception as error:
        return f"its own preprocessing cannot be run ({first_line(error)})"
    ours = prepare_batch([picture], image.for_input("float32"))[0]
    ours = ours[::-1] if order == "bgr" else ours
    if theirs.shape != ours.shape:
        found, expected = ("x".join(map(str, array.shape)) for array in (theirs, ours))
        return f"its own preprocessing gives {found}, not {expected}"
    deviation = np.array(image.std[::-1] if order == "bgr" else image.std, np.float32)
    levels = float(np.abs((theirs - ours) * deviation[:, None, None]).mean() * 255)
    if levels <= _TOLERANCE:
        return ""
    return (
        "its own preprocessing is only approximated: pixels of a wide picture differ by "
        f"{levels:.0f} levels of 255 on average"
    )


def check_channels(backbone: Backbone) -> None:
    """Check that a backbone takes pictures of as many channels as there are means.

    Raises:
        InputError: saying how many it takes, if its first convolution is why it fails.
    """
    stem = next((one for one in backbone.module.modules() if isinstance(one, nn.Conv2d)), None)
    declared = backbone.image.channels
    if stem is None or stem.in_channels == declared:
        return
    given: list[Any] = []
    handle = stem.register_forward_pre_hook(lambda _stem, inputs: given.extend(inputs))
    try:
        with torch.no_grad():
            backbone.module(backbone.example)
    # A foreign module may raise anything on channels that it does not take.
    except Exception:
        # What was made of the picture before, such as its quarters, has channels of its own.
        if not any(isinstance(one, Tensor) and one.shape[1:2] == (declared,) for one in given):
            return  # the cause is another one, and whoever runs the backbone next tells it
        channels = "one channel" if stem.in_channels == 1 else f"{stem.in_channels} channels"
        raise InputError(
            f"{backbone.name} takes pictures of {channels}, and the means are of "
            f"{declared}; expected one mean and one standard deviation a channel, declared by an "
            "attribute of the model, --preprocessing FILE or options (docs/models.md)"
        ) from None
    finally:
        handle.remove()
