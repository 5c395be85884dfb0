"""Feature maps of any backbone: tapping them and making maps of what layers give out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from tame_deploy.artifact.types import TokenUse
from tame_deploy.errors import InputError
from tame_deploy.model.backbones.unwrapping import without_wrappers
from tame_deploy.model.geometry import (
    FeatureMap,
    count_prefix_tokens,
    describe,
    observing,
)
from tame_deploy.model.outputs import find_logits, read_layer, read_logits

__all__ = ["FeatureTap", "as_map", "probe_layers", "run_backbone", "unwrapped"]


def unwrapped(backbone: nn.Module) -> nn.Module:
    """Return a backbone without wrappers (torch.compile, DataParallel …), so that names are plain.

    Raises:
        InputError: if it is TorchScript, whose layers nobody can tap.
    """
    backbone = without_wrappers(backbone)
    if isinstance(backbone, torch.jit.ScriptModule):
        raise InputError(
            "the backbone is TorchScript, whose layers cannot be read and which torch cannot "
            "export; give the Python model that it was made from"
        )
    return backbone


class FeatureTap(nn.Module):
    """A backbone that gives out its logits and the outputs of some of its layers.

    Layers are names of modules (`layer4`, `features.30`), tapped by hooks so that any module
    works; a name that is no module is looked up among torchvision's feature-extraction nodes
    (`layer4.2.add`), which needs a model that torch.fx can trace.

    Wrappers of torch.compile and of training on several devices are taken off. Of a layer that
    gives out a tuple or a mapping, the first tensor is taken.

    Attributes:
        layers: the names, in the order asked for.
        prefix_tokens: how many tokens the backbone says it puts before its patches, or None.

    Raises:
        InputError: if a layer does not exist, or the backbone is TorchScript.
    """

    def __init__(self, backbone: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        backbone = unwrapped(backbone)
        self.layers = list(layers)
        self.prefix_tokens = count_prefix_tokens(backbone)
        modules = dict(backbone.named_modules())
        self.hooked = all(layer and layer in modules for layer in layers)
        self.backbone = backbone if self.hooked else _node_extractor(backbone, self.layers)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (B, classes) and the layers' raw outputs, in the order asked for."""
        if not self.hooked:
            nodes = self.backbone(images)
            layers = [read_layer(nodes[str(index)]) for index in range(len(self.layers))]
            return read_logits(nodes["logits"]), layers
        found: dict[str, Any] = {}
        with _recording(self.backbone, self.layers, found):
            logits = read_logits(self.backbone(images))
        missed = [layer for layer in self.layers if layer not in found]
        if missed:
            raise InputError(f"layer {missed[0]} is not used when the backbone classifies")
        return logits, [found[layer] for layer in self.layers]


@contextmanager
def _recording(backbone: nn.Module, layers: Sequence[str], found: dict[str, Any]) -> Iterator[None]:
    modules = dict(backbone.named_modules())

    def record(layer: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found[layer] = read_layer(output)  # of the last use, if it is used twice

        return hook

    handles = [modules[layer].register_forward_hook(record(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _node_extractor(backbone: nn.Module, layers: list[str]) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor

    modules = [name for name, _ in backbone.named_modules() if name]
    names: dict[fx.Node, str] = {}
    returned: Any = None
    # torch.fx fails in as many ways as there are models; all mean that only modules can be named.
    with suppress(Exception):
        names, returned = _trace(backbone)
    known = {*names.values(), *modules}
    for layer in layers:
        if layer not in known:
            near = difflib.get_close_matches(layer, sorted(known), 3, 0.5)
            hint = f"Nearest: {', '.join(near)}" if near else "See: tame-deploy layers MODEL"
            raise InputError(f"the backbone has no layer {layer!r}. {hint}")
    refusal = InputError(
        "torch.fx cannot trace this backbone, so every layer must be a module; "
        "list them: tame-deploy layers MODEL"
    )
    if not names:
        raise refusal
    logits = find_logits(returned, fx.Node)
    named = {layer: str(index) for index, layer in enumerate(layers)}
    try:
        extractor: nn.Module = create_feature_extractor(
            backbone, {**named, names[logits]: "logits"}
        )
    # It traces training as well, where there may be other nodes.
    except Exception:
        raise refusal from None
    for hook in backbone._forward_pre_hooks.values():  # such as one that turns RGB into BGR
        extractor.register_forward_pre_hook(hook)
    return extractor


def _trace(backbone: nn.Module) -> tuple[dict[fx.Node, str], Any]:
    """Return torchvision's names of a backbone's nodes, and which nodes the backbone returns.

    The last node that is computed need not be the logits: an auxiliary head may come after them.
    """
    import torchvision
    from torchvision.models.feature_extraction import NodePathTracer

    # As create_feature_extractor traces, which is to know the same names.
    parts = [one for one in vars(torchvision.ops).values() if isinstance(one, type)]
    tracer = NodePathTracer(
        autowrap_modules=(math, torchvision.ops),
        leaf_modules=[part for part in parts if issubclass(part, nn.Module)],
    )
    was_training = backbone.training
    try:
        graph = tracer.trace(backbone.eval())
    finally:
        backbone.train(was_training)
    returned: Any = next(node for node in graph.nodes if node.op == "output").args[0]
    if isinstance(returned, fx.Node) and isinstance(returned.target, type):
        # A named tuple or a dataclass, which torch.fx takes for a call that makes one.
        returned = returned.target(*returned.args, **returned.kwargs)
    return dict(tracer.node_to_qualname), returned


def as_map(output: Tensor, feature: FeatureMap, tokens: TokenUse) -> Tensor:
    """Return a layer's raw output as (B, C, h, w).

    Tokens before the patches are dropped; or the class token, which is the first of them, is
    multiplied into the patch tokens (T-TAME, section III).
    """
    if feature.arrangement == "channels-first":
        return output
    if feature.arrangement == "channels-last":
        return output.permute(0, 3, 1, 2)
    patches = output[:, feature.prefix_tokens :]
    if feature.prefix_tokens and tokens == "patch-times-class":
        patches = patches * output[:, :1]
    channels_first = patches.transpose(1, 2)  # (B, C, h * w)
    return channels_first.reshape(*channels_first.shape[:2], feature.height, feature.width)


@torch.no_grad()
def probe_layers(
    tap: FeatureTap, images: Tensor, prefix_tokens: int | None = None
) -> tuple[FeatureMap, ...]:
    """Run a picture through the backbone and describe the tapped layers.

    Args:
        tap: the backbone, with its layers.
        images: the picture, float32 (1, C, H, W).
        prefix_tokens: how many tokens stand before the patches; None asks the backbone.

    Raises:
        InputError: if the backbone refuses the picture, does not return (B, classes) logits, a
            layer gives out no feature map, or its tokens can be read in more than one way.
    """
    with observing(tap.backbone) as seen:
        logits, outputs = run_backbone(tap, images)
    if logits.ndim not in (1, 2):  # (B): one logit each
        shape = tuple(logits.shape)
        raise InputError(f"the backbone returns {shape}; expected logits of shape (batch, classes)")
    _check_float("the backbone", logits)
    known = tap.prefix_tokens if prefix_tokens is None else prefix_tokens
    described = []
    for layer, output in zip(tap.layers, outputs, strict=True):
        feature = describe(layer, output, seen, images, known, stated=prefix_tokens is not None)
        if feature is None:
            raise InputError(_no_map(layer, output, images, known))
        _check_float(f"layer {layer}", output)
        described.append(feature)
    return tuple(described)


def _check_float(what: str, output: Any) -> None:
    """Refuse integers, which are no logits, and half precision, which no head takes."""
    if isinstance(output, Tensor) and output.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"{what} gives out {str(output.dtype).removeprefix('torch.')}; expected float32: "
            "return logits and not the class, and take autocast out of the network's own code"
        )


def _no_map(layer: str, output: Any, images: Tensor, prefix: int | None) -> str:
    if isinstance(output, Tensor) and output.ndim == 3 and len(output) == len(images):
        size = "x".join(map(str, images.shape[2:]))
        behind = "" if prefix is None else f" behind {prefix} others"
        return (
            f"layer {layer} gives out {output.shape[1]} tokens, which no grid of patches of a "
            f"{size} picture makes{behind}; say with --prefix-tokens how many others there are"
        )
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    return (
        f"layer {layer} gives out {found}, not a feature map with a height and a width; "
        "list candidates: tame-deploy layers MODEL"
    )


@torch.no_grad()
def run_backbone(module: nn.Module, images: Tensor) -> Any:
    """Return what a foreign module gives out.

    Raises:
        InputError: if it fails, whatever it raises.
    """
    try:
        return module(images)
    except InputError:
        raise
    # A foreign module may raise anything on a size it does not take.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        size = "x".join(map(str, images.shape[2:]))
        what = f"a {size} picture" if len(images) == 1 else f"{len(images)} {size} pictures"
        raise InputError(f"the backbone fails on {what}: {reason:.200}") from error
