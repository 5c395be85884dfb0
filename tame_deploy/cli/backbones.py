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
    TokensOption,
    TrustOption,
    VariantOption,
    parse_size,
    split_layers,
)
from tame_deploy.cli.screen import console
from tame_deploy.errors import require_extra

if TYPE_CHECKING:
    from tame_deploy.model.features import FeatureMap


def layers(
    model: Annotated[str, typer.Argument(help="As --backbone of export.")],
    image_size: ImageSizeOption = None,
    classes: ClassesOption = None,
    trust_remote_code: TrustOption = False,
    every: Annotated[
        bool, typer.Option("--all", help="Every feature map, not the last of each resolution.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the layers of a backbone that a head can read, and propose three."""
    require_extra("export", "torch", "torchvision", "safetensors")
    from tame_deploy.model.backbones import PAPER_LAYERS, load_backbone, shape_request
    from tame_deploy.model.features import (
        FeatureTap,
        last_of_each_size,
        list_feature_maps,
        probe_layers,
        propose,
    )

    size = parse_size(image_size)
    request = shape_request(model, size, classes, trust_remote_code=trust_remote_code)
    backbone = load_backbone(request)
    candidates = list_feature_maps(backbone.module, backbone.example)
    if model in PAPER_LAYERS:
        tap = FeatureTap(backbone.module, PAPER_LAYERS[model]).eval()
        proposed = probe_layers(tap, backbone.example)
    else:
        proposed = propose(candidates)
    if not every:
        candidates = last_of_each_size(candidates)
    listed = candidates + [f for f in proposed if f.layer not in {c.layer for c in candidates}]
    _show_layers(model, listed, [feature.layer for feature in proposed], json=json)


def _show_layers(
    model: str, listed: Sequence[FeatureMap], proposed: Sequence[str], *, json: bool
) -> None:
    if json:
        rows = [
            {"layer": f.layer, "channels": f.channels, "height": f.height, "width": f.width}
            for f in listed
        ]
        console.print_json(json_format.dumps({"layers": rows, "proposed": list(proposed)}))
        return
    table = Table("layer", "channels", "height x width", "", title=f"layers of {model}")
    for feature in listed:
        mark = "[green]proposed[/]" if feature.layer in proposed else ""
        size = f"{feature.height} x {feature.width}"
        table.add_row(feature.layer, str(feature.channels), size, mark)
    console.print(table)
    console.print(f"--layers {','.join(proposed)}")


def import_checkpoint(
    file: Annotated[str, typer.Argument(help="TAME .pt, T-TAME .ckpt, or safetensors.")],
    backbone: BackboneOption,
    output: Annotated[str, typer.Option("--output", "-o", help="The safetensors file to write.")],
    layers: LayersOption = None,
    variant: VariantOption = None,
    tokens: TokensOption = None,
    image_size: ImageSizeOption = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
) -> None:
    """Turn a published head into safetensors that say what they are; no code in it is run."""
    require_extra("export", "torch", "torchvision", "safetensors")
    from tame_deploy.model.backbones import load_backbone, shape_request
    from tame_deploy.model.features import FeatureTap, probe_layers
    from tame_deploy.model.head_checkpoint import HeadCheckpoint, read_head, write_head
    from tame_deploy.model.network import check_head, choose_layers

    checkpoint = read_head(file, variant=variant, tokens=tokens)
    config = checkpoint.head.config
    # A callable need not take a number of classes, and the layers do not depend on it.
    named = ":" not in backbone or backbone.startswith(("timm:", "hf:"))
    classes = config.classes if named and backbone != "demo" else None
    loaded = load_backbone(shape_request(backbone, parse_size(image_size), classes))
    chosen = choose_layers(loaded, split_layers(layers) or checkpoint.layers)
    tap = FeatureTap(loaded.module, chosen).eval()
    features = probe_layers(tap, loaded.example)
    check_head(checkpoint, loaded.name, features, config.classes, tokens)
    written = write_head(
        HeadCheckpoint(checkpoint.head, loaded.name, chosen), output, overwrite=overwrite
    )
    parameters = sum(parameter.numel() for parameter in checkpoint.head.parameters())
    console.print(
        f"[green]wrote[/] {escape(str(written))}: {config.variant} head, {config.classes} classes, "
        f"{parameters:,} parameters, on {'; '.join(map(str, features))}"
    )
