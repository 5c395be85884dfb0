"""Accuracy recovery that costs no speed: rounding, equalized channels, ranges, biases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tame_deploy.calibration.observing.ranges import METHODS, RangeMethod
from tame_deploy.calibration.search.plan import Plan, Score
from tame_deploy.calibration.search.trials import Trials
from tame_deploy.errors import InputError

__all__ = [
    "RECOVERY_METHODS",
    "RecoveryMethod",
    "RecoveryStep",
    "parse_recovery",
    "recover_accuracy",
]

#: Weights rounded together, cross-layer equalization, a search of ranges, bias correction, and
#: excluded layers. Rounding comes first, because coarse weights hide what the others gain; the last
#: is in sensitivity.py, because it costs speed.
RecoveryMethod = Literal["rounding", "equalize", "ranges", "bias", "layers"]
RECOVERY_METHODS: tuple[RecoveryMethod, ...] = get_args(RecoveryMethod)

#: Tried in turn until one is worse than the one before: for each, activations are observed anew.
STRENGTHS = (0.5, 0.7, 0.9)
#: The search of single ranges ends when so many in a row gained nothing worthwhile.
_PATIENCE = 6
#: Ranges that differ by less are not worth a trial.
_NEARLY = 0.02
#: A method must take this share off the error, or it is left out.
_WORTHWHILE = 0.002

Report = Callable[[str], None]


@dataclass(frozen=True)
class RecoveryStep:
    """One method of accuracy recovery, and the score after it on many pictures."""

    name: str
    score: Score
    used: bool
    seconds: float


def parse_recovery(text: str) -> tuple[RecoveryMethod, ...]:
    """Return the methods in "equalize,ranges", "all" or "none", in the order they are tried.

    Raises:
        InputError: for an unknown one.
    """
    if text in ("all", "none"):
        return RECOVERY_METHODS if text == "all" else ()
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in RECOVERY_METHODS]
    if unknown:
        raise InputError(
            f"--recovery has {unknown[0]!r}; expected all, none, or some of "
            f"{','.join(RECOVERY_METHODS)}"
        )
    return tuple(name for name in RECOVERY_METHODS if name in names)


def recover_accuracy(
    trials: Trials,
    plan: Plan,
    methods: Sequence[RecoveryMethod],
    *,
    deadline: float,
    report: Report = lambda _: None,
) -> tuple[Plan, list[RecoveryStep]]:
    """Improve a plan by the methods that cost no speed; each is used only if it helps.

    Args:
        trials: builds and scores plans.
        plan: where to start.
        methods: which to try.
        deadline: `time.monotonic()` after which no more trial is begun.
        report: told what is being done.

    Raises:
        BuildError: if a plan cannot be built.
    """
    known: dict[RecoveryMethod, Callable[[Trials, Plan, float, Report], Plan]] = {
        "rounding": lambda _trials, before, *_: replace(before, rounded=True),
        "equalize": _equalized,
        "ranges": _with_best_ranges,
        "bias": lambda _trials, before, *_: replace(before, corrected=True),
    }
    steps = [RecoveryStep("plain", trials.validate(plan), True, 0.0)]
    for name in (name for name in methods if name in known):
        started = time.monotonic()
        report(f"Accuracy recovery: {name}")
        tried = known[name](trials, plan, deadline, report)
        # On many pictures: channels that the calibration set shows as quiet may not stay so.
        before, after = trials.validate(plan), trials.validate(tried)
        used = after.error < before.error * (1 - _WORTHWHILE)
        plan = tried if used else plan
        seconds = time.monotonic() - started
        steps.append(RecoveryStep(name, after, used, seconds))
    return plan, steps


def _equalized(trials: Trials, plan: Plan, deadline: float, report: Report) -> Plan:
    if not trials.can_equalize():
        return plan
    tried: list[Plan] = []
    for strength in STRENGTHS:
        if tried and time.monotonic() > deadline:
            break
        report(f"Accuracy recovery: equalize, strength {strength}")
        tried.append(replace(plan, strength=strength))
        errors = [trials.score(one).error for one in tried[-2:]]
        if errors[-1] > errors[0]:
            break
    return min(tried, key=lambda one: trials.score(one).error)


def _with_best_ranges(trials: Trials, plan: Plan, deadline: float, report: Report) -> Plan:
    """Choose the best method for all, then another for each activation that is better off."""
    other = "mse" if plan.target == "tensorrt" else "mse-symmetric"
    methods = [method for method in METHODS if method != other or method == plan.method]
    plans = [replace(plan, method=method) for method in methods]
    best = min(plans, key=lambda one: trials.score(one).error)
    in_vain = 0
    for name in _doubtful(trials, best, methods):
        if time.monotonic() > deadline or in_vain == _PATIENCE:
            break
        report(f"Accuracy recovery: range of {name}")
        before = trials.score(best).error
        best = min(
            [best, *_alternatives(trials, best, name, methods)],
            key=lambda one: trials.score(one).error,
        )
        gained = trials.score(best).error < before * (1 - _WORTHWHILE)
        in_vain = 0 if gained else in_vain + 1
    return best


def _alternatives(
    trials: Trials, plan: Plan, name: str, methods: Sequence[RangeMethod]
) -> list[Plan]:
    """Return plans that differ in one activation's range; near duplicates are left out."""
    tensor = trials.equalized(plan.strength)[1].tensors[name]
    tried = [tensor.ranges[plan.method]]
    plans = []
    for method in methods:
        low, high = tensor.ranges[method]
        span = max(high - low, 1e-30)
        if all(abs(low - a) + abs(high - b) > _NEARLY * span for a, b in tried):
            tried.append((low, high))
            plans.append(replace(plan, exceptions=(*plan.exceptions, (name, method))))
    return plans


def _doubtful(trials: Trials, plan: Plan, methods: Sequence[RangeMethod]) -> list[str]:
    """Return the activations that layers read, those first whose ranges differ most."""
    _, calibration = trials.equalized(plan.strength)
    spreads = {}
    for name in {str(layer.input[0]) for layer in trials.graph.layers}:
        tensor = calibration.tensors.get(name)
        if tensor is not None:
            spans = [tensor.ranges[method][1] - tensor.ranges[method][0] for method in methods]
            spreads[name] = min(spans) / max(*spans, 1e-30)
    return sorted(spreads, key=lambda name: (spreads[name], name))
