"""Published weights of torchvision's classifiers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from tame_deploy.errors import DownloadError
from tame_deploy.model.download import Progress, begins_with_sha256, download

__all__ = ["fetch_torchvision"]


def fetch_torchvision(weights: Any, progress: Progress | None = None) -> Path:
    """Return the file of torchvision weights, downloaded into torch's own cache if need be.

    Raises:
        DownloadError: if it is not there and cannot be had.
    """
    name = os.path.basename(urlparse(weights.url).path)
    digest = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    if digest is None:
        raise DownloadError(f"{weights.url} carries no checksum in its name; pass --weights PATH")
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        return download(weights.url, target, begins_with_sha256(digest[1]), progress)
    except DownloadError as error:
        raise DownloadError(
            f"{error}. Without a network: pass --weights PATH (a state dict), "
            "or --weights random to measure speed only"
        ) from None
