"""Whether the preprocessing that was read off a model gives what the model's own gives."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.model.backbones.backbone import Transform, first_line
from tame_deploy.model.backbones.preprocessing import ChannelOrder
from tame_deploy.picture.preprocess import prepare_batch

__all__ = ["disagreement"]

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
