"""Image classifiers that explain themselves, from training to production.

from tame_deploy import load

with load("build/vgg16") as explainer:
    result = explainer.explain(["cat.jpg", "dog.jpg"])
result.class_names, result.probabilities, result.maps
result.overlay(0).save("cat-explained.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tame_deploy.artifact import Artifact, open_artifact
    from tame_deploy.errors import (
        ArtifactError,
        BackendError,
        InputError,
        ParityError,
        TameError,
    )
    from tame_deploy.manifest import Manifest
    from tame_deploy.preprocess import load_image
    from tame_deploy.runtime.backend import BackendOptions
    from tame_deploy.runtime.explainer import Explainer, load
    from tame_deploy.runtime.explanation import Explanation
    from tame_deploy.serving.client import ConnectOptions, connect
    from tame_deploy.types import HeadConfig, ImageSpec, TensorSpec

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "ArtifactError",
    "BackendError",
    "BackendOptions",
    "ConnectOptions",
    "Explainer",
    "Explanation",
    "HeadConfig",
    "ImageSpec",
    "InputError",
    "Manifest",
    "ParityError",
    "TameError",
    "TensorSpec",
    "connect",
    "load",
    "load_image",
    "open_artifact",
]

_HOMES = {
    "artifact": ("Artifact", "open_artifact"),
    "errors": ("ArtifactError", "BackendError", "InputError", "ParityError", "TameError"),
    "manifest": ("Manifest",),
    "preprocess": ("load_image",),
    "runtime.backend": ("BackendOptions",),
    "runtime.explainer": ("Explainer", "load"),
    "runtime.explanation": ("Explanation",),
    "serving.client": ("ConnectOptions", "connect"),
    "types": ("HeadConfig", "ImageSpec", "TensorSpec"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that importing costs nothing."""
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
