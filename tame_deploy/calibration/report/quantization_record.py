"""How a quantization came about, and quantization.json, which tells it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from tame_deploy.artifact.arithmetic import ArithmeticReport
from tame_deploy.artifact.manifest import FidelityReport
from tame_deploy.calibration.observing.choice import Choice
from tame_deploy.calibration.search.plan import Plan
from tame_deploy.calibration.search.search_plan import SearchResult
from tame_deploy.metrics.evaluation_set import EvaluationSet
from tame_deploy.metrics.faithfulness import Assessment, fidelity_report

__all__ = ["Comparison", "QuantizationRecord"]


@dataclass(frozen=True)
class Comparison:
    """A quantized graph beside the float32 one, both assessed on the held-out set."""

    pictures: EvaluationSet
    float32: Assessment
    quantized: Assessment

    def fidelity(self) -> FidelityReport:
        """Return how true the quantized graph is.

        Raises:
            InputError: if the two explain different classes of every picture.
        """
        return fidelity_report(self.pictures, self.float32, self.quantized)


@dataclass(frozen=True, kw_only=True)
class QuantizationRecord:
    """How a quantization came about.

    Attributes:
        search: the plan, and what was tried before it was chosen.
        comparison: of the result with float32.
        arithmetic: how true a graph for CPUs is on other processors; None for other graphs.
        fidelity: on the held-out set, with the floor that it was held to.
        held_out: the pictures of that set.
        times: milliseconds beside float32's, by batch size; empty where it cannot run here.
        speedups: of the curve's points at batch 1, where they were measured.
    """

    search: SearchResult
    comparison: Comparison
    arithmetic: ArithmeticReport | None
    fidelity: FidelityReport
    held_out: Choice
    times: dict[str, dict[str, float]]
    speedups: list[float] | None

    def to_json(self) -> str:
        """Return the text of quantization.json.

        Its fields keep the names of earlier versions: what is "kept" is excluded, and "judged"
        is held out.
        """
        search = self.search
        curve = [
            {
                "plan": _described(point.plan),
                "score": asdict(point.score),
                "kept_share": point.excluded_share,
                "added": point.added,
            }
            for point in search.curve
        ]
        record = {
            "plan": _described(search.plan),
            "kept_share": search.excluded_share,
            "steps": [asdict(step) for step in search.steps],
            "curve": curve,
            "chosen": search.chosen,
            "sensitivities": [asdict(one) for one in search.sensitivities],
            "times": self.times,
            "speedups": self.speedups,
            "arithmetic": asdict(self.arithmetic) if self.arithmetic else None,
            "fidelity": asdict(self.fidelity),
            "judged_sha256": dict(zip(self.held_out.names, self.held_out.sha256, strict=True)),
        }
        return json.dumps(record, indent=1, allow_nan=False) + "\n"


def _described(plan: Plan) -> dict[str, Any]:
    described = asdict(plan)
    described["kept"] = sorted(described.pop("excluded"))
    return {**described, "exceptions": dict(plan.exceptions)}
