"""The table of a study."""

from __future__ import annotations

from collections.abc import Sequence

from tame_deploy.ablation.study import StudyRow
from tame_deploy.evaluation.result import TITLES

__all__ = ["study_markdown", "study_rows"]


def study_rows(rows: Sequence[StudyRow]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells: a line a run, a column a metric that any run has."""
    names = [name for name in TITLES if any(name in row.scores for row in rows)]
    headings = ["run", "parameters", *(TITLES[name][0] for name in names)]
    lines = []
    for row in rows:
        scores = [f"{row.scores[n].mean:.2f}" if n in row.scores else "" for n in names]
        lines.append([row.name, f"{row.parameters:,}", *scores])
    return headings, lines


def study_markdown(rows: Sequence[StudyRow]) -> str:
    """Return the table as Markdown, intervals included, and what each run changed."""
    names = [name for name in TITLES if any(name in row.scores for row in rows)]
    headings = ["run", "parameters", *(TITLES[name][0] for name in names)]
    lines = [" | ".join(headings), " | ".join("---" for _ in headings)]
    for row in rows:
        cells = []
        for name in names:
            score = row.scores.get(name)
            cells.append(f"{score.mean:.2f} ({score.low:.2f} to {score.high:.2f})" if score else "")
        lines.append(" | ".join([row.name, f"{row.parameters:,}", *cells]))
    table = "\n".join(f"| {line} |" for line in lines)
    notes = [f"- {row.name}: {'; '.join(row.changes) or 'as the recipe says'}" for row in rows]
    intervals = "In brackets: 95 % bootstrap intervals over pictures."
    return "\n".join([table, "", intervals, "", *notes, ""])
