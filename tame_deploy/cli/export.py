"""`export`: making an artifact, held to PyTorch."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from tame_deploy.cli.backbone_options import BackboneOptions, folder_name
from tame_deploy.cli.options import (
    AuxiliaryOption,
    AuxiliaryWeightsOption,
    BackboneOption,
    ChannelOrderOption,
    ClassesOption,
    CropOption,
    ImageSizeOption,
    InterpolationOption,
    LayersOption,
    MeanOption,
    OutputsOption,
    PadLevelOption,
    PrefixTokensOption,
    PreprocessingOption,
    RescaleOption,
    ResizeOption,
    StdOption,
    TaskOption,
    TokensOption,
    TransformInputOption,
    TrustOption,
    VariantOption,
    WeightsOption,
    given_options,
    split_layers,
)
from tame_deploy.cli.screen import (
    console,
    download_bar,
    show_parity,
    show_remarks,
    show_task,
    step_spinner,
    warn_speed_only,
)
from tame_deploy.errors import InputError, require_extra

if TYPE_CHECKING:
    from tame_deploy.artifact.directory import Artifact
    from tame_deploy.artifact.types import InputKind
    from tame_deploy.model.backbones import BackboneRequest
    from tame_deploy.model.network import ExplainedNetwork, HeadRequest


def export(
    context: typer.Context,
    backbone: BackboneOption,
    weights: WeightsOption = "default",
    head: Annotated[
        str,
        typer.Option(
            help="default (the public one), cam (no training), tame, t-tame, random (speed only), "
            "or a file."
        ),
    ] = "default",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Artifact directory; build/BACKBONE.")
    ] = None,
    layers: LayersOption = None,
    auxiliary: AuxiliaryOption = None,
    auxiliary_weights: AuxiliaryWeightsOption = None,
    variant: VariantOption = None,
    width: Annotated[
        str | None,
        typer.Option(help="Narrow branches of a random head: channels, or a share such as 1/8."),
    ] = None,
    tokens: TokensOption = None,
    prefix_tokens: PrefixTokensOption = None,
    classes: ClassesOption = None,
    labels: Annotated[
        str | None, typer.Option(help="Class names: a file, imagenet, or numbers; the weights'.")
    ] = None,
    task: TaskOption = None,
    outputs: OutputsOption = None,
    image_size: ImageSizeOption = None,
    resize: ResizeOption = None,
    crop: CropOption = None,
    interpolation: InterpolationOption = None,
    rescale: RescaleOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    channel_order: ChannelOrderOption = None,
    pad_level: PadLevelOption = None,
    preprocessing: PreprocessingOption = None,
    transform_input: TransformInputOption = None,
    trust_remote_code: TrustOption = False,
    explain: Annotated[
        Literal["selectable", "predicted", "all"],
        typer.Option(help="Which classes the graph can explain."),
    ] = "selectable",
    top_k: Annotated[
        int | None, typer.Option(help="How many likeliest classes it can rank (5), or emits (1).")
    ] = None,
    graph_input: Annotated[
        Literal["uint8", "uint16", "float32"] | None,
        typer.Option("--input", help="Pixels of 8 or 16 bits, or normalised floats; uint8."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="Levels of --input uint16 that count: low,high, full, or own."),
    ] = None,
    maps: Annotated[
        Literal["minmax", "sigmoid", "logits"], typer.Option(help="How maps are finished.")
    ] = "minmax",
    opset: Annotated[int, typer.Option(help="ONNX opset, 18 or later.")] = 18,
    seed: Annotated[int, typer.Option(help="Seed of random weights.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an artifact that is there.")] = False,
) -> None:
    """Fuse backbone and head into one ONNX graph, held to PyTorch, and keep it as an artifact."""
    require_extra("export", "torch", "torchvision", "onnx", "onnxscript", "safetensors")
    require_extra("cpu", "onnxruntime")
    from tame_deploy.artifact.directory import check_output
    from tame_deploy.export.artifact_export import export_artifact
    from tame_deploy.export.options import ExportOptions
    from tame_deploy.model.network import HeadRequest

    if "seed" in given_options(context) and "random" not in (weights, head, auxiliary_weights):
        raise InputError("--seed has no meaning without random weights or a random head")
    target = output or str(Path("build") / folder_name(backbone))
    check_output(target, overwrite=overwrite)
    request = BackboneOptions(
        backbone=backbone, weights=weights, classes=classes, labels=labels, image_size=image_size,
        resize=resize, crop=crop, interpolation=interpolation, rescale=rescale, mean=mean, std=std,
        channel_order=channel_order, preprocessing=preprocessing, transform_input=transform_input,
        prefix_tokens=prefix_tokens, pad_level=pad_level, task=task, outputs=outputs,
        trust_remote_code=trust_remote_code,
    ).request(seed)  # fmt: skip
    head_request = HeadRequest(
        head, variant=variant, tokens=tokens, width=width, auxiliary=auxiliary,
        auxiliary_weights=auxiliary_weights, seed=seed,
    )  # fmt: skip
    network = _load_network(request, head_request, split_layers(layers), graph_input, window)
    levels = network.backbone.image.dtype
    options = ExportOptions(explain=explain, top_k=top_k, input=levels, maps=maps, opset=opset)
    with step_spinner() as report:
        artifact = export_artifact(network, target, options, overwrite=overwrite, report=report)
    _show(artifact)


def _load_network(
    backbone: BackboneRequest,
    head: HeadRequest,
    layers: tuple[str, ...] | None,
    graph_input: InputKind | None,
    window: str | None,
) -> ExplainedNetwork:
    from tame_deploy.model.backbones import load_backbone
    from tame_deploy.model.network import build_network
    from tame_deploy.picture.window import graph_image

    with download_bar(f"{backbone.name} weights") as progress:
        loaded = load_backbone(backbone, progress)
    show_remarks(loaded)
    loaded = replace(loaded, image=graph_image(loaded.image, graph_input, window))
    with download_bar(f"{backbone.name} head") as progress:
        network = build_network(loaded, head, layers, progress)
    show_task(network.backbone)
    return network


def _show(artifact: Artifact) -> None:
    assert artifact.manifest.parity is not None
    show_parity(artifact.manifest.parity)
    warn_speed_only(artifact.manifest)
    megabytes = artifact.model.stat().st_size / 1e6
    path = escape(str(artifact.path))
    console.print(f"[green]made[/] {path} ({megabytes:.0f} MB)")
    quoted = escape(shlex.quote(str(artifact.path)))
    console.print(f"try    tame-deploy explain {quoted} PICTURES… -o out", soft_wrap=True)
