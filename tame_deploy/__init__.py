"""Image classifiers that explain themselves, from training to production.

from tame_deploy import load

with load("build/vgg16") as explainer:
    result = explainer.explain(["cat.jpg", "dog.jpg"])
result.class_names, result.probabilities, result.maps
result[0].overlay().save("cat-explained.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tame_deploy.artifact.directory import Artifact, open_artifact
    from tame_deploy.artifact.manifest import Manifest
    from tame_deploy.artifact.types import HeadConfig, ImageSpec, TensorSpec
    from tame_deploy.errors import (
        ArtifactError,
        BackendError,
        InputError,
        ParityError,
        TameError,
    )
    from tame_deploy.picture.preprocess import load_image
    from tame_deploy.runtime.backends.protocol import BackendOptions
    from tame_deploy.runtime.backends.remote import ConnectOptions
    from tame_deploy.runtime.explain.explainer import Explainer
    from tame_deploy.runtime.explain.explanation import Explanation, PictureExplanation
    from tame_deploy.runtime.explain.load import connect, load

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
    "PictureExplanation",
    "TameError",
    "TensorSpec",
    "connect",
    "load",
    "load_image",
    "open_artifact",
]

_HOMES = {
    "artifact.directory": ("Artifact", "open_artifact"),
    "artifact.manifest": ("Manifest",),
    "artifact.types": ("HeadConfig", "ImageSpec", "TensorSpec"),
    "errors": ("ArtifactError", "BackendError", "InputError", "ParityError", "TameError"),
    "picture.preprocess": ("load_image",),
    "runtime.backends.protocol": ("BackendOptions",),
    "runtime.backends.remote": ("ConnectOptions",),
    "runtime.explain.explainer": ("Explainer",),
    "runtime.explain.explanation": ("Explanation", "PictureExplanation"),
    "runtime.explain.load": ("connect", "load"),
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
