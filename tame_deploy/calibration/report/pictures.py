"""What lower precision did, to look at: maps before and after, and the curve of the search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tame_deploy.calibration.report.quantization_record import Comparison, QuantizationRecord
from tame_deploy.metrics.fidelity import Floor
from tame_deploy.metrics.similarity import correlations, overlaps
from tame_deploy.picture.overlay import blend, colorize, contact_sheet
from tame_deploy.picture.preprocess import Levels, shown

__all__ = ["draw_before_after", "draw_curve"]

#: From the worst map to the best: places among all, in percent.
_PLACES = (0, 5, 25, 50, 75, 95)
_GAP = 6
_SIDE = 440


def draw_before_after(comparison: Comparison, path: Path, name: str) -> None:
    """Write a PNG from the worst pair of maps to the best.

    Each cell shows picture, float32's map, the map of `name`, and their absolute difference.
    """
    pictures = comparison.pictures
    expected, found = comparison.float32.predictions, comparison.quantized.predictions
    pearson, tops = correlations(expected, found), overlaps(expected, found, 0.15)
    order = np.argsort(pearson, kind="stable")
    chosen = dict.fromkeys(int(order[int(p / 100 * (len(order) - 1))]) for p in _PLACES)
    entries = []
    for index in chosen:
        title = PurePath(pictures.names[index]).name
        caption = f"{title}, fp32 / {name} / change, r {pearson[index]:.4f}, IoU {tops[index]:.2f}"
        maps = (expected.maps[index], found.maps[index])
        entries.append((_square(pictures.pixels[index], maps), caption))
    contact_sheet(entries, columns=3, side=_SIDE).save(path)


def _square(pixels: Levels, maps: Sequence[NDArray[np.float32]]) -> Image.Image:
    """Return picture and float32 map above, the other map and the difference below."""
    picture = shown(pixels)
    box = (0.0, 0.0, float(picture.width), float(picture.height))
    cells = [picture, *(blend(picture, heat, box, 0.75) for heat in maps)]
    cells.append(colorize(np.abs(maps[0] - maps[1]), picture.size))
    across, down = picture.width + _GAP, picture.height + _GAP
    square = Image.new("RGB", (2 * across - _GAP, 2 * down - _GAP), "white")
    for place, image in enumerate(cells):
        square.paste(image, (place % 2 * across, place // 2 * down))
    return square


def draw_curve(record: QuantizationRecord, path: Path) -> None:
    """Write a PNG of fidelity against speed, or against the excluded share where none is known.

    The plan that was chosen is marked, and the floor is drawn as lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve, chosen, speedups = record.search.curve, record.search.chosen, record.speedups
    floor = Floor(**record.fidelity.floor)
    across = speedups or [100 * point.excluded_share for point in curve]
    label = "speed, times float32" if speedups else "multiply-adds in higher precision, %"
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("top-1 agreement", [point.score.top1 for point in curve], floor.top1),
        ("IoU of the top 15 %", [point.score.iou15 for point in curve], floor.iou15),
        ("map Pearson, 5th percentile", [point.score.pearson5 for point in curve], floor.pearson5),
    )
    for axes, (title, values, least) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.plot(across, values, "o-", color="#94a3b8", markersize=4)
        axes.plot(across[chosen], values[chosen], "o", color="#c2410c", markersize=8)
        axes.axhline(least, color="#334155", linewidth=1, linestyle="--")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.08, y=0.15)
    figure.suptitle("On the pictures that chose the plan; the dashed line is the floor", fontsize=9)
    figure.savefig(path, dpi=110)
