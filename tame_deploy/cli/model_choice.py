"""Which model `evaluate` and `compare` look at: an artifact, a PyTorch network, or both."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tame_deploy.artifact.types import TokenUse
from tame_deploy.cli.backbone_options import BackboneOptions
from tame_deploy.cli.options import split_layers
from tame_deploy.cli.screen import download_bar, notes, show_remarks, show_task, step_spinner
from tame_deploy.errors import InputError, require_extra

if TYPE_CHECKING:
    from tame_deploy.artifact.directory import Artifact
    from tame_deploy.evaluation.randomisation import RandomisableGraph
    from tame_deploy.metrics.evaluated_model import EvaluatedModel
    from tame_deploy.model.network import ExplainedNetwork
    from tame_deploy.runtime.backends.protocol import Backend

__all__ = ["ModelChoice"]

#: Options for an artifact's backend; the others are PyTorch's.
_FOR_ARTIFACT = ("threads", "provider", "backend", "engine", "precision")


@dataclass(frozen=True, kw_only=True)
class ModelChoice(BackboneOptions):
    """The options that name what is evaluated; `given` has the names of those that the user set."""

    artifact: str | None
    head: str
    layers: str | None
    auxiliary: str | None
    auxiliary_weights: str | None
    variant: str | None
    tokens: TokenUse | None
    device: str
    threads: int | None
    provider: list[str] | None
    backend: str
    engine: str | None
    precision: Literal["fp32", "bf16"] | None
    given: frozenset[str]

    @property
    def knows_head(self) -> bool:
        """Whether the PyTorch network has the head that is evaluated."""
        return self.artifact is None or "head" in self.given

    @contextmanager
    def open(self) -> Iterator[tuple[EvaluatedModel, ExplainedNetwork | None]]:
        """Yield the model, and its PyTorch network where there is one.

        Raises:
            InputError: for options that name nothing, do nothing, or do not belong together.
        """
        self._check_given()
        artifact, remote = self._artifact()
        try:
            network = self._network(artifact) if self.backbone else None
            model = self._model(artifact, remote, network)
        except BaseException:
            if remote is not None:
                remote.close()
            raise
        with model:
            if model.speed_only:
                notes.print("[yellow]speed only:[/] random weights; the scores mean nothing")
            if artifact is not None and network is not None:
                _check_same(model, network)
            yield model, network

    def randomisable(self, network: ExplainedNetwork | None) -> RandomisableGraph:
        """Return the graph whose weights are randomised; a PyTorch network is exported for it.

        Args:
            network: what `open` yields.

        Raises:
            InputError: if a server has the graph, or it cannot be randomised.
            IncompatibleArtifactError: if it is of lower precision.
            BuildError: if the network cannot be exported.
        """
        require_extra("evaluate", "onnx")
        require_extra("cpu", "onnxruntime")
        from tame_deploy.artifact.directory import open_artifact
        from tame_deploy.evaluation.randomisation import RandomisableGraph

        if self._served:
            raise InputError(
                f"{self.artifact} is on a server, which does not give out its weights; evaluate "
                "the float32 artifact that it serves with --metrics randomisation"
            )
        if self.engine is not None:
            raise InputError(
                "an engine's weights cannot be randomised; leave --engine out: the artifact's "
                "graph is randomised, and ONNX Runtime runs it"
            )
        if self.artifact is not None:
            return RandomisableGraph.of_artifact(open_artifact(self.artifact))
        assert network is not None
        return _exported(network)

    @property
    def _served(self) -> bool:
        return self.artifact is not None and "://" in self.artifact

    def _check_given(self) -> None:
        """Refuse options that would be ignored."""
        if self.artifact is None and self.backbone is None:
            raise InputError("found neither an artifact nor --backbone; expected one of them")
        named = {field.name for field in fields(self)} - {"artifact", "backbone"}
        names = sorted(named & self.given)
        for name in names:
            option = f"--{name.replace('_', '-')}"
            if name in _FOR_ARTIFACT and self.artifact is None:
                raise InputError(f"{option} is for an artifact's backend, not for PyTorch")
            if name in _FOR_ARTIFACT and self._served:
                raise InputError(f"{option} has no meaning for {self.artifact}; its server chose")
            if name not in _FOR_ARTIFACT and self.backbone is None:
                raise InputError(f"{option} has no meaning without --backbone")
            if name == "device" and self.artifact is not None:
                raise InputError("--device is where PyTorch runs; an artifact has --backend")

    def _artifact(self) -> tuple[Artifact | None, Backend | None]:
        """Return the artifact, and its backend if it is a server's."""
        if self.artifact is None:
            return None, None
        if self._served:
            from tame_deploy.runtime.backends.remote import open_remote

            return open_remote(self.artifact)
        from tame_deploy.artifact.directory import open_artifact

        return open_artifact(self.artifact), None

    def _network(self, artifact: Artifact | None) -> ExplainedNetwork:
        """Return the PyTorch network.

        Beside an artifact, CAMs look into the backbone at the artifact's layers, and the head is
        random unless the user names it: nobody asks for its maps.
        """
        require_extra("train", "torch", "torchvision", "safetensors")
        from tame_deploy.model.backbones import load_backbone
        from tame_deploy.model.network import HeadRequest, build_network

        request = self.request()
        if artifact is not None and request.task is None:
            request = replace(request, task=artifact.manifest.task)
        layers = split_layers(self.layers)
        head = HeadRequest(
            self.head, variant=self.variant, tokens=self.tokens, auxiliary=self.auxiliary,
            auxiliary_weights=self.auxiliary_weights,
        )  # fmt: skip
        if artifact is not None and not self.knows_head:
            layers = layers or artifact.manifest.feature_layers
            auxiliary = self.auxiliary or artifact.manifest.auxiliary
            own = auxiliary is None or ":" in auxiliary
            head = HeadRequest(
                "random", variant=self.variant, tokens=self.tokens or "patch", auxiliary=auxiliary,
                auxiliary_weights=self.auxiliary_weights or (None if own else "random"),
            )  # fmt: skip
        with download_bar(f"{self.backbone} weights") as progress:
            backbone = load_backbone(request, progress)
            network = build_network(backbone, head, layers, progress)
        show_remarks(backbone)
        show_task(network.backbone)
        return network

    def _model(
        self, artifact: Artifact | None, remote: Backend | None, network: ExplainedNetwork | None
    ) -> EvaluatedModel:
        from tame_deploy.metrics.evaluated_model import evaluated_artifact, evaluated_network

        if artifact is not None:
            return evaluated_artifact(artifact, remote or self._backend(artifact))
        assert network is not None
        from tame_deploy.model.torch_backend import TorchBackend

        # A network of 16 bits takes its levels; others take masked pictures unrounded.
        deep = network.backbone.image.dtype == "uint16"
        backend = TorchBackend(network, "uint16" if deep else "float32", device=self.device)
        return evaluated_network(backend)

    def _backend(self, artifact: Artifact) -> Backend:
        from tame_deploy.runtime.backends.protocol import BackendOptions
        from tame_deploy.runtime.selection.selection import open_backend

        options = BackendOptions(
            threads=self.threads,
            providers=tuple(self.provider) if self.provider else None,
            engine=self.engine,
            precision=self.precision,
        )
        return open_backend(artifact, self.backend, options)


def _exported(network: ExplainedNetwork) -> RandomisableGraph:
    """Export a network that takes pictures as evaluation gives them; no file stays."""
    require_extra("export", "onnx", "onnx_ir", "onnxscript")
    from tame_deploy.evaluation.randomisation import RandomisableGraph
    from tame_deploy.export.artifact_export import export_artifact
    from tame_deploy.export.options import ExportOptions

    deep = network.backbone.image.dtype == "uint16"
    options = ExportOptions(input="uint16" if deep else "float32")
    on_processor = copy.deepcopy(network).cpu()  # the model that answers may be on a GPU
    with tempfile.TemporaryDirectory() as folder, step_spinner() as report:
        artifact = export_artifact(on_processor, Path(folder) / "float32", options, report=report)
        return RandomisableGraph.of_artifact(artifact)


def _check_same(model: EvaluatedModel, network: ExplainedNetwork) -> None:
    """Check that an artifact and the PyTorch network beside it are of one classifier."""
    image = network.backbone.image.for_input(model.image.dtype)
    image = replace(image, window=model.image.window)  # which may have been given at export
    classes = network.head.config.classes
    if network.backbone.name != model.backbone:
        raise InputError(
            f"the artifact was exported from {model.backbone}; --backbone is "
            f"{network.backbone.name}"
        )
    if image != model.image or classes != len(model.labels):
        raise InputError(
            f"the artifact takes {model.image.height}x{model.image.width} pictures and knows "
            f"{len(model.labels)} classes; --backbone takes {image.height}x{image.width} and "
            f"knows {classes}, or prepares pictures otherwise. Name what it was exported from"
        )
    if network.task != model.task:
        raise InputError(
            f"the artifact is {model.task}; --task is {network.task}. Leave --task out"
        )
    _check_probabilities(model, network)


def _check_probabilities(model: EvaluatedModel, network: ExplainedNetwork) -> None:
    """Check that both say nearly the same of some noise; an INT8 engine may differ a little."""
    import numpy as np

    from tame_deploy.metrics.evaluated_model import evaluated_network
    from tame_deploy.model.torch_backend import TorchBackend

    shape = (4, model.image.height, model.image.width, model.image.channels)
    noise = np.random.default_rng(0).random(shape, np.float32)
    other = evaluated_network(TorchBackend(network))
    difference = np.abs(model.probabilities(noise) - other.probabilities(noise)).max()
    if difference > 0.2:
        raise InputError(
            "the artifact and --backbone answer differently (probabilities differ by "
            f"{difference:.2f}); name the --weights that it was exported with"
        )
