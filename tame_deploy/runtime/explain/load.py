"""Opening an explainer: of an artifact on this machine, or of a model that a server runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.errors import InputError
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.backends.remote import ConnectOptions, open_remote
from tame_deploy.runtime.explain.explainer import Explainer
from tame_deploy.runtime.selection.selection import open_backend

__all__ = ["connect", "load"]


def load(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    options: BackendOptions | None = None,
) -> Explainer:
    """Open an artifact for explaining.

    Args:
        path: the artifact's directory.
        backend: "tensorrt", "tensorrt-rtx", "onnxruntime", or "auto": the first of them that can
            be used here (`tame-deploy doctor` says which, and why).
        threads: how many threads one operation may use; one a core by default. For ONNX Runtime.
        providers: ONNX Runtime's execution providers, by preference; the CPU's by default.
        options: everything that a backend can be told, in place of the two before.

    Raises:
        ArtifactError: if the artifact is missing, altered or too new.
        BackendError: if the backend is not installed or a provider is not obtained.
        InputError: for options that do not belong together, or to the backend.
    """
    if options is not None and (threads is not None or providers is not None):
        raise InputError("found options beside threads or providers; expected one or the other")
    chosen = tuple(providers) if providers is not None else None
    artifact = open_artifact(path)
    opened = open_backend(artifact, backend, options or BackendOptions(threads, chosen))
    return Explainer(artifact, opened)


def connect(url: str, options: ConnectOptions | None = None) -> Explainer:
    """Open a served model for explaining (see `open_remote`).

    Raises:
        InputError: for a URL that names no server or model.
        BackendError: if the server cannot be reached, refuses, or is another's.
        MissingExtraError: without tritonclient.
    """
    return Explainer(*open_remote(url, options))
