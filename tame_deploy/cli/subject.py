"""What `evaluate` and `compare` look at: an artifact, a PyTorch network, or both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from tame_deploy.artifact.types import TokenUse
from tame_deploy.cli.options import parse_size, parse_triple, split_layers
from tame_deploy.cli.screen import download_bar, notes
from tame_deploy.errors import InputError, require_extra

if TYPE_CHECKING:
    from tame_deploy.artifact.directory import Artifact
    from tame_deploy.metrics.subject import Subject
    from tame_deploy.model.network import ExplainedNetwork
    from tame_deploy.runtime.backends.protocol import Backend

__all__ = ["SubjectChoice"]

#: Options that are for an artifact's backend; the others, but for these, are PyTorch's.
_FOR_ARTIFACT = ("threads", "provider", "backend", "engine", "precision")
_DEFAULTS = (("device", "cpu"), ("backend", "auto"))


@dataclass(frozen=True)
class SubjectChoice:
    """The options that name what is evaluated, as the command line gave them."""

    artifact: str | None
    backbone: str | None
    weights: str
    head: str
    layers: str | None
    variant: str | None
    tokens: TokenUse | None
    classes: int | None
    image_size: str | None
    crop: str | None
    mean: str | None
    std: str | None
    labels: str | None
    device: str
    threads: int | None
    provider: list[str] | None
    backend: str = "auto"
    engine: str | None = None
    precision: Literal["fp32", "bf16"] | None = None

    @contextmanager
    def open(self) -> Iterator[tuple[Subject, ExplainedNetwork | None]]:
        """Yield the subject, and its PyTorch network where there is one.

        Raises:
            InputError: for options that name nothing, do nothing, or do not belong together.
        """
        self._check_meant()
        network = self._beside_artifact()._network() if self.backbone else None
        with self._subject(network) as subject:
            if subject.speed_only:
                notes.print("[yellow]speed only:[/] random weights; the scores mean nothing")
            if self.artifact and network:
                _check_same(subject, network)
            yield subject, network

    def _check_meant(self) -> None:
        if self.artifact is None and self.backbone is None:
            raise InputError("found neither an artifact nor --backbone; expected one of them")
        served = self.artifact is not None and "://" in self.artifact
        for field in fields(self)[2:]:
            name, value = field.name.replace("_", "-"), getattr(self, field.name)
            if value in (None, "default") or (name, value) in _DEFAULTS:
                continue
            if name in _FOR_ARTIFACT and self.artifact is None:
                raise InputError(f"--{name} is for an artifact's backend, not for PyTorch")
            if name in _FOR_ARTIFACT and served:
                raise InputError(f"--{name} has no meaning for {self.artifact}; its server chose")
            if name not in _FOR_ARTIFACT and self.backbone is None:
                raise InputError(f"--{name} has no meaning without --backbone")
            if name == "device" and self.artifact is not None:
                raise InputError("--device is where PyTorch runs; an artifact has --backend")

    def _beside_artifact(self) -> SubjectChoice:
        """Return the choice with the artifact's layers and no head, where an artifact answers.

        CAMs look into the backbone at the artifact's layers; nobody asks for its head's maps.
        """
        if self.artifact is None or self.head != "default":
            return self
        layers = self.layers
        if layers is None:
            opened, backend = self._opened()
            backend.close()
            layers = ",".join(opened.manifest.feature_layers)
        return replace(self, head="random", layers=layers, tokens=self.tokens or "patch")

    def _network(self) -> ExplainedNetwork:
        require_extra("train", "torch", "torchvision", "safetensors")
        from tame_deploy.model.backbones import BackboneRequest, load_backbone
        from tame_deploy.model.network import HeadRequest, build_network

        request = BackboneRequest(
            str(self.backbone),
            self.weights,
            classes=self.classes,
            image_size=parse_size(self.image_size),
            crop=self.crop,
            mean=parse_triple("mean", self.mean),
            std=parse_triple("std", self.std),
            labels=self.labels,
        )
        with download_bar(f"{self.backbone} weights") as progress:
            loaded = load_backbone(request, progress)
            head = HeadRequest(self.head, variant=self.variant, tokens=self.tokens)
            return build_network(loaded, head, split_layers(self.layers), progress)

    def _subject(self, network: ExplainedNetwork | None) -> Subject:
        from tame_deploy.metrics.subject import subject_of_artifact, subject_of_network

        if self.artifact is None:
            assert network is not None
            from tame_deploy.model.torch_backend import TorchBackend

            return subject_of_network(TorchBackend(network, device=self.device))
        return subject_of_artifact(*self._opened())

    def _opened(self) -> tuple[Artifact, Backend]:
        """Return the artifact and what runs it, here or on a server."""
        if "://" in str(self.artifact):
            from tame_deploy.runtime.explain.load import connect

            explainer = connect(str(self.artifact))
            return explainer.artifact, explainer.backend
        from tame_deploy.artifact.directory import open_artifact
        from tame_deploy.runtime.backends.protocol import BackendOptions
        from tame_deploy.runtime.selection.selection import open_backend

        opened = open_artifact(str(self.artifact))
        providers = tuple(self.provider) if self.provider else None
        options = BackendOptions(
            threads=self.threads,
            providers=providers,
            engine=self.engine,
            precision=self.precision,
        )
        return opened, open_backend(opened, self.backend, options)


def _check_same(subject: Subject, network: ExplainedNetwork) -> None:
    """Check that an artifact and the PyTorch network beside it are of one classifier."""
    image = network.backbone.image.for_input(subject.image.dtype)
    classes = network.head.config.classes
    if network.backbone.name != subject.backbone:
        raise InputError(
            f"the artifact was exported from {subject.backbone}; --backbone is "
            f"{network.backbone.name}"
        )
    if image != subject.image or classes != len(subject.labels):
        raise InputError(
            f"the artifact takes {subject.image.height}x{subject.image.width} pictures and knows "
            f"{len(subject.labels)} classes; --backbone takes {image.height}x{image.width} and "
            f"knows {classes}, or prepares pictures otherwise. Name what it was exported from"
        )
    _check_answers(subject, network)


def _check_answers(subject: Subject, network: ExplainedNetwork) -> None:
    """Check that both say nearly the same of some noise; an INT8 engine may differ a little."""
    import numpy as np

    from tame_deploy.metrics.subject import subject_of_network
    from tame_deploy.model.torch_backend import TorchBackend

    shape = (4, subject.image.height, subject.image.width, 3)
    noise = np.random.default_rng(0).random(shape, np.float32)
    other = subject_of_network(TorchBackend(network))
    difference = np.abs(
        subject.answer(noise).probabilities - other.answer(noise).probabilities
    ).max()
    if difference > 0.2:
        raise InputError(
            "the artifact and --backbone answer differently (probabilities differ by "
            f"{difference:.2f}); name the --weights that it was exported with"
        )
