"""What a user asks for: which backbone, with which weights, for which pictures."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from tame_deploy.artifact.types import OutputKind, Task
from tame_deploy.model import demo
from tame_deploy.model.backbones.preprocessing import Preprocessing

__all__ = ["BackboneRequest", "shape_request"]


@dataclass(frozen=True)
class BackboneRequest(Preprocessing):
    """Which backbone, with which weights, for which pictures.

    `weights` is "default", "random", the name of torchvision weights (IMAGENET1K_V2) or a file,
    `FILE#PART` where it holds several (plain and averaged ones). What is None is taken from the
    weights. `preprocessing` is a TOML file that says how pictures are prepared; the fields of
    `Preprocessing` come before what it says. `transform_input` is of googlenet and inception_v3:
    whether the network normalises its pictures anew, as with torchvision's published weights.
    `task` and `outputs` are found by `tame_deploy.model.task`, where they are certain.
    `prefix_tokens` is how many tokens stand before a transformer's patches.
    """

    name: str
    weights: str = "default"
    _: KW_ONLY
    classes: int | None = None
    preprocessing: str | None = None
    transform_input: bool | None = None
    task: Task | None = None
    outputs: OutputKind | None = None
    labels: str | None = None
    prefix_tokens: int | None = None
    trust_remote_code: bool = False
    seed: int = 0


def shape_request(
    name: str,
    image_size: tuple[int, int] | None,
    classes: int | None,
    prefix_tokens: int | None = None,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    preprocessing: str | None = None,
    trust_remote_code: bool = False,
) -> BackboneRequest:
    """Return a request for a backbone whose shapes matter and whose weights do not.

    No weights are downloaded for it.
    """
    own = ":" in name and not name.startswith(("timm:", "hf:"))
    weights = "default" if own or name == demo.NAME else "random"
    return BackboneRequest(
        name,
        weights,
        classes=classes,
        image_size=image_size,
        mean=mean,
        std=std,
        preprocessing=preprocessing,
        prefix_tokens=prefix_tokens,
        trust_remote_code=trust_remote_code,
    )
