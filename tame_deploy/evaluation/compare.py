"""Comparing methods on one classifier and data set: the papers' table, and a grid to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tame_deploy.data.labelled import Pictures, Subset
from tame_deploy.errors import InputError
from tame_deploy.evaluation.evaluate import (
    EvaluationOptions,
    Method,
    evaluate,
    prepared_batches,
)
from tame_deploy.evaluation.plots import draw_scores
from tame_deploy.evaluation.result import TITLES, Evaluation, title_of
from tame_deploy.metrics.evaluated_model import EvaluatedModel
from tame_deploy.metrics.masking import heat_of
from tame_deploy.picture.overlay import blend, contact_sheet
from tame_deploy.picture.preprocess import shown

__all__ = ["compare", "comparison_lines", "draw_grid", "save_comparison"]


def compare(
    model: EvaluatedModel,
    pictures: Pictures,
    methods: Sequence[Method | None],
    options: EvaluationOptions,
    *,
    started: Callable[[str], None] = lambda _: None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Evaluation]:
    """Score every method's maps of the same predictions on the same pictures.

    Args:
        model: the classifier.
        pictures: the data.
        methods: baselines; None stands for the model's own maps.
        options: what to measure.
        started: told the name of each method as its turn comes.
        advance: told how many more pictures are dealt with.

    Raises:
        InputError: if pictures cannot be used.
        BackendError: if the model fails.
    """
    found = []
    for method in methods:
        started("tame" if method is None else method.name)
        found.append(evaluate(model, pictures, options, method=method, advance=advance))
    return found


def draw_grid(
    model: EvaluatedModel,
    pictures: Pictures,
    methods: Sequence[Method | None],
    path: Path,
    *,
    rows: int = 8,
) -> Path:
    """Write a picture of maps over pictures: a row a picture, a column a method.

    Raises:
        InputError: if pictures cannot be used.
    """
    count = min(rows, len(pictures))
    spread = [round(index) for index in np.linspace(0, len(pictures) - 1, count)]
    cells = []
    options = EvaluationOptions(batch_size=1, max_unreadable=1.0)
    for index in spread:
        one = Subset(pictures, (index,))
        for batch in prepared_batches(one, model.image, options, []):
            found = model.predict(batch.pixels)
            class_ids = found.class_ids[:, 0]
            image = shown(np.rint(batch.pixels[0] * 255).astype(np.uint8))
            label = model.labels[int(class_ids[0])]
            cells.append((image, f"{label} {model.probabilities_of(found).max():.0%}"))
            for method in methods:
                maps = (
                    found.maps[:, 0] if method is None else method.explain(batch.pixels, class_ids)
                )
                heat = heat_of(maps, image.height, image.width)[0]
                cells.append((blend(image, heat), "tame" if method is None else method.name))
    sheet = contact_sheet(cells, columns=len(methods) + 1, side=180)
    try:
        sheet.save(path, quality=92)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def comparison_lines(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[list[str]]]:
    """Return the papers' table: headings, and a line a method with the best of a column starred."""
    estimates = [evaluation.estimates() for evaluation in evaluations]
    names = [
        name for name in TITLES if name != "accuracy" and any(name in found for found in estimates)
    ]
    headings = ["method", *(title_of(name) for name in names), "forward", "backward", "ms"]
    best = {name: _best(name, [found[name].mean for found in estimates]) for name in names}
    lines = []
    for evaluation, found in zip(evaluations, estimates, strict=True):
        cells = [
            f"{found[name].mean:.2f}{'*' if found[name].mean == best[name] else ''}"
            for name in names
        ]
        passes = [f"{evaluation.forward_passes:g}", f"{evaluation.backward_passes:g}"]
        lines.append([evaluation.method, *cells, *passes, f"{evaluation.milliseconds:.0f}"])
    return headings, lines


def _best(name: str, means: list[float]) -> float | None:
    more_is_better = TITLES[name][1]
    if more_is_better is None:
        return None
    best = (max if more_is_better else min)(means)
    # A star on most of them would say nothing.
    return best if means.count(best) <= len(means) // 2 or len(means) == 1 else None


def save_comparison(evaluations: Sequence[Evaluation], folder: Path) -> None:
    """Write each method's numbers, comparison.md and comparison.png.

    Raises:
        InputError: if they cannot be written.
    """
    for evaluation in evaluations:
        evaluation.save(folder, evaluation.method)
    headings, lines = comparison_lines(evaluations)
    rows = [headings, ["---"] * len(headings), *lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    note = (
        f"{evaluations[0].model}, {len(evaluations[0].names)} pictures. Passes and milliseconds "
        "are those of one map, for TAME of prediction and map; the best of a column is starred, "
        "unless most share it."
    )
    try:
        (folder / "comparison.md").write_text(f"{table}\n\n{note}\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    draw_scores(evaluations, folder / "comparison.png")
