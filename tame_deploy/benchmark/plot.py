"""Speed against map fidelity, with the line that nothing is beyond."""

from __future__ import annotations

from pathlib import Path

from tame_deploy.benchmark.result import Benchmark, Row, pareto
from tame_deploy.errors import InputError

__all__ = ["draw_benchmark"]


def draw_benchmark(found: Benchmark, path: Path) -> Path | None:
    """Write a PNG with a panel for each batch size; None where no fidelity is known.

    Raises:
        InputError: if it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    judged = [row for row in found.rows if not row.timing.failure and row.map_fidelity is not None]
    batches = sorted({row.timing.batch for row in judged})
    if not batches:
        return None
    figure = Figure(figsize=(6.2 * len(batches), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    labels = list(dict.fromkeys(_label(row) for row in judged))
    for place, batch in enumerate(batches):
        axes = figure.add_subplot(1, len(batches), place + 1)
        rows = [row for row in judged if row.timing.batch == batch]
        points = [(row.timing.throughput, row.map_fidelity or 0.0) for row in rows]
        edge = pareto(points)
        axes.plot(*zip(*edge, strict=True), color="0.7", zorder=1)
        for row, point in zip(rows, points, strict=True):
            label = _label(row)
            axes.scatter(*point, zorder=2, label=label, color=f"C{labels.index(label) % 10}")
        axes.margins(0.15)
        axes.set_title(f"batch {batch}", fontsize=10)
        axes.set_xlabel("pictures a second")
        axes.set_ylabel("IoU of the maps' top 15 % with float32's")
        axes.grid(alpha=0.3)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    figure.suptitle(str(found.machine["processor"]), fontsize=10)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _label(row: Row) -> str:
    candidate = row.timing.candidate
    return f"{candidate.artifact.path.name}: {candidate.name}, {candidate.precision}"
