"""Every error that tame-deploy raises on purpose.

    TameError
    ├── ArtifactError                  an artifact directory cannot be used
    │   ├── ManifestError              manifest.json is missing, malformed or inconsistent
    │   ├── ChecksumError              a file is not the one that the manifest names
    │   └── IncompatibleArtifactError  made for another version, graph or machine
    ├── InputError                     a picture, checkpoint, name or option that cannot be honoured
    ├── BackendError                   an inference backend failed
    │   ├── BackendNotInstalledError   the backend's package is missing
    │   └── DeviceError                the device or provider asked for was not obtained
    ├── MissingExtraError              an optional dependency is missing
    ├── TrainingError                  training cannot go on
    ├── BuildError                     the graph could not be exported or compiled
    ├── ParityError                    a graph, or a backend that runs it, disagrees with PyTorch
    ├── FidelityError                  lower precision spoils answers or explanations
    └── DownloadError                  a download failed or arrived damaged

A message is one line and says what was found, what was expected and what to do.
"""

from __future__ import annotations

import importlib.util

__all__ = [
    "ArtifactError",
    "BackendError",
    "BackendNotInstalledError",
    "BuildError",
    "ChecksumError",
    "DeviceError",
    "DownloadError",
    "FidelityError",
    "IncompatibleArtifactError",
    "InputError",
    "ManifestError",
    "MissingExtraError",
    "ParityError",
    "TameError",
    "TrainingError",
    "require_extra",
]


class TameError(Exception):
    """Base of every error raised on purpose."""


class ArtifactError(TameError):
    """An artifact directory cannot be read or written."""


class ManifestError(ArtifactError):
    """manifest.json is missing, malformed or inconsistent."""


class ChecksumError(ArtifactError):
    """A file of the artifact is not the one that the manifest names."""


class IncompatibleArtifactError(ArtifactError):
    """The artifact was made for another version, graph or machine."""


class InputError(TameError):
    """A picture, checkpoint, name or option that cannot be honoured."""


class BackendError(TameError):
    """An inference backend failed to load or to run the graph."""


class BackendNotInstalledError(BackendError):
    """The package behind the backend asked for is not installed."""


class DeviceError(BackendError):
    """The device or execution provider asked for was not obtained."""


class MissingExtraError(TameError):
    """An optional dependency is not installed."""


class TrainingError(TameError):
    """Training cannot go on: a loss that is no number, or a checkpoint that cannot be kept."""


class BuildError(TameError):
    """The graph could not be exported or compiled."""


class ParityError(TameError):
    """A graph, or a backend that runs it, disagrees with the PyTorch network."""


class FidelityError(TameError):
    """A graph of lower precision is below the fidelity floor."""


class DownloadError(TameError):
    """A download failed, or what arrived is not what was announced."""


def require_extra(extra: str, *modules: str) -> None:
    """Check that the modules an extra brings can be imported.

    Raises:
        MissingExtraError: naming the pip command that brings what is missing.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"this needs {', '.join(missing)}, not installed here: "
            f"pip install 'tame-deploy[{extra}]'"
        )
