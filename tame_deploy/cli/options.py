"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from tame_deploy.artifact.sidecar import FlavourName
from tame_deploy.artifact.types import Crop, Interpolation, OutputKind, Task, TokenUse
from tame_deploy.errors import InputError
from tame_deploy.runtime.backends.table import backend_names, graph_backend_names

ArtifactArgument = Annotated[str, typer.Argument(metavar="ARTIFACT", help="Artifact directory.")]
BackboneOption = Annotated[
    str,
    typer.Option(
        "--backbone",
        "-b",
        help="A torchvision classifier (vgg16, resnet50, convnext_tiny …), timm:NAME, "
        "hf:NAME-OR-FOLDER, package.module:callable, file.py:callable, or demo.",
    ),
]
WeightsOption = Annotated[
    str,
    typer.Option(
        help="default, random (speed only), torchvision weights by name, or a file; FILE#PART "
        "where it holds several, such as state_dict_ema."
    ),
]
LayersOption = Annotated[
    str | None, typer.Option(help="Feature layers a,b,c; the papers' where there are any.")
]
AuxiliaryOption = Annotated[
    str | None,
    typer.Option(help="P-TAME: a network whose layers the head reads, such as resnet18."),
]
AuxiliaryWeightsOption = Annotated[
    str | None, typer.Option(help="Weights of --auxiliary, as --weights; default.")
]
ClassesOption = Annotated[
    int | None, typer.Option(min=1, help="Number of classes, where the weights do not say.")
]
ImageSizeOption = Annotated[
    str | None, typer.Option(help="Input size in pixels, N or HEIGHTxWIDTH; the weights' own.")
]
ResizeOption = Annotated[
    int | None, typer.Option(min=1, help="Short side in pixels before the middle is cut out.")
]
CropOption = Annotated[
    Crop | None,
    typer.Option(help="Cut the middle out, squeeze all of it in (none), or pad it; center."),
]
InterpolationOption = Annotated[
    Interpolation | None, typer.Option(help="How pictures are resized; the weights' own.")
]
RescaleOption = Annotated[
    Literal["unit", "signed", "none"] | None,
    typer.Option(help="Pixels before the mean is taken off: x/255, (x-127)/128, or as they are."),
]
MeanOption = Annotated[
    str | None, typer.Option(help="Pixel means r,g,b, in [0, 1] unless --rescale says otherwise.")
]
StdOption = Annotated[str | None, typer.Option(help="Standard deviations r,g,b, likewise.")]
ChannelOrderOption = Annotated[
    Literal["rgb", "bgr"] | None,
    typer.Option(help="What the network was trained on; means and pictures stay RGB."),
]
PadLevelOption = Annotated[
    int | None, typer.Option(min=0, max=255, help="Level that fills what --crop pad leaves; 0.")
]
PreprocessingOption = Annotated[
    str | None, typer.Option(help="TOML file that says how pictures are prepared.")
]
TransformInputOption = Annotated[
    Literal["yes", "no"] | None,
    typer.Option(help="googlenet, inception_v3: whether they normalise pictures anew."),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="hf: run code that comes with the model.")
]
TaskOption = Annotated[
    Task | None,
    typer.Option(
        help="What the logits mean: one class of several (softmax), any labels (sigmoids), or one "
        "logit for and against; found where it is certain."
    ),
]
OutputsOption = Annotated[
    OutputKind | None,
    typer.Option(help="Whether the network ends in logits or in probabilities; noticed."),
]
VariantOption = Annotated[
    Literal["tame", "no-skip-no-batchnorm", "sigmoid-branch", "no-skip"] | None,
    typer.Option(help="Which published head it is; read off the file, tame for a random one."),
]
TokensOption = Annotated[
    TokenUse | None,
    typer.Option(help="Transformers: patch tokens alone, or times the class token (T-TAME)."),
]
PrefixTokensOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Transformers: tokens before the patches (class, distillation, registers); "
        "the model's own.",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads for one operation; all cores.")]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(help="ONNX Runtime execution provider, repeatable; CPUExecutionProvider."),
]
if TYPE_CHECKING:
    BackendName: TypeAlias = str
    GraphBackendName: TypeAlias = str
else:  # typer makes choices of a Literal, and the table of backends has them
    BackendName = Literal[backend_names()]
    GraphBackendName = Literal[graph_backend_names()]
BackendOption = Annotated[
    BackendName,
    typer.Option(help="What runs it; auto takes the fastest that can (see doctor)."),
]
ComputeOption = Annotated[
    Literal["fp32", "bf16"] | None,
    typer.Option("--precision", help="What OpenVINO computes in; the artifact's own."),
]
TargetOption = Annotated[FlavourName, typer.Option(help="Whose engine it is.")]
GpuOption = Annotated[int, typer.Option("--device", min=0, help="Number of the GPU.")]
EngineOption = Annotated[
    str | None, typer.Option(help="Which engine in the artifact's engines/; the best for here.")
]

DataRootOption = Annotated[
    str | None,
    typer.Option(help="Where a list's paths start, or torchvision keeps its data."),
]


def split_layers(text: str | None) -> tuple[str, ...] | None:
    """Return the names in "a,b,c"."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise InputError(f"--layers {text!r} has an empty name; expected a,b,c")
    return names


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) of "224" or "224x320"."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() for part in parts):
        raise InputError(f"--image-size is {text!r}; expected N or HEIGHTxWIDTH")
    return int(parts[0]), int(parts[-1])


def parse_numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """Return the numbers in "r,g,b": one a channel."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--{name} is {text!r}; expected a number a channel, such as 0.5 or 0.485,0.456,0.406"
        ) from None


def given_options(context: typer.Context) -> frozenset[str]:
    """Return the parameters that the user set, on the command line or in the environment."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    # By name: newer releases of typer carry a click of their own, whose enum is another.
    return frozenset(
        name
        for name, source in sources.items()
        if source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
    )
