"""Evaluations as pictures: scores with their intervals, and curves."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tame_deploy.errors import InputError
from tame_deploy.evaluation.result import TITLES, Estimate, Evaluation, title_of

__all__ = ["draw_scores"]

COLUMNS = 4
#: Bars in the height of a panel, and inches that a line of words takes.
BARS, LINE = 8, 0.18

_CURVES = (
    ("road_most", "ROAD, most relevant first", "pixels removed %", "class kept %"),
    ("road_least", "ROAD, least relevant first", "pixels removed %", "class kept %"),
    ("insertion", "insertion", "pixels inserted %", "class probability %"),
    ("deletion", "deletion", "pixels deleted %", "class probability %"),
    ("randomisation", "randomisation, from the top", "layers randomised %", "similarity %"),
)


def draw_scores(evaluations: Sequence[Evaluation], path: Path) -> Path:
    """Write a PNG: scores with 95 % intervals, then curves, and the verdict where there is one.

    One evaluation gets one panel of scores; several are compared, a panel a metric.

    Raises:
        InputError: if it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    estimates = [evaluation.estimates() for evaluation in evaluations]
    several = len(evaluations) > 1
    bars = [name for name in TITLES if any(name in found for found in estimates)]
    bars = [name for name in bars if name != ("accuracy" if several else "map_entropy")]
    curves = [curve for curve in _CURVES if any(curve[0] in found for found in estimates)]
    panels = -(-len(bars) // COLUMNS) if several else -(-len(bars) // BARS)
    rows = panels + -(-len(curves) // COLUMNS)
    words = [] if several else _words(evaluations[0])
    figure = Figure(figsize=(3.4 * COLUMNS, 2.5 * rows + LINE * len(words)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, COLUMNS)
    names = [evaluation.method for evaluation in evaluations]
    if several:
        for place, name in enumerate(bars):
            axes = figure.add_subplot(grid[divmod(place, COLUMNS)])
            _draw_bars(axes, names, [found.get(name) for found in estimates])
            axes.set_title(title_of(name), fontsize=9)
    else:
        axes = figure.add_subplot(grid[:panels, :])
        _draw_bars(axes, [title_of(name) for name in bars], [estimates[0][name] for name in bars])
        axes.set_xlim(0, 108)
    for place, curve in enumerate(curves):
        across = rows - -(-len(curves) // COLUMNS) + place // COLUMNS
        axes = figure.add_subplot(grid[across, place % COLUMNS])
        _draw_curve(axes, curve, names, estimates)
    pictures = max(len(evaluation.names) for evaluation in evaluations)
    title = f"{evaluations[0].model}, {pictures} pictures, 95 % bootstrap intervals"
    figure.suptitle(title, fontsize=11)
    if words:
        figure.supxlabel("\n".join(words), x=0.01, ha="left", fontsize=9)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _words(evaluation: Evaluation) -> list[str]:
    """Return the verdict in lines as long as the figure is wide."""
    return [
        line
        for finding in evaluation.verdict
        for line in textwrap.wrap(finding.sentence, 170, initial_indent="• ")
    ]


def _draw_bars(axes: Any, names: Sequence[str], values: Sequence[Estimate | None]) -> None:
    """Draw a bar a name, the first or a lone method's in colour."""
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        if value is None:
            continue
        errors = [[value.mean - value.low], [value.high - value.mean]]
        color = "#c2410c" if name == "tame" or "tame" not in names else "#94a3b8"
        axes.barh(row, value.mean, xerr=errors, color=color, height=0.6, ecolor="#334155")
        axes.text(value.high, row, f" {value.mean:.3g}", va="center", fontsize=8, color="#334155")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.2)
    highest = max((value.high for value in values if value is not None), default=0)
    axes.set_xlim(0, 1 if highest == 0 else min(1.25 * highest, max(108, highest)))
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
        color = "#c2410c" if method == "tame" else None
        axes.plot(*zip(*points, strict=True), label=method, linewidth=width, color=color)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    lowest = min(axes.dataLim.y0, 0)  # similarities may be less than none
    axes.set_ylim(1.05 * lowest, 103)
    if len(methods) > 1:
        axes.legend(fontsize=7)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
