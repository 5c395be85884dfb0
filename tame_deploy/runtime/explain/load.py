"""Opening an explainer: of an artifact on this machine, or of a model that a server runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.errors import InputError
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.backends.remote import ConnectOptions, open_remote
from tame_deploy.runtime.backends.table import AUTO, backend_names
from tame_deploy.runtime.explain.explainer import Explainer
from tame_deploy.runtime.selection.selection import open_backend

__all__ = ["connect", "load"]


def load(
    path: str | os.PathLike[str],
    *,
    backend: str = AUTO,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    options: BackendOptions | None = None,
) -> Explainer:
    """Open an artifact, or a model that a server runs, for explaining.

    Args:
        path: the artifact's directory; or a server's URL, which opens what `connect` opens.
        backend: {names}. "auto" takes the first of the others, in that order, that can be used here
            (TensorRT where the artifact has an engine for this GPU, ONNX Runtime where it has
            CUDA); on a CPU, the backend that was the fastest when all for CPUs were measured for
            this artifact, once. `tame-deploy doctor ARTIFACT` says which it is, and what the others
            lack.
        threads: how many one operation may use on the CPU, with OpenVINO or ONNX Runtime; by
            default one for each core that this process may use. With "auto", only backends for CPUs
            are taken.
        providers: ONNX Runtime's execution providers, by preference; the CPU's by default. With
            "auto", ONNX Runtime is taken.
        options: everything that a backend can be told, in place of the two before.

    Raises:
        ArtifactError: if the artifact is missing, altered or too new.
        BackendError: if the backend is not installed or a provider is not obtained; or the server
            cannot be reached.
        ParityError: if a graph of lower precision is computed otherwise here than it was made.
        InputError: for options that do not belong together, or to the backend, or that are given
            with a URL.
        MissingExtraError: for a URL, without tritonclient.
    """
    if options is not None and (threads is not None or providers is not None):
        raise InputError("found options beside threads or providers; expected one or the other")
    if isinstance(providers, str):
        raise InputError(f"providers is {providers!r}; expected a list, such as [{providers!r}]")
    chosen = tuple(providers) if providers is not None else None
    options = options or BackendOptions(threads=threads, providers=chosen)
    url = os.fspath(path)
    if "://" in url:
        _check_left_to_server(url, backend, options)
        return connect(url)
    artifact = open_artifact(path)
    return Explainer(artifact, open_backend(artifact, backend, options))


if load.__doc__ is not None:  # as python -OO leaves it
    load.__doc__ = load.__doc__.format(names=", ".join(f'"{name}"' for name in backend_names()))


def _check_left_to_server(url: str, backend: str, options: BackendOptions) -> None:
    given = sorted(options.changed())
    if backend != AUTO:
        given.insert(0, f"backend {backend!r}")
    if given:
        raise InputError(
            f"found {', '.join(given)} with {url}; expected none of them, because a server chooses "
            "how its models run"
        )


def connect(url: str, options: ConnectOptions | None = None) -> Explainer:
    """Open a model that a server runs, for explaining (see `open_remote`).

    Raises:
        InputError: for a URL that names no server or model.
        BackendError: if the server cannot be reached, refuses, or is another's.
        MissingExtraError: without tritonclient.
    """
    return Explainer(*open_remote(url, options))
