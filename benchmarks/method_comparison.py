"""A trained head beside baseline methods, on a network with real weights: scores and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tame_deploy.data.labelled import Pictures
from tame_deploy.evaluation.baselines import make_baseline
from tame_deploy.evaluation.compare import compare, comparison_lines, draw_grid
from tame_deploy.evaluation.evaluate import EvaluationOptions
from tame_deploy.evaluation.result import Evaluation
from tame_deploy.metrics.evaluated_model import evaluated_network
from tame_deploy.model.network import ExplainedNetwork
from tame_deploy.model.torch_backend import TorchBackend

__all__ = ["SCORES", "compare_methods", "without_lists"]

SCORES = EvaluationOptions(metrics=("ad-ic",))


def compare_methods(
    network: ExplainedNetwork,
    pictures: Pictures,
    methods: Sequence[str],
    grid: Path,
    console: Console,
) -> list[Evaluation]:
    """Return every method's average drop and increase; shows them, and draws a grid of maps."""
    with evaluated_network(TorchBackend(network)) as model:
        baselines = [None if m == "tame" else make_baseline(m, model, network) for m in methods]
        found = compare(model, pictures, baselines, SCORES, started=console.print)
        draw_grid(model, pictures, baselines, grid)
    headings, lines = comparison_lines(found)
    shown = Table(*headings)
    for line in lines:
        shown.add_row(*line)
    console.print(shown)
    console.print(str(grid))
    return found


def without_lists(found: Evaluation) -> dict[str, Any]:
    """Return an evaluation for a file of results, which lists no pictures."""
    return {key: value for key, value in found.as_json().items() if key != "unreadable"}
