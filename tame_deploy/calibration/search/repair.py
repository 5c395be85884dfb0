"""Repairs that cost nothing at run time: balanced channels, better ranges, corrected biases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tame_deploy.calibration.observing.ranges import METHODS, RangeMethod
from tame_deploy.calibration.search.workshop import Plan, Score, Workshop
from tame_deploy.errors import InputError

__all__ = ["REPAIRS", "Repair", "RepairStep", "parse_repairs", "repair_plan"]

#: Cheapest first; `layers` is in sensitivity.py, because it costs speed.
Repair = Literal["equalize", "ranges", "bias", "layers"]
REPAIRS: tuple[Repair, ...] = get_args(Repair)

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9)
#: Ranges that differ by less are not worth a trial.
_NEARLY = 0.02
#: A repair must take this share of the error, or it is left out.
_WORTHWHILE = 0.002

Report = Callable[[str], None]


@dataclass(frozen=True)
class RepairStep:
    """A repair, and the score after it on the choosing pictures."""

    name: str
    score: Score
    used: bool
    seconds: float


def parse_repairs(text: str) -> tuple[Repair, ...]:
    """Return the repairs in "equalize,ranges", "all" or "none", cheapest first.

    Raises:
        InputError: for an unknown one.
    """
    if text in ("all", "none"):
        return REPAIRS if text == "all" else ()
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in REPAIRS]
    if unknown:
        raise InputError(
            f"--repair has {unknown[0]!r}; expected all, none, or some of {','.join(REPAIRS)}"
        )
    return tuple(name for name in REPAIRS if name in names)


def repair_plan(
    workshop: Workshop,
    plan: Plan,
    repairs: Sequence[Repair],
    *,
    deadline: float,
    report: Report = lambda _: None,
) -> tuple[Plan, list[RepairStep]]:
    """Improve a plan by the repairs that cost no speed; each is kept only if it helps.

    Args:
        workshop: builds and scores plans.
        plan: where to start.
        repairs: which to try.
        deadline: `time.monotonic()` after which no more trial is begun.
        report: told what is being done.

    Raises:
        BuildError: if a plan cannot be built.
    """
    known: dict[Repair, Callable[[Workshop, Plan, float, Report], Plan]] = {
        "equalize": _equalized,
        "ranges": _with_best_ranges,
        "bias": lambda _workshop, before, *_: replace(before, corrected=True),
    }
    steps = [RepairStep("plain", workshop.confirm(plan), True, 0.0)]
    for name in (name for name in repairs if name in known):
        started = time.monotonic()
        report(f"Repair: {name}")
        tried = known[name](workshop, plan, deadline, report)
        before, after = workshop.score(plan), workshop.score(tried)
        used = after.error < before.error * (1 - _WORTHWHILE)
        plan = tried if used else plan
        seconds = time.monotonic() - started
        steps.append(RepairStep(name, workshop.confirm(tried), used, seconds))
    return plan, steps


def _equalized(workshop: Workshop, plan: Plan, deadline: float, report: Report) -> Plan:
    if not workshop.can_equalize():
        return plan
    tried: list[Plan] = []
    for strength in STRENGTHS:
        if tried and time.monotonic() > deadline:
            break
        report(f"Repair: equalize, strength {strength}")
        tried.append(replace(plan, strength=strength))
        workshop.score(tried[-1])
    return min(tried, key=lambda one: workshop.score(one).error)


def _with_best_ranges(workshop: Workshop, plan: Plan, deadline: float, report: Report) -> Plan:
    """Choose the best method for all, then another for each activation that is better off."""
    other = "mse" if plan.target == "tensorrt" else "mse-symmetric"
    methods = [method for method in METHODS if method != other or method == plan.method]
    plans = [replace(plan, method=method) for method in methods]
    best = min(plans, key=lambda one: workshop.score(one).error)
    for name in _doubtful(workshop, best, methods):
        if time.monotonic() > deadline:
            break
        report(f"Repair: range of {name}")
        best = min(
            [best, *_alternatives(workshop, best, name, methods)],
            key=lambda one: workshop.score(one).error,
        )
    return best


def _alternatives(
    workshop: Workshop, plan: Plan, name: str, methods: Sequence[RangeMethod]
) -> list[Plan]:
    """Return plans that differ in one activation's range; near duplicates are left out."""
    tensor = workshop.prepared(plan.strength)[1].tensors[name]
    tried = [tensor.ranges[plan.method]]
    plans = []
    for method in methods:
        low, high = tensor.ranges[method]
        span = max(high - low, 1e-30)
        if all(abs(low - a) + abs(high - b) > _NEARLY * span for a, b in tried):
            tried.append((low, high))
            plans.append(replace(plan, exceptions=(*plan.exceptions, (name, method))))
    return plans


def _doubtful(workshop: Workshop, plan: Plan, methods: Sequence[RangeMethod]) -> list[str]:
    """Return the activations that layers read, those first whose ranges differ most."""
    _, calibration = workshop.prepared(plan.strength)
    spreads = {}
    for name in {str(layer.input[0]) for layer in workshop.graph.layers}:
        tensor = calibration.tensors.get(name)
        if tensor is not None:
            spans = [tensor.ranges[method][1] - tensor.ranges[method][0] for method in methods]
            spreads[name] = min(spans) / max(*spans, 1e-30)
    return sorted(spreads, key=lambda name: (spreads[name], name))
