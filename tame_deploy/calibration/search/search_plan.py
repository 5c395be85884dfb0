"""The search of a plan: accuracy recovery that costs no speed first, then excluded layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tame_deploy.calibration.search.outlook import hopeless_reason
from tame_deploy.calibration.search.plan import Plan
from tame_deploy.calibration.search.recovery import RecoveryMethod, RecoveryStep, recover_accuracy
from tame_deploy.calibration.search.sensitivity import CurvePoint, Sensitivity, exclude_layers
from tame_deploy.calibration.search.trials import Trials
from tame_deploy.metrics.fidelity import Floor

__all__ = ["SearchResult", "search_plan"]


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Which plan was chosen, and what was tried before.

    Attributes:
        steps: the methods of accuracy recovery, and what each gained.
        curve: plans from all layers quantized upwards.
        chosen: the place on the curve of the plan that was chosen.
        sensitivities: what excluding each layer alone gains.
        hopeless: why layers were not searched, though the floor was missed; empty if they were.
    """

    steps: list[RecoveryStep]
    curve: list[CurvePoint]
    chosen: int
    sensitivities: list[Sensitivity]
    hopeless: str = ""

    @property
    def plan(self) -> Plan:
        """The plan that was chosen."""
        return self.curve[self.chosen].plan

    @property
    def excluded_share(self) -> float:
        """Share of the multiply-adds that stays in higher precision."""
        return self.curve[self.chosen].excluded_share


def search_plan(
    trials: Trials,
    plan: Plan,
    methods: Sequence[RecoveryMethod],
    *,
    floor: Floor,
    budget_s: float,
    report: Callable[[str], None] = lambda _: None,
) -> SearchResult:
    """Return the first plan that reaches the floor, or the one nearest to float32.

    Args:
        trials: builds and scores plans.
        plan: where to start; one of float16 alone is taken as it is.
        methods: of accuracy recovery.
        floor: what must be reached.
        budget_s: seconds for all of it, half of them for what costs no speed.
        report: told what is being done.

    Raises:
        BuildError: if a plan cannot be built.
    """
    deadline = time.monotonic() + budget_s
    quantizes = plan.precision != "fp16"
    if quantizes:
        report("Quantizing")
    plan, steps = recover_accuracy(
        trials,
        plan,
        methods if quantizes else (),
        deadline=deadline - budget_s / 2,
        report=report,
    )
    if "layers" not in methods or not quantizes:
        start = CurvePoint(plan, trials.validate(plan), 0.0)
        return SearchResult(steps=steps, curve=[start], chosen=0, sensitivities=[])
    report("Looking whether excluded layers can reach the floor")
    if (reason := hopeless_reason(trials, plan, floor)) is not None:
        report(f"Stopped early: {reason}")
        start = CurvePoint(plan, trials.validate(plan), 0.0)
        return SearchResult(steps=steps, curve=[start], chosen=0, sensitivities=[], hopeless=reason)
    curve, found = exclude_layers(trials, plan, floor, deadline=deadline, advance=report)
    reaching = [i for i, point in enumerate(curve) if point.score.reaches(floor)]
    nearest = int(np.argmin([point.score.error for point in curve]))
    chosen = reaching[0] if reaching else nearest
    return SearchResult(steps=steps, curve=curve, chosen=chosen, sensitivities=found)
