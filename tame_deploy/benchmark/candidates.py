"""What is measured: an artifact, its relatives of other precision, and its classifier alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tame_deploy.artifact.directory import MANIFEST_NAME, Artifact, open_artifact
from tame_deploy.artifact.types import TensorSpec
from tame_deploy.errors import ArtifactError, InputError
from tame_deploy.runtime.backends.protocol import CUDA, Backend, BackendOptions
from tame_deploy.runtime.backends.table import backend_spec
from tame_deploy.runtime.selection.auto import prospects
from tame_deploy.runtime.selection.selection import open_backend

__all__ = ["Candidate", "candidates_of", "relatives"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One artifact on one backend.

    Attributes:
        artifact: whose graph or engine it is.
        backend: its name.
        precision: what is computed in.
        options: for the backend.
        plain: whether only the classifier is run, without its explanation.
    """

    artifact: Artifact
    backend: str
    precision: str
    options: BackendOptions
    plain: bool = False

    @property
    def name(self) -> str:
        """Its name in a table."""
        place = " on CUDA" if CUDA in (self.options.providers or ()) else ""
        return f"{self.backend}{place}"

    @property
    def can_be_plain(self) -> bool:
        """Whether its classifier can be run alone: an engine holds both."""
        spec = backend_spec(self.backend, self.options)
        return spec.open_graph is not None and _has_onnx()

    def without_explanation(self) -> Candidate:
        """Return the classifier alone, on the same backend."""
        return replace(self, plain=True)

    def open(self) -> Backend:
        """Open it.

        Raises:
            BackendError: if it cannot be opened.
            ArtifactError: if its engine is not for this machine.
        """
        open_graph = backend_spec(self.backend, self.options).open_graph
        if not self.plain or open_graph is None:
            return open_backend(self.artifact, self.backend, self.options)
        model = plain_graph(self.artifact)
        inputs = tuple(spec for spec in self.artifact.manifest.inputs if spec.name == "images")
        outputs: tuple[TensorSpec, ...] = self.artifact.manifest.outputs[:1]
        return open_graph(model, inputs, outputs, self.options)


def candidates_of(
    artifact: Artifact, threads: int | None, backends: Sequence[str]
) -> list[Candidate]:
    """Return an artifact on every backend that can run it here.

    Args:
        artifact: to be measured.
        threads: for one operation on a CPU.
        backends: names to keep; all of them by default.

    Raises:
        InputError: if none is left.
    """
    found = [
        candidate
        for candidate in _every_candidate(artifact, threads)
        if not backends or candidate.backend in backends
    ]
    if not found:
        raise InputError(
            f"nothing here runs {artifact.path} on {', '.join(backends) or 'any backend'}; "
            "tame-deploy doctor says why"
        )
    return found


def _every_candidate(artifact: Artifact, threads: int | None) -> Iterator[Candidate]:
    own = artifact.manifest.precision

    def candidate(backend: str, options: BackendOptions) -> Candidate:
        lower = options.precision
        precision = own if lower is None else lower if own == "fp32" else f"{own}, {lower}"
        return Candidate(artifact=artifact, backend=backend, precision=precision, options=options)

    for prospect in prospects(artifact, BackendOptions()):
        if prospect.refusal is not None:
            continue
        spec = prospect.spec
        options = spec.narrowed(BackendOptions(threads=threads if spec.on_cpu else None))
        yield candidate(spec.name, options)
        for lower in spec.lower_precisions():
            yield candidate(spec.name, replace(options, precision=lower))


def relatives(artifact: Artifact) -> list[Artifact]:
    """Return the artifacts beside one that were made of it, by name."""
    identity = artifact.manifest.identity()
    found = []
    for folder in sorted(artifact.path.absolute().parent.iterdir()):
        if folder.name.startswith(".") or not (folder / MANIFEST_NAME).is_file():
            continue
        try:
            other = open_artifact(folder)
        except ArtifactError:
            continue  # whatever is wrong with it, it was not asked for
        if any(parent.endswith(f" {identity}") for parent in other.manifest.parents):
            found.append(other)
    return found


def _has_onnx() -> bool:
    return importlib.util.find_spec("onnx") is not None


def plain_graph(artifact: Artifact) -> bytes:
    """Return an artifact's graph without what only the explanation needs, as ONNX bytes.

    Raises:
        InputError: if its weights lie beside it, in a file too large for one message.
    """
    import onnx

    if f"{artifact.model.name}.data" in artifact.manifest.files:
        raise InputError(f"{artifact.model} is too large to be cut into classifier and head")
    model = onnx.load(artifact.model)
    graph = model.graph
    needed, nodes = {"logits"}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    kept: dict[str, list[Any]] = {
        "node": nodes[::-1],
        "initializer": [one for one in graph.initializer if one.name in needed],
        "input": [one for one in graph.input if one.name == "images"],
        "output": [one for one in graph.output if one.name == "logits"],
    }
    for field, values in kept.items():
        copies = [type(one).FromString(one.SerializeToString()) for one in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    return bytes(model.SerializeToString())
