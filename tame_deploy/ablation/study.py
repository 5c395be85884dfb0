"""A study as a file: one recipe, and what each run changes in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tame_deploy.artifact.decoding import TOML, decode, read_toml
from tame_deploy.artifact.types import MAX_UNREADABLE
from tame_deploy.data.labelled import Pictures
from tame_deploy.data.sources import PictureSource, open_pictures
from tame_deploy.errors import InputError, TrainingError
from tame_deploy.evaluation.evaluate import EvaluationOptions, evaluate
from tame_deploy.evaluation.result import Estimate
from tame_deploy.metrics.evaluated_model import evaluated_network
from tame_deploy.metrics.families import DEFAULT_METRICS, RANDOMISATION, check_metrics
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.model.torch_backend import TorchBackend
from tame_deploy.training.recipe import (
    Recipe,
    decode_recipe,
    differences,
    recipe_table,
)
from tame_deploy.training.train_head import build_recipe_network, train_head

__all__ = ["Study", "StudyRow", "merge", "read_study", "run_study"]


@dataclass(frozen=True)
class Study:
    """Runs by name, and what they are scored on."""

    runs: Mapping[str, Recipe]
    scored_on: ScoredOn


@dataclass(frozen=True)
class StudyRow:
    """What came of one run: how it differs from the first one, and its scores."""

    name: str
    changes: tuple[str, ...]
    parameters: int
    scores: Mapping[str, Estimate]


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read a study from TOML.

    `recipe` is a shipped recipe's name or a file; `[base]` changes it for all runs; each
    `[runs.NAME]` changes it for one; `[evaluation]` has `data` and, if wanted, `root`, `masks`,
    `boxes`, `metrics`, `limit` and `batch_size`.

    Raises:
        InputError: for an unknown key, a value of the wrong kind, or a study without runs.
    """
    table = read_toml(Path(path))
    known = ("recipe", "base", "runs", "evaluation")
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InputError(f"{path} has an unknown key {unknown[0]}; known: {', '.join(known)}")
    if not isinstance(table.get("runs"), dict) or not table["runs"]:
        raise InputError(f"{path} names no runs; expected a [runs.NAME] table for each")
    if not isinstance(table.get("recipe"), str):
        raise InputError(f"{path} names no recipe; expected recipe = a name or a file")
    if not isinstance(table.get("base", {}), Mapping):
        raise InputError(f"base is {table['base']!r}; expected a table")
    base = merge(recipe_table(table["recipe"]), table.get("base", {}))
    runs = {}
    for name, changes in table["runs"].items():
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise InputError(f"run {name!r} cannot name a folder; expected letters, digits, - _ .")
        if not isinstance(changes, Mapping):
            raise InputError(f"runs.{name} is {changes!r}; expected a table")
        try:
            runs[name] = decode_recipe(merge(base, changes))
        except InputError as error:
            raise InputError(f"run {name}: {error}") from None
    return Study(runs, _scored_on(table.get("evaluation", {}), next(iter(runs.values()))))


@dataclass(frozen=True)
class ScoredOn:
    """The `[evaluation]` table: pictures as `PictureSource`, options as `EvaluationOptions`.

    Raises:
        InputError: for an unknown metric or counts below one.
    """

    data: str | None = None
    root: str | None = None
    masks: str | None = None
    boxes: str | None = None
    metrics: tuple[str, ...] = DEFAULT_METRICS
    limit: int | None = None
    batch_size: int = 16
    max_unreadable: float = MAX_UNREADABLE

    def __post_init__(self) -> None:
        if RANDOMISATION in check_metrics(self.metrics):
            raise InputError(
                "a study does not measure randomisation; evaluate the heads that it trains with "
                "--metrics randomisation"
            )
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise InputError("limit and batch_size: expected at least 1")


def _scored_on(table: Any, recipe: Recipe) -> ScoredOn:
    if not isinstance(table, Mapping):
        raise InputError(f"evaluation is {table!r}; expected a table")
    scored: ScoredOn = decode(ScoredOn, table, "evaluation", TOML)
    data, root = scored.data or recipe.data.validation, scored.root or recipe.data.root
    if data is None:
        raise InputError("evaluation.data is missing; expected the pictures to score maps on")
    return replace(scored, data=data, root=root)


def merge(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with some of its values replaced, section by section."""
    merged = dict(table)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def run_study(
    study: Study,
    output: str | os.PathLike[str],
    *,
    show_progress: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> list[StudyRow]:
    """Train and evaluate every run that is not done yet; a killed study goes on where it was.

    Args:
        study: what to run.
        output: a folder with one run folder each.
        show_progress: draw a bar for each training.
        report: told what is being done.

    Raises:
        InputError: for data or folders that cannot be used, or a run that was another before.
        TrainingError: if a loss is no number or the disk is full.
    """
    rows = []
    first = next(iter(study.runs.values()))
    _check_folder(Path(output), study)
    _pictures(study, build_recipe_network(first))  # what is wrong with them is said before training
    for number, (name, recipe) in enumerate(study.runs.items(), 1):
        folder = Path(output) / name
        report(f"run {number}/{len(study.runs)}: {name}")
        started = (folder / "recipe.toml").is_file()
        trained = train_head(
            recipe, folder, resume=started, show_progress=show_progress, report=report
        )
        scored = replace(recipe, model=replace(recipe.model, head=str(trained.best_head)))
        scores, parameters = _scores(study, scored, folder, report)
        rows.append(StudyRow(name, tuple(differences(first, recipe)), parameters, scores))
    return rows


def _check_folder(folder: Path, study: Study) -> None:
    known = {*study.runs, "ablation.md"}
    others = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    others = [name for name in others if name not in known]
    if others:
        raise InputError(
            f"{folder} holds {', '.join(sorted(others)[:3])}, which no run of this study made; "
            "choose another --output"
        )


def _pictures(study: Study, network: ExplainedNetwork) -> Pictures:
    on = study.scored_on
    source = PictureSource(
        str(on.data), on.root, masks=on.masks, boxes=on.boxes, max_unreadable=on.max_unreadable
    )
    return open_pictures(source, network.head.config.classes, network.backbone.labels)


def _scores(
    study: Study, recipe: Recipe, folder: Path, report: Callable[[str], None]
) -> tuple[dict[str, Estimate], int]:
    network = build_recipe_network(recipe)
    parameters = sum(parameter.numel() for parameter in network.head.parameters())
    on = study.scored_on
    asked = json.loads(json.dumps(asdict(on)))  # as it reads back
    stored = _stored(folder / "evaluation.json", asked)
    if stored is not None:
        return stored, parameters
    report("evaluating")
    options = EvaluationOptions(
        metrics=on.metrics,
        limit=on.limit,
        batch_size=on.batch_size,
        max_unreadable=on.max_unreadable,
    )
    with evaluated_network(TorchBackend(network)) as model:
        found = evaluate(model, _pictures(study, network), options)
    found = replace(found, settings={**found.settings, "study": asked})
    found.save(folder)
    return found.estimates(), parameters


def _stored(path: Path, asked: Mapping[str, Any]) -> dict[str, Estimate] | None:
    """Return the scores of an evaluation that was finished, if it was the one asked for now."""
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["settings"]["study"] != asked:
            return None
        return {name: Estimate(**value) for name, value in stored["metrics"].items()}
    except (ValueError, KeyError, TypeError):
        return None  # torn by a kill, or of another version: it is made again
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror or error}") from error
