"""Names of classes: the weights' own, ImageNet's, or those of a file."""

from __future__ import annotations

from pathlib import Path

from tame_deploy.errors import InputError

__all__ = ["imagenet_labels", "read_labels"]


def imagenet_labels() -> tuple[str, ...]:
    """Return the names of ImageNet's 1000 classes, as torchvision has them."""
    import torchvision

    return tuple(torchvision.models.SqueezeNet1_1_Weights.DEFAULT.meta["categories"])


def read_labels(asked: str | None, published: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return class names, or None for numbers; their count is checked against the logits later.

    Raises:
        InputError: if they are to come from a file that cannot be read, or that lacks a name.
    """
    if asked in (None, "default"):
        return published
    if asked == "numbers":
        return None
    if asked == "imagenet":
        return imagenet_labels()
    try:
        text = Path(str(asked)).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read labels {asked}: {reason}") from None
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    if "" in names:
        raise InputError(
            f"labels {asked}: line {names.index('') + 1} is empty; expected a name a line"
        )
    return names
