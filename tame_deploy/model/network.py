"""A backbone with its attention head, unfolded: what training optimises and exports are held to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tame_deploy.artifact.directory import file_sha256
from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import HeadConfig, Task, TokenUse, narrow_widths, variant_config
from tame_deploy.errors import InputError
from tame_deploy.model import demo
from tame_deploy.model.auxiliary import AuxiliaryTap, load_auxiliary, usual_layers
from tame_deploy.model.backbones import PAPER_LAYERS, Backbone
from tame_deploy.model.backbones.agreement import check_channels
from tame_deploy.model.cam import find_class_activation
from tame_deploy.model.download import Progress
from tame_deploy.model.features import FeatureTap, as_map, probe_layers, run_backbone
from tame_deploy.model.geometry import FeatureMap, has_class_token
from tame_deploy.model.head import AttentionHead
from tame_deploy.model.head_checkpoint import HeadCheckpoint, read_head
from tame_deploy.model.outputs import noting_choice
from tame_deploy.model.published_heads import PUBLIC_HEADS, fetch_head
from tame_deploy.model.recipro_cam import ReciproCam
from tame_deploy.model.recipro_layer import find_masked_layer
from tame_deploy.model.task import Answer, probe_pictures, settle_task

__all__ = [
    "ExplainedNetwork",
    "HeadRequest",
    "build_network",
    "check_class_token",
    "check_head",
    "choose_layers",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadRequest:
    """Which head: public ("default", "tame", "t-tame"), "cam", "random", or a file.

    "cam" is ReciproCAM where the network allows no CAM. What is None is read off the file. `width`
    makes the branches of a random head narrow: a number of channels, or a share of each layer's
    (`narrow_widths`). `auxiliary` names a network whose layers the head reads instead of the
    backbone's (P-TAME), and `auxiliary_weights` its weights.
    """

    head: str = "default"
    _: KW_ONLY
    variant: str | None = None
    tokens: TokenUse | None = None
    width: int | float | str | None = None
    auxiliary: str | None = None
    auxiliary_weights: str | None = None
    seed: int = 0


class ExplainedNetwork(nn.Module):
    """Backbone and head, every class map at full width: plain, and the measure of the rest."""

    def __init__(
        self,
        backbone: Backbone,
        tap: FeatureTap,
        features: tuple[FeatureMap, ...],
        head: AttentionHead | ReciproCam,
        head_source: WeightsSource,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tap = tap
        self.features = features
        self.head = head
        self.head_source = head_source
        self.answer = _answer_of(backbone)
        self.eval()

    @property
    def task(self) -> Task:
        """What the logits mean."""
        return self.answer.task

    @property
    def classifier(self) -> nn.Module:
        """The network alone, from normalised pictures to logits; it shares all weights."""
        module = self.backbone.module
        return nn.Sequential(module, self.answer) if self.answer.changes else module

    @property
    def auxiliary(self) -> AuxiliaryTap | None:
        """The tap of an auxiliary network, if the head reads one."""
        return self.tap if isinstance(self.tap, AuxiliaryTap) else None

    @property
    def speed_only(self) -> bool:
        """Whether some weights are random, so that classes and maps mean nothing."""
        sources = [self.backbone.source, self.head_source]
        sources += [] if self.auxiliary is None else [self.auxiliary.source]
        return any(source.random for source in sources)

    @property
    def attention_head(self) -> AttentionHead:
        """The head as one that can be trained.

        Raises:
            InputError: if it is ReciproCAM.
        """
        if isinstance(self.head, ReciproCam):
            raise InputError(
                f"cam of {self.backbone.name} is ReciproCAM, which has no weights to train; start "
                "from a random head, or from a head's file"
            )
        return self.head

    def look(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (B, classes) and the layers' raw outputs.

        Args:
            images: normalised float32 (B, 3, H, W).
        """
        outputs, features = self.tap(images)
        return self.answer(outputs), features

    def feature_maps(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return what the head takes: the layers' raw outputs as (B, C_i, h_i, w_i).

        ReciproCAM takes them as they are.
        """
        if isinstance(self.head, ReciproCam):
            return list(outputs)
        tokens = self.head.config.tokens
        return [
            as_map(output, feature, tokens)
            for output, feature in zip(outputs, self.features, strict=True)
        ]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, classes) and map logits of every class (B, classes, h, w).

        Args:
            images: normalised float32 (B, channels, H, W).
        """
        logits, outputs = self.look(images)
        return logits, self.head(self.feature_maps(outputs))


def _answer_of(backbone: Backbone) -> Answer:
    return Answer(backbone.task or "multiclass", backbone.outputs or "logits")


def choose_layers(backbone: Backbone, layers: Sequence[str] | None) -> tuple[str, ...]:
    """Return the layers asked for, or the papers' for this backbone.

    Raises:
        InputError: if none are given for a backbone without a published choice, or one is twice.
    """
    chosen = tuple(layers) if layers else PAPER_LAYERS.get(backbone.name)
    if chosen is None:
        raise InputError(
            f"{backbone.name} has no published choice of layers; pass --layers a,b,c. "
            f"Candidates and a proposal: tame-deploy layers {backbone.argument}"
        )
    if len(set(chosen)) != len(chosen):
        raise InputError(f"layers {', '.join(chosen)} name one twice")
    return chosen


def build_network(
    backbone: Backbone,
    request: HeadRequest,
    layers: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> ExplainedNetwork:
    """Join a backbone and a head, and check that they belong together.

    Raises:
        InputError: if a layer is no feature map, or the head is for another backbone, other
            layers, another variant or another number of classes.
        DownloadError: if a default head is neither cached nor to be had.
    """
    check_channels(backbone)
    if request.width is not None and request.head != "random":
        raise InputError(
            f"--width says how wide a head is trained; {request.head} has its width already, so "
            "leave --width out"
        )
    if request.head == "cam":
        return _cam_network(backbone, request, layers)
    checkpoint, source = _load_checkpoint(backbone, request, progress)
    if checkpoint is not None and checkpoint.backbone not in (None, backbone.name):
        raise InputError(f"the head was trained on {checkpoint.backbone}, not on {backbone.name}")
    if layers is None and checkpoint is not None:
        layers = checkpoint.layers
    tap, features = _tapped(backbone, request, layers, checkpoint, progress)
    backbone, classes = _settled(backbone, tap)
    if checkpoint is None:
        checkpoint = _random_head(request, features, classes)
    else:
        check_head(checkpoint, backbone.name, features, classes, request.tokens)
    check_class_token(checkpoint, tap)
    _check_labels(backbone, classes)
    return ExplainedNetwork(backbone, tap, features, checkpoint.head, source)


def _tapped(
    backbone: Backbone,
    request: HeadRequest,
    layers: Sequence[str] | None,
    checkpoint: HeadCheckpoint | None,
    progress: Progress | None,
) -> tuple[FeatureTap, tuple[FeatureMap, ...]]:
    """Return what a head reads: layers of the backbone, or of an auxiliary network."""
    weights = request.auxiliary_weights
    auxiliary = load_auxiliary(
        backbone, request.auxiliary, weights, request.seed, checkpoint, progress
    )
    if auxiliary is None:
        tap = FeatureTap(backbone.module, choose_layers(backbone, layers)).eval()
        return tap, probe_layers(tap, backbone.example, backbone.prefix_tokens)
    chosen = choose_layers(auxiliary, layers or usual_layers(auxiliary))
    tap = AuxiliaryTap(backbone, auxiliary, chosen).eval()
    return tap, probe_layers(tap, backbone.example)


def _cam_network(
    backbone: Backbone, request: HeadRequest, layers: Sequence[str] | None
) -> ExplainedNetwork:
    """Join a backbone and what explains it without training: its own classifier, or ReciproCAM."""
    if request.variant or request.tokens:
        raise InputError("--variant and --tokens have no meaning with --head cam; leave them out")
    if request.auxiliary or request.auxiliary_weights:
        raise InputError("--head cam reads the classifier's own layers; leave --auxiliary out")
    if layers and len(layers) > 1:
        raise InputError(f"--head cam reads one layer; found {', '.join(layers)}")
    exact = find_class_activation(backbone)
    if exact is None or (layers and layers[0] != exact.layer):
        return _recipro_network(backbone, layers[0] if layers else None)
    tap = FeatureTap(backbone.module, [exact.layer]).eval()
    features = probe_layers(tap, backbone.example, backbone.prefix_tokens)
    backbone, classes = _settled(backbone, tap)
    _check_labels(backbone, classes)
    log.info("cam of %s is CAM on %s, which adds next to nothing", backbone.name, exact.layer)
    source = _own_weights(backbone, "CAM: the classifier's own weights")
    return ExplainedNetwork(backbone, tap, features, exact.head, source)


def _recipro_network(backbone: Backbone, layer: str | None) -> ExplainedNetwork:
    found = find_masked_layer(backbone, layer)
    backbone, classes = _settled(backbone, found.tap)
    _check_labels(backbone, classes)
    log.info("cam of %s is %s", backbone.name, found)
    config = HeadConfig(
        (found.feature.channels,), classes, batch_norm=False, skip=False, branch="recipro-cam"
    )
    head = ReciproCam(config, found.copies, _answer_of(backbone))
    source = _own_weights(backbone, "ReciproCAM: the network's own weights")
    return ExplainedNetwork(backbone, found.tap, (found.feature,), head, source)


def _own_weights(backbone: Backbone, words: str) -> WeightsSource:
    given = backbone.source
    return WeightsSource(words, given.random, given.sha256, given.licence)


@torch.no_grad()
def _settled(backbone: Backbone, tap: FeatureTap) -> tuple[Backbone, int]:
    """Return the backbone with its task, and the number of classes."""
    with noting_choice(backbone.module):
        given = run_backbone(tap, probe_pictures(backbone))[0]
    settled = settle_task(backbone, given)
    count = given.shape[1] if given.ndim == 2 else 1
    asked = backbone.asked.classes if backbone.asked else None
    if asked not in (None, count):
        raise InputError(
            f"--classes {asked}, but {backbone.name} gives {count}; build it with as many as "
            "num_classes says, or leave --classes out"
        )
    return settled, 2 if settled.task == "binary" else count


def _check_labels(backbone: Backbone, classes: int) -> None:
    if backbone.labels is not None and len(backbone.labels) != classes:
        raise InputError(
            f"found {len(backbone.labels)} labels for {classes} classes; expected one for each"
        )


def _load_checkpoint(
    backbone: Backbone, request: HeadRequest, progress: Progress | None
) -> tuple[HeadCheckpoint | None, WeightsSource]:
    if request.head == "random":
        return None, WeightsSource(f"random, seed {request.seed}", random=True)
    if request.head == "default" and backbone.name == demo.NAME:
        bundled = read_head(demo.HEAD_FILE, variant=request.variant, tokens=request.tokens)
        return bundled, WeightsSource("bundled demo", licence="Apache-2.0")
    if request.head in PUBLIC_HEADS:
        path, source = fetch_head(backbone.name, request.head, progress)
        return read_head(path, variant=request.variant, tokens=request.tokens), source
    checkpoint = read_head(request.head, variant=request.variant, tokens=request.tokens)
    path = Path(request.head)
    return checkpoint, WeightsSource(path.name, sha256=file_sha256(path))


def _random_head(
    request: HeadRequest, features: tuple[FeatureMap, ...], classes: int
) -> HeadCheckpoint:
    _check_tokens(request.tokens or "patch", features, described=False)
    channels = tuple(feature.channels for feature in features)
    full = request.width in (None, "full")
    narrow = None if full else narrow_widths(request.width or "", channels)
    config = variant_config(
        request.variant or "tame", channels, classes, request.tokens or "patch", narrow
    )
    with torch.random.fork_rng():
        torch.manual_seed(request.seed)
        head = AttentionHead(config)
    return HeadCheckpoint(head.eval().requires_grad_(False), None, None)


def check_head(
    checkpoint: HeadCheckpoint,
    backbone: str,
    features: Sequence[FeatureMap],
    classes: int,
    tokens: TokenUse | None,
) -> None:
    """Check that a head was made for this backbone, these layers and this many classes.

    `tokens` is what the user said of them: needed where layers have a class token and the file does
    not say what the head makes of it.

    Raises:
        InputError: naming what the head was made for.
    """
    config: HeadConfig = checkpoint.head.config
    layers = tuple(feature.layer for feature in features)
    if checkpoint.backbone not in (None, backbone):
        raise InputError(f"the head was trained on {checkpoint.backbone}, not on {backbone}")
    if checkpoint.layers not in (None, layers):
        raise InputError(
            f"the head was trained on layers {', '.join(checkpoint.layers or ())}, "
            f"not on {', '.join(layers)}"
        )
    if config.channels != tuple(feature.channels for feature in features):
        raise InputError(
            f"the head is for layers of {', '.join(map(str, config.channels))} channels; "
            f"{backbone} has {'; '.join(map(str, features))}. Name the right ones with --layers"
        )
    _check_tokens(tokens, features, described=checkpoint.says_tokens)
    if config.classes != classes:
        raise InputError(f"the head explains {config.classes} classes; {backbone} has {classes}")


def check_class_token(checkpoint: HeadCheckpoint, tap: FeatureTap) -> None:
    """Check that a head that multiplies by the class token does not find a register there.

    Raises:
        InputError: if none of the tokens before the patches is a class token.
    """
    if (
        checkpoint.head.config.tokens == "patch-times-class"
        and has_class_token(tap.backbone) is False
    ):
        raise InputError(
            "--tokens patch-times-class multiplies by the class token, and the backbone has none: "
            "the tokens before its patches are others, such as registers; take --tokens patch"
        )


def _check_tokens(
    tokens: TokenUse | None, features: Sequence[FeatureMap], *, described: bool
) -> None:
    has_class_token = any(feature.prefix_tokens for feature in features)
    if has_class_token and tokens is None and not described:
        raise InputError(
            "these layers have a class token, and the head's file does not say what it makes of "
            "it; pass --tokens patch, or --tokens patch-times-class for T-TAME's TTAME variant"
        )
    if tokens == "patch-times-class" and not has_class_token:
        raise InputError("--tokens patch-times-class: these layers have no class token")
