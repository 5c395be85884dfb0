"""A training run as a file: every choice in one frozen tree, read strictly from TOML."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w

from tame_deploy.artifact.decoding import TOML, decode, read_toml
from tame_deploy.artifact.types import MAX_UNREADABLE, OutputKind, Task, TokenUse
from tame_deploy.errors import InputError
from tame_deploy.model.backbones.preprocessing import Preprocessing
from tame_deploy.training.losses import LossConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "RECIPES",
    "DataConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Recipe",
    "RunConfig",
    "decode_recipe",
    "differences",
    "parse_value",
    "recipe_table",
    "write_toml",
]

#: Recipes that come with the package, by name.
RECIPES = {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Preprocessing):
    """Backbone and head, as the options of `tame-deploy export`; `head` is what to start from.

    What is said of the preprocessing comes before the file `preprocessing`, and that before what
    the weights say. `input` and `window` say which bits and levels of pictures count, as at export.
    `width` makes branches narrow: a number of channels, or a share of each layer's such as "1/8";
    "full" is as published. `init` says where a random head starts: from the maps of `--head cam`
    ("cam"), from those if the network has any ("auto"), or from random weights ("random", as
    published). `initial_bias` is added to every class's map logit of a random start: above 0, a
    head starts from maps that show nearly everything.
    `auxiliary` names a network whose layers the head reads instead of the backbone's (P-TAME).
    """

    backbone: str
    weights: str = "default"
    layers: tuple[str, ...] | None = None
    variant: str | None = None
    tokens: TokenUse | None = None
    prefix_tokens: int | None = None
    head: str = "random"
    width: int | float | str | None = None
    init: Literal["random", "cam", "auto"] = "random"
    classes: int | None = None
    task: Task | None = None
    outputs: OutputKind | None = None
    preprocessing: str | None = None
    transform_input: bool | None = None
    trust_remote_code: bool = False
    labels: str | None = None
    initial_bias: float = 0.0
    auxiliary: str | None = None
    auxiliary_weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Pictures (as `PictureSource.data`) and how they are varied.

    Without `validation`, `validation_share` of the training pictures is set aside. `random_crop`
    cuts out a random part of the resized picture instead of the middle; `flip` mirrors half.

    Raises:
        InputError: for a share outside 0 to 1.
    """

    train: str | None = None
    validation: str | None = None
    root: str | None = None
    validation_share: float = 0.05
    random_crop: bool = True
    flip: bool = True
    max_unreadable: float = MAX_UNREADABLE

    def __post_init__(self) -> None:
        for name in ("validation_share", "max_unreadable"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 to 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer and one-cycle schedule (TAME, section IV, and the published code).

    `warmup` is the share of steps in which the rate rises to `max_lr` and momentum (or AdamW's
    first beta) falls from `max_momentum` to `base_momentum`; then both go back.

    `average` is the decay of an exponential average of the weights, which is what is validated and
    kept; 0 keeps the weights themselves. `class_sharing` is how much of what the fuser learns from
    a picture of one class goes to all classes: at 0, as published, a class learns from its own
    pictures alone; at 1 all classes learn the same.

    Raises:
        InputError: for rates and shares out of range.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    max_lr: float = 1e-3
    weight_decay: float = 5e-4
    bias_lr_factor: float = 2.0
    warmup: float = 0.3
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    average: float = 0.0
    class_sharing: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("sgd", "adamw"):
            raise InputError(f"name is {self.name!r}; expected sgd or adamw")
        if not 0 < self.max_lr <= 100:
            raise InputError(f"max_lr is {self.max_lr}; expected above 0, at most 100")
        for name in ("base_momentum", "max_momentum", "warmup", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        if not 0 <= self.class_sharing <= 1:
            raise InputError(f"class_sharing is {self.class_sharing}; expected 0 to 1")
        if self.weight_decay < 0 or self.bias_lr_factor < 0:
            raise InputError("weight_decay and bias_lr_factor: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long, how large, on what.

    `batch_size` is a process's; `accumulate` batches make one step; `checkpoint_every` counts
    steps. How many processes there are, torchrun decides.

    Raises:
        InputError: for counts below one or an unknown precision.
    """

    epochs: int = 8
    batch_size: int = 32
    accumulate: int = 1
    precision: str = "32-true"
    accelerator: str = "auto"
    workers: int = 2
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.workers < 0 or self.seed < 0:
            raise InputError("workers and seed: expected 0 or more")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}; expected {', '.join(PRECISIONS)}")
        if self.accelerator not in ("auto", "cpu", "gpu"):
            raise InputError(f"accelerator is {self.accelerator!r}; expected auto, cpu or gpu")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a training run gives."""

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)


def parse_value(text: str) -> Any:
    """Return a TOML value, or the text itself where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def recipe_table(name: str) -> dict[str, Any]:
    """Return the table of a shipped recipe, or of a file.

    Raises:
        InputError: if there is neither.
    """
    path = RECIPES.get(name, Path(name))
    if not path.is_file():
        raise InputError(f"no recipe {name!r}; expected {', '.join(RECIPES)} or a TOML file")
    return read_toml(path)


def decode_recipe(table: Mapping[str, Any]) -> Recipe:
    """Return the recipe in a table; every key must be known and of the right type.

    Raises:
        InputError: naming the key that is wrong, and what was meant.
    """
    recipe: Recipe = decode(Recipe, table, "", TOML)
    return recipe


def write_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML that `decode_recipe` reads back equal."""
    return tomli_w.dumps(
        {
            section: {key: value for key, value in values.items() if value is not None}
            for section, values in asdict(recipe).items()
        }
    )


def differences(before: Recipe, after: Recipe) -> list[str]:
    """Return what differs between two recipes, a line a key."""
    old, new = asdict(before), asdict(after)
    return [
        f"{section}.{key}: {old[section][key]!r} then, {new[section][key]!r} now"
        for section in old
        for key in old[section]
        if old[section][key] != new[section][key]
    ]
