"""`layers` and `import-checkpoint`: getting to know a backbone, and bringing in a head."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tame_deploy.cli.options import (
    BackboneOption,
    ClassesOption,
    ImageSizeOption,
    LayersOption,
    MeanOption,
    PrefixTokensOption,
    PreprocessingOption,
    StdOption,
    TokensOption,
    TrustOption,
    VariantOption,
    parse_numbers,
    parse_size,
    split_layers,
)
from tame_deploy.cli.screen import console, notes, show_assumed_size
from tame_deploy.errors import InputError, require_extra

if TYPE_CHECKING:
    from tame_deploy.model.backbones import Backbone, BackboneRequest
    from tame_deploy.model.geometry import FeatureMap


def layers(
    model: Annotated[str, typer.Argument(help="As --backbone of export.")],
    image_size: ImageSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    preprocessing: PreprocessingOption = None,
    classes: ClassesOption = None,
    prefix_tokens: PrefixTokensOption = None,
    trust_remote_code: TrustOption = False,
    every: Annotated[
        bool, typer.Option("--all", help="Every feature map, not only stages or blocks.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the layers of a backbone that a head can read, and propose three."""
    require_extra("export", "torch", "torchvision", "safetensors")
    from tame_deploy.model.backbones import PAPER_LAYERS, shape_request
    from tame_deploy.model.features import FeatureTap, probe_layers
    from tame_deploy.model.layer_proposal import find_layers

    request = shape_request(
        model, parse_size(image_size), classes, prefix_tokens, mean=parse_numbers("mean", mean),
        std=parse_numbers("std", std), preprocessing=preprocessing,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    backbone = _load_for_shapes(request)
    found = find_layers(backbone)
    proposed = found.proposed
    if model in PAPER_LAYERS:
        tap = FeatureTap(backbone.module, PAPER_LAYERS[model]).eval()
        proposed = probe_layers(tap, backbone.example, backbone.prefix_tokens)
    listed = list(found.every if every else found.main)
    listed += [one for one in proposed if one.layer not in {some.layer for some in listed}]
    if json:
        _print_layers_json(listed, proposed)
    else:
        _show_layers(model, listed, proposed, found.scrambled)


def _print_layers_json(listed: Sequence[FeatureMap], proposed: Sequence[FeatureMap]) -> None:
    rows = [
        {
            "layer": one.layer,
            "channels": one.channels,
            "height": one.height,
            "width": one.width,
            "prefix_tokens": one.prefix_tokens,
        }
        for one in listed
    ]
    names = [one.layer for one in proposed]
    console.print_json(json_format.dumps({"layers": rows, "proposed": names}))


def _show_layers(
    model: str,
    listed: Sequence[FeatureMap],
    proposed: Sequence[FeatureMap],
    scrambled: Sequence[FeatureMap],
) -> None:
    table = Table("layer", "channels", "height x width", "", title=f"layers of {model}")
    for one in listed:
        mark = "[green]proposed[/]" if one in proposed else ""
        mark = "not in the picture's order" if one in scrambled else mark
        behind = f" behind {one.prefix_tokens} tokens" if one.prefix_tokens else ""
        table.add_row(one.layer, str(one.channels), f"{one.height} x {one.width}{behind}", mark)
    console.print(table)
    if proposed:
        console.print(f"--layers {','.join(one.layer for one in proposed)}")
    else:
        notes.print("[yellow]warning:[/] none of these lies over the picture; --all lists others")


def _load_for_shapes(request: BackboneRequest) -> Backbone:
    """Load a backbone whose shapes matter: say an assumed size, and check its channels."""
    from tame_deploy.model.backbones import load_backbone
    from tame_deploy.model.backbones.agreement import check_channels

    backbone = load_backbone(request)
    show_assumed_size(backbone)
    check_channels(backbone)
    return backbone


def import_checkpoint(
    file: Annotated[str, typer.Argument(help="TAME .pt, T-TAME .ckpt, or safetensors.")],
    backbone: BackboneOption,
    output: Annotated[str, typer.Option("--output", "-o", help="The safetensors file to write.")],
    layers: LayersOption = None,
    variant: VariantOption = None,
    tokens: TokensOption = None,
    prefix_tokens: PrefixTokensOption = None,
    image_size: ImageSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    preprocessing: PreprocessingOption = None,
    trust_remote_code: TrustOption = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
) -> None:
    """Turn a published head into safetensors that say what they are; no code in it is run."""
    require_extra("export", "torch", "torchvision", "safetensors")
    from tame_deploy.model.backbones import shape_request
    from tame_deploy.model.features import FeatureTap, probe_layers
    from tame_deploy.model.head_checkpoint import HeadCheckpoint, read_head, write_head
    from tame_deploy.model.network import check_class_token, check_head, choose_layers

    checkpoint = read_head(file, variant=variant, tokens=tokens)
    if checkpoint.auxiliary is not None:
        raise InputError(
            f"{file} is a head of tame-deploy for the auxiliary network "
            f"{checkpoint.auxiliary.name}; there is nothing to import, export it as it is"
        )
    config = checkpoint.head.config
    # A callable need not take a number of classes, and the layers do not depend on it.
    named = ":" not in backbone or backbone.startswith(("timm:", "hf:"))
    classes = config.classes if named and backbone != "demo" else None
    request = shape_request(
        backbone, parse_size(image_size), classes, prefix_tokens, mean=parse_numbers("mean", mean),
        std=parse_numbers("std", std), preprocessing=preprocessing,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    loaded = _load_for_shapes(request)
    chosen = choose_layers(loaded, split_layers(layers) or checkpoint.layers)
    tap = FeatureTap(loaded.module, chosen).eval()
    features = probe_layers(tap, loaded.example, loaded.prefix_tokens)
    check_head(checkpoint, loaded.name, features, config.classes, tokens)
    check_class_token(checkpoint, tap)
    written = write_head(
        HeadCheckpoint(checkpoint.head, loaded.name, chosen), output, overwrite=overwrite
    )
    parameters = sum(parameter.numel() for parameter in checkpoint.head.parameters())
    console.print(
        f"[green]wrote[/] {escape(str(written))}: {config.variant} head, {config.classes} classes, "
        f"{parameters:,} parameters, on {'; '.join(map(str, features))}"
    )
