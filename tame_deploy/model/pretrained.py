"""Published weights: torchvision's classifiers and the public T-TAME heads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from tame_deploy.artifact.types import TokenUse
from tame_deploy.errors import DownloadError, InputError
from tame_deploy.files import cache_directory
from tame_deploy.model.download import Progress, download, fetch_text

__all__ = ["HEAD_LICENCE", "PUBLIC_HEADS", "fetch_head", "fetch_torchvision"]

HEAD_LICENCE = "academic, non-commercial use only (T-TAME, IDT-ITI)"
HEAD_REPOSITORY = "IDT-ITI/T-TAME-models"

#: Backbones with a public head, and what it does with a transformer's tokens.
PUBLIC_HEADS: dict[str, TokenUse] = {
    "vgg16": "patch",
    "resnet50": "patch",
    "vit_b_16": "patch-times-class",
}


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
    return _offline_hint(
        lambda: download(weights.url, target, digest[1], progress),
        "pass --weights PATH (a state dict), or --weights random to measure speed only",
    )


def fetch_head(backbone: str, progress: Progress | None = None) -> Path:
    """Return the file of the public T-TAME head for a backbone, downloaded if need be.

    Its checksum is the one that the hub keeps for the file (the pointer of its large-file store).

    Raises:
        InputError: if there is no public head for the backbone.
        DownloadError: if it is not there and cannot be had.
    """
    if backbone not in PUBLIC_HEADS:
        raise InputError(
            f"there is no public head for {backbone} (only for {', '.join(PUBLIC_HEADS)}); "
            "pass --head PATH, or --head random to measure speed only"
        )
    name = f"{backbone}_TTAME.ckpt"
    target = cache_directory() / "heads" / name
    if target.is_file():
        return target
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")

    def fetch() -> Path:
        pointer = fetch_text(f"{hub}/{HEAD_REPOSITORY}/raw/main/{name}")
        digest = re.search(r"^oid sha256:([0-9a-f]{64})$", pointer, re.MULTILINE)
        if digest is None:
            raise DownloadError(f"{hub} answers no checksum for {HEAD_REPOSITORY}/{name}")
        url = f"{hub}/{HEAD_REPOSITORY}/resolve/main/{name}"
        return download(url, target, digest[1], progress)

    return _offline_hint(fetch, "pass --head PATH, or --head random to measure speed only")


def _offline_hint(fetch: Callable[[], Path], instead: str) -> Path:
    try:
        return fetch()
    except DownloadError as error:
        raise DownloadError(f"{error}. Without a network: {instead}") from None
