"""`evaluate` and `compare`: how good explanations are, and how good the others' are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from tame_deploy.artifact.types import MAX_UNREADABLE
from tame_deploy.cli.evaluation_screen import (
    metric_lines,
    progress_bar,
    show_unread,
    show_verdict,
)
from tame_deploy.cli.model_choice import ModelChoice
from tame_deploy.cli.options import (
    AuxiliaryOption,
    AuxiliaryWeightsOption,
    BackendOption,
    ChannelOrderOption,
    ClassesOption,
    ComputeOption,
    CropOption,
    DataRootOption,
    EngineOption,
    ImageSizeOption,
    InterpolationOption,
    LayersOption,
    MeanOption,
    OutputsOption,
    PadLevelOption,
    PrefixTokensOption,
    PreprocessingOption,
    ProviderOption,
    RescaleOption,
    ResizeOption,
    StdOption,
    TaskOption,
    ThreadsOption,
    TokensOption,
    TransformInputOption,
    TrustOption,
    VariantOption,
    WeightsOption,
    given_options,
)
from tame_deploy.cli.screen import console, notes, print_table, printable, score_table
from tame_deploy.errors import InputError, require_extra

if TYPE_CHECKING:
    from tame_deploy.data.labelled import Pictures
    from tame_deploy.data.sources import PictureSource
    from tame_deploy.evaluation.evaluate import EvaluationOptions, Method
    from tame_deploy.evaluation.result import Evaluation
    from tame_deploy.metrics.evaluated_model import EvaluatedModel

ALL_METRICS = (
    "ad-ic,insertion-deletion,road,localisation,entropy,sparsity,adcc,sensitivity,randomisation"
)
ALL_METHODS = (
    "tame,tame-sigmoid,grad-cam,grad-cam++,layercam,score-cam,ablation-cam,recipro-cam,rise,random"
)
ModelArgument = Annotated[
    str | None, typer.Argument(metavar="[ARTIFACT]", help="Artifact directory; or --backbone.")
]
TorchBackboneOption = Annotated[
    str | None,
    typer.Option("--backbone", "-b", help="A PyTorch backbone, as of export."),
]
HeadOption = Annotated[
    str, typer.Option(help="As of export: default, cam, tame, t-tame, random, or a file.")
]
LabelsOption = Annotated[str | None, typer.Option(help="As of export.")]
DeviceOption = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where PyTorch runs.")]
DataOption = Annotated[
    str, typer.Option(help="Folder, list file, torchvision:NAME[:SPLIT] or demo-held-out:COUNT.")
]
MasksOption = Annotated[
    str | None, typer.Option(help="Folder of mask pictures: not black is the object.")
]
BoxesOption = Annotated[
    str | None, typer.Option(help="File of path,left,top,right,bottom lines in pixels.")
]
MetricsOption = Annotated[
    str | None,
    typer.Option(help=f"Some of {ALL_METRICS}; all but the last."),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="At most so many pictures.")]
UnreadableOption = Annotated[
    float, typer.Option(help="Share of pictures that may be missing or unreadable.")
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Pictures at a time.")]
OverwriteOption = Annotated[bool, typer.Option(help="Write into a folder that holds files.")]


def evaluate(
    context: typer.Context,
    artifact: ModelArgument = None,
    data: DataOption = "",
    backbone: TorchBackboneOption = None,
    weights: WeightsOption = "default",
    head: HeadOption = "default",
    layers: LayersOption = None,
    auxiliary: AuxiliaryOption = None,
    auxiliary_weights: AuxiliaryWeightsOption = None,
    variant: VariantOption = None,
    tokens: TokensOption = None,
    prefix_tokens: PrefixTokensOption = None,
    classes: ClassesOption = None,
    labels: LabelsOption = None,
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
    device: DeviceOption = "cpu",
    data_root: DataRootOption = None,
    masks: MasksOption = None,
    boxes: BoxesOption = None,
    metrics: MetricsOption = None,
    limit: LimitOption = None,
    batch_size: BatchSizeOption = 16,
    max_unreadable: UnreadableOption = MAX_UNREADABLE,
    backend: BackendOption = "auto",
    engine: EngineOption = None,
    precision: ComputeOption = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Where the results go.")
    ] = "evaluation",
    overwrite: OverwriteOption = False,
) -> None:
    """Score explanations with intervals, and say in words whether they can be trusted."""
    from tame_deploy.data.labelled import has_masks
    from tame_deploy.evaluation.evaluate import evaluate as run_evaluation
    from tame_deploy.evaluation.kept import chosen_pictures
    from tame_deploy.evaluation.plots import draw_scores
    from tame_deploy.runtime.jobs.files import prepare_output

    if artifact and backbone:
        raise InputError("found both an artifact and --backbone; expected one of them")
    choice = ModelChoice(
        artifact=artifact, backbone=backbone, weights=weights, head=head, layers=layers,
        variant=variant, tokens=tokens, prefix_tokens=prefix_tokens, classes=classes, labels=labels,
        task=task, outputs=outputs, auxiliary=auxiliary, auxiliary_weights=auxiliary_weights,
        image_size=image_size, resize=resize, crop=crop, interpolation=interpolation,
        rescale=rescale, mean=mean, std=std, channel_order=channel_order, pad_level=pad_level,
        preprocessing=preprocessing, transform_input=transform_input,
        trust_remote_code=trust_remote_code, device=device, threads=threads, provider=provider,
        backend=backend, engine=engine, precision=precision, given=given_options(context),
    )  # fmt: skip
    options = _options(metrics, limit, batch_size, max_unreadable=max_unreadable, verdict=True)
    source = _source(data, root=data_root, masks=masks, boxes=boxes, max_unreadable=max_unreadable)
    with choice.open() as (model, network):
        pictures = _pictures(model, source)
        named = options.metrics or ()
        if "localisation" in named and not has_masks(pictures):
            raise InputError("localisation needs to know where objects are: --masks or --boxes")
        total = min(len(pictures), limit or len(pictures))
        graph = choice.randomisable(network) if "randomisation" in named else None
        again = 0 if graph is None else len(graph.steps) * len(chosen_pictures(total))
        folder = prepare_output(output, overwrite=overwrite)
        with progress_bar() as bar:
            row = bar.add_task("Evaluating", total=total + again)
            advance = partial(bar.advance, row)
            found = run_evaluation(model, pictures, options, randomisable=graph, advance=advance)
    found.save(folder)
    plot = draw_scores([found], folder / "evaluation.png")
    lines = metric_lines(found)
    title = f"{model.name}, {len(found.names)} pictures"
    print_table(score_table(title, ["metric", "mean", "95 % interval", "pictures"], lines))
    show_verdict(found)
    console.print(f"[green]wrote[/] {escape(str(folder))}; look at {escape(str(plot))}")
    show_unread(found.unreadable)


def compare(
    context: typer.Context,
    artifact: ModelArgument = None,
    data: DataOption = "",
    backbone: TorchBackboneOption = None,
    weights: WeightsOption = "default",
    head: HeadOption = "default",
    layers: LayersOption = None,
    auxiliary: AuxiliaryOption = None,
    auxiliary_weights: AuxiliaryWeightsOption = None,
    variant: VariantOption = None,
    tokens: TokensOption = None,
    prefix_tokens: PrefixTokensOption = None,
    classes: ClassesOption = None,
    labels: LabelsOption = None,
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
    device: DeviceOption = "cpu",
    data_root: DataRootOption = None,
    masks: MasksOption = None,
    boxes: BoxesOption = None,
    methods: Annotated[
        str,
        typer.Option(help=f"Some of {ALL_METHODS}."),
    ] = ALL_METHODS,
    metrics: MetricsOption = "ad-ic,localisation",
    cam_layer: Annotated[
        str | None, typer.Option(help="Module that CAMs look at; the head's last layer.")
    ] = None,
    rise_masks: Annotated[int, typer.Option(min=1, help="Masks that RISE tries.")] = 4000,
    rows: Annotated[int, typer.Option(min=1, help="Pictures in the grid.")] = 8,
    limit: LimitOption = None,
    batch_size: BatchSizeOption = 16,
    max_unreadable: UnreadableOption = MAX_UNREADABLE,
    backend: BackendOption = "auto",
    engine: EngineOption = None,
    precision: ComputeOption = None,
    threads: ThreadsOption = None,
    provider: ProviderOption = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Where the results go.")
    ] = "comparison",
    overwrite: OverwriteOption = False,
) -> None:
    """Put TAME beside Grad-CAM and its kin, RISE and chance, on one classifier and data set."""
    require_extra("evaluate", "pytorch_grad_cam", "matplotlib")
    from tame_deploy.evaluation.baselines import make_baseline
    from tame_deploy.evaluation.compare import comparison_lines, save_comparison
    from tame_deploy.runtime.jobs.files import prepare_output

    choice = ModelChoice(
        artifact=artifact, backbone=backbone, weights=weights, head=head, layers=layers,
        variant=variant, tokens=tokens, prefix_tokens=prefix_tokens, classes=classes, labels=labels,
        task=task, outputs=outputs, auxiliary=auxiliary, auxiliary_weights=auxiliary_weights,
        image_size=image_size, resize=resize, crop=crop, interpolation=interpolation,
        rescale=rescale, mean=mean, std=std, channel_order=channel_order, pad_level=pad_level,
        preprocessing=preprocessing, transform_input=transform_input,
        trust_remote_code=trust_remote_code, device=device, threads=threads, provider=provider,
        backend=backend, engine=engine, precision=precision, given=given_options(context),
    )  # fmt: skip
    options = _options(metrics, limit, batch_size, max_unreadable=max_unreadable)
    if "randomisation" in (options.metrics or ()):
        raise InputError(
            "compare does not measure randomisation, which is of a model's own maps; ask evaluate "
            "for it"
        )
    names = _method_names(methods, choice)
    looking = {name for name in names if "cam" in name} - {"recipro-cam"}  # that finds its own
    if cam_layer is not None and not looking:
        raise InputError("--cam-layer has no meaning without a CAM among --methods")
    source = _source(data, root=data_root, masks=masks, boxes=boxes, max_unreadable=max_unreadable)
    with choice.open() as (model, network):
        pictures = _pictures(model, source)
        make = partial(
            make_baseline, model=model, network=network, cam_layer=cam_layer,
            rise_masks=rise_masks, batch_size=batch_size,
        )  # fmt: skip
        baselines = _baselines(names, make, chosen="methods" in choice.given)
        folder = prepare_output(output, overwrite=overwrite)
        grid = folder / "grid.jpg"
        found = _compare(model, pictures, baselines, options, grid=grid, rows=rows)
    save_comparison(found, folder)
    headings, lines = comparison_lines(found)
    title = f"{model.name}, {len(found[0].names)} pictures"
    print_table(score_table(title, headings, lines))
    console.print(f"[green]wrote[/] {escape(str(folder))}; look at {escape(str(grid))}")
    show_unread(found[0].unreadable)


def _compare(
    model: EvaluatedModel,
    pictures: Pictures,
    methods: Sequence[Method | None],
    options: EvaluationOptions,
    *,
    grid: Path,
    rows: int,
) -> list[Evaluation]:
    """Score and draw every method, with a bar for each."""
    from tame_deploy.evaluation.compare import compare as run_comparison
    from tame_deploy.evaluation.compare import draw_grid

    total = min(len(pictures), options.limit or len(pictures))
    with progress_bar() as bar:
        task = bar.add_task("Comparing", total=total)
        found = run_comparison(
            model,
            pictures,
            methods,
            options,
            started=lambda name: bar.reset(task, description=name, total=total),
            advance=lambda count: bar.advance(task, count),
        )
        bar.reset(task, description="drawing", total=None)
        draw_grid(model, pictures, methods, grid, rows=rows)
    return found


def _method_names(methods: str, choice: ModelChoice) -> list[str]:
    """Return the names in "a,b,c", each once.

    Beside an artifact, the PyTorch network has its head only if the user names it: the sigmoid maps
    of another head would stand in the table as the artifact's.
    """
    names = list(dict.fromkeys(name.strip() for name in methods.split(",")))
    if "tame-sigmoid" in names and not choice.knows_head:
        needed = (
            "tame-sigmoid needs the head that the artifact was exported with; name it with --head"
        )
        if "methods" in choice.given:
            raise InputError(needed)
        notes.print(f"[yellow]left out:[/] {needed}")
        names.remove("tame-sigmoid")
    return names


def _baselines(
    names: Sequence[str], make: Callable[[str], Method], *, chosen: bool
) -> list[Method | None]:
    """Return the methods, None for TAME's; ReciproCAM is left out of all where it has no layer."""
    found: list[Method | None] = []
    for name in names:
        try:
            found.append(None if name == "tame" else make(name))
        except InputError as error:
            if chosen or name != "recipro-cam":
                raise
            notes.print(f"[yellow]left out:[/] recipro-cam: {escape(str(error))}")
    return found


def _source(
    data: str, *, root: str | None, masks: str | None, boxes: str | None, max_unreadable: float
) -> PictureSource:
    from tame_deploy.data.sources import PictureSource

    if not data:
        raise InputError("found no --data; expected a folder, a list file, or demo-held-out:300")
    return PictureSource(data, root=root, masks=masks, boxes=boxes, max_unreadable=max_unreadable)


def _pictures(model: EvaluatedModel, source: PictureSource) -> Pictures:
    from tame_deploy.data.sources import open_pictures

    pictures = open_pictures(source, len(model.labels), model.labels)
    for line in getattr(pictures, "missing", ()):
        notes.print(f"left out: {printable(line)}", markup=False)
    return pictures


def _options(
    metrics: str | None,
    limit: int | None,
    batch_size: int,
    *,
    max_unreadable: float,
    verdict: bool = False,
) -> EvaluationOptions:
    from tame_deploy.evaluation.evaluate import EvaluationOptions
    from tame_deploy.metrics.families import DEFAULT_METRICS, check_metrics

    named = None if metrics is None else [name.strip() for name in metrics.split(",")]
    names = check_metrics(DEFAULT_METRICS if named is None else named)
    if "road" in names:
        require_extra("evaluate", "pytorch_grad_cam", "scipy")
    if "insertion-deletion" in names or "randomisation" in names:
        require_extra("evaluate", "scipy")
    require_extra("evaluate", "matplotlib")
    return EvaluationOptions(
        metrics=None if named is None else names,
        limit=limit,
        batch_size=batch_size,
        max_unreadable=max_unreadable,
        verdict=verdict,
    )
