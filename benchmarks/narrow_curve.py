"""The curve of quality against cost that narrow.py measures, as a picture for the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["draw_curve"]

#: What is drawn: a metric, and whether less of it is better.
_PANELS = (("average_drop_100", "AD 100 % ↓"), ("average_drop_50", "AD 50 % ↓"),
           ("average_drop_15", "AD 15 % ↓"), ("increase_100", "IC 100 % ↑"))  # fmt: skip
_COLOURS = {"squeezenet1_1": "#0072b2", "efficientnet_lite0": "#d55e00"}


def draw_curve(results: dict[str, Any], path: Path | None = None) -> Path:
    """Draw scores with their 95 % intervals against fused/plain of ResNet-50; returns the file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    costs = _costs(results)
    figure = Figure(figsize=(12.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (metric, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for network, found in results["quality"].items():
            scores = found["scores"]
            labels = sorted((one for one in costs if one in scores), key=costs.__getitem__)
            means = [scores[label][metric][0] for label in labels]
            gaps = [
                [abs(scores[label][metric][0] - scores[label][metric][side]) for label in labels]
                for side in (1, 2)
            ]
            colour = _COLOURS[network]
            axes.errorbar(
                [costs[label] for label in labels], means, yerr=gaps, color=colour, marker="o",
                capsize=3, label=network,
            )  # fmt: skip
            rival = scores["grad-cam"][metric][0]
            axes.axhline(rival, color=colour, linestyle=":", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("fused / plain, ResNet-50, batch 1")
        axes.grid(alpha=0.3)
        top = axes.secondary_xaxis("top")
        top.set_xticks(list(costs.values()), list(costs), fontsize=6, rotation=60)
        top.tick_params(length=2)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  title="dotted: Grad-CAM, whose price is a backward pass")  # fmt: skip
    path = path or Path(__file__).parents[1] / "docs" / "images" / "narrow.png"
    figure.savefig(path, dpi=110)
    return path


def _costs(results: dict[str, Any]) -> dict[str, float]:
    """Return fused/plain by width, of ResNet-50 at batch 1 on ONNX Runtime."""
    return {
        row["width"]: row["fused_over_plain"]
        for row in results["cost"]["rows"]
        if (row["backbone"], row["backend"], row["batch"]) == ("resnet50", "onnxruntime", 1)
        and row["width"] != "plain"
    }
