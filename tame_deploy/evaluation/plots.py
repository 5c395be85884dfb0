"""Evaluations as pictures: scores with their intervals, and curves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tame_deploy.errors import InputError
from tame_deploy.evaluation.result import TITLES, Evaluation

__all__ = ["draw_scores"]

_CURVES = (
    ("road_most", "ROAD, most relevant first", "pixels removed %", "class kept %"),
    ("road_least", "ROAD, least relevant first", "pixels removed %", "class kept %"),
    ("insertion", "insertion", "pixels inserted %", "class probability %"),
    ("deletion", "deletion", "pixels deleted %", "class probability %"),
)


def draw_scores(evaluations: Sequence[Evaluation], path: Path) -> Path:
    """Write a PNG: a bar with a 95 % interval for each method and metric, then the curves.

    Raises:
        InputError: if it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    estimates = [evaluation.estimates() for evaluation in evaluations]
    bars = [name for name in TITLES if any(name in found for found in estimates)]
    curves = [curve for curve in _CURVES if any(curve[0] in found for found in estimates)]
    columns = 4
    rows = -(-len(bars) // columns) + -(-len(curves) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    names = [evaluation.method for evaluation in evaluations]
    for place, name in enumerate(bars):
        axes = figure.add_subplot(rows, columns, place + 1)
        _draw_bars(axes, name, names, [found.get(name) for found in estimates])
    first = -(-len(bars) // columns) * columns
    for place, curve in enumerate(curves):
        axes = figure.add_subplot(rows, columns, first + place + 1)
        _draw_curve(axes, curve, names, estimates)
    pictures = max(len(evaluation.names) for evaluation in evaluations)
    figure.suptitle(
        f"{evaluations[0].subject}, {pictures} pictures, 95 % bootstrap intervals", fontsize=11
    )
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _draw_bars(axes: Any, name: str, methods: Sequence[str], values: Sequence[Any]) -> None:
    title, more_is_better = TITLES[name]
    arrow = {True: " ↑", False: " ↓", None: ""}[more_is_better]
    for row, (method, value) in enumerate(zip(methods, values, strict=True)):
        if value is None:
            continue
        errors = [[value.mean - value.low], [value.high - value.mean]]
        color = "#c2410c" if method == "tame" else "#94a3b8"
        axes.barh(row, value.mean, xerr=errors, color=color, height=0.6, ecolor="#334155")
        axes.text(value.high, row, f" {value.mean:.3g}", va="center", fontsize=8, color="#334155")
    axes.set_title(title + arrow, fontsize=9)
    axes.set_yticks(range(len(methods)), methods, fontsize=8)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    _plain(axes)


def _draw_curve(
    axes: Any, curve: tuple[str, str, str, str], methods: Sequence[str], estimates: Sequence[Any]
) -> None:
    prefix, title, across, up = curve
    for method, found in zip(methods, estimates, strict=True):
        points = sorted(
            (float(match[1]), value.mean)
            for name, value in found.items()
            if (match := re.fullmatch(rf"{prefix}_([\d.]+)", name))
        )
        width = 2.2 if method == "tame" else 1.2
        axes.plot(*zip(*points, strict=True), label=method, linewidth=width)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    axes.set_ylim(0, 103)
    if len(methods) > 1:
        axes.legend(fontsize=7)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
