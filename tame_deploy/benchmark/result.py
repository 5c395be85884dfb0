"""What a benchmark found, as a table, Markdown, JSON and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tame_deploy.benchmark.memory import Footprint
from tame_deploy.benchmark.rounds import NOISY, Timing
from tame_deploy.runtime.backends.processor import made_for
from tame_deploy.runtime.backends.table import backend_spec
from tame_deploy.runtime.verify.trust import describe_here

__all__ = ["HEADINGS", "Benchmark", "Row"]

HEADINGS = (
    "artifact", "backend", "precision", "batch", "ms p50", "p90", "p99", "pictures/s",
    "explanation costs", "peak MiB", "first answer s", "map IoU 15 %",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A candidate at a batch size.

    Attributes:
        timing: of the whole graph.
        plain: of its classifier alone, in the same run.
        footprint: of a process of its own.
    """

    timing: Timing
    plain: Timing | None
    footprint: Footprint | None

    @property
    def overhead(self) -> float | None:
        """Time of the whole graph over that of its classifier alone."""
        if self.plain is None or self.plain.failure or self.timing.failure:
            return None
        return self.timing.median / self.plain.median

    @property
    def map_fidelity(self) -> float | None:
        """IoU of the maps' top 15 % with float32's, as the manifest records it."""
        candidate = self.timing.candidate
        manifest = candidate.artifact.manifest
        if candidate.precision != manifest.precision:
            return None  # bfloat16 by the backend's doing, which nobody judged
        if manifest.precision == "fp32":
            return 1.0
        return manifest.fidelity.iou_15 if manifest.fidelity else None

    @property
    def arithmetic(self) -> str | None:
        """What a graph of lower precision was made for, and whether it is computed so here."""
        candidate = self.timing.candidate
        artifact, options = candidate.artifact, candidate.options
        said = describe_here(artifact, backend_spec(candidate.backend, options), options)
        return said and f"made for {made_for(artifact.manifest)}, {said}"

    def cells(self) -> list[str]:
        """Return the row for a table."""
        timing, candidate = self.timing, self.timing.candidate
        named = [
            candidate.artifact.path.name,
            candidate.name,
            candidate.precision,
            str(timing.batch),
        ]
        if timing.failure:
            return [*named, "failed", *[""] * (len(HEADINGS) - len(named) - 1)]
        overhead, fidelity, footprint = self.overhead, self.map_fidelity, self.footprint
        return [
            *named,
            *(f"{timing.percentile(share):.2f}" for share in (50, 90, 99)),
            f"{timing.throughput:.1f}",
            "" if overhead is None else f"{overhead:.2f}x",
            "" if footprint is None else f"{footprint.peak_mib:.0f}",
            "" if footprint is None else f"{footprint.first_answer_s:.2f}",
            "" if fidelity is None else f"{fidelity:.3f}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON types."""
        timing, candidate = self.timing, self.timing.candidate
        described: dict[str, Any] = {
            "artifact": candidate.artifact.path.name,
            "backend": candidate.name,
            "precision": candidate.precision,
            "batch": timing.batch,
            "arithmetic": self.arithmetic,
        }
        if timing.failure:
            return {**described, "failure": timing.failure}
        return {
            **described,
            "runs": len(timing.milliseconds),
            **{f"p{share}_ms": timing.percentile(share) for share in (50, 90, 99)},
            "pictures_per_s": timing.throughput,
            "spread_of_rounds": timing.spread,
            "over_plain_classifier": self.overhead,
            "peak_mib": self.footprint and self.footprint.peak_mib,
            "first_answer_s": self.footprint and self.footprint.first_answer_s,
            "map_iou_15": self.map_fidelity,
        }


@dataclass(frozen=True)
class Benchmark:
    """All rows, and what ran them."""

    rows: tuple[Row, ...]
    machine: Mapping[str, Any]

    @property
    def noisy(self) -> list[Row]:
        """Rows whose rounds were too far apart to tell."""
        timed = [row for row in self.rows if not row.timing.failure]
        return [
            row
            for row in timed
            if max(row.timing.spread, row.plain.spread if row.plain else 0.0) > NOISY
        ]

    @property
    def arithmetic(self) -> list[str]:
        """What graphs of lower precision were made for, and whether they are computed so here."""
        said = {
            f"{row.timing.candidate.artifact.path.name} on {row.timing.candidate.name}, "
            f"{row.timing.candidate.precision}": row.arithmetic
            for row in self.rows
        }
        return [f"{name}: {words}" for name, words in said.items() if words is not None]

    def to_json(self) -> str:
        """Return everything as JSON."""
        rows = [row.to_dict() for row in self.rows]
        noisy = len(self.noisy)
        described = {"machine": dict(self.machine), "noisy_rows": noisy, "rows": rows}
        return json.dumps(described, indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"| {' | '.join(HEADINGS)} |", f"|{'---|' * len(HEADINGS)}"]
        lines += [f"| {' | '.join(row.cells())} |" for row in self.rows]
        facts = ", ".join(f"{value}" for value in self.machine.values())
        told = [f"{line}\n" for line in self.arithmetic]
        return "\n".join([*lines, "", *told, facts, ""])


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in both, by the first coordinate."""
    best: list[tuple[float, float]] = []
    for point in sorted(points, reverse=True):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best[::-1]
