"""Excluding layers: the fewest that must stay in higher precision to reach the floor.

The search is greedy and measures again: the layers whose quantization hurts most for what they
cost are excluded first, then all that look promising are measured anew together with them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

from tame_deploy.calibration.search.plan import Plan, Score
from tame_deploy.calibration.search.trials import Trials
from tame_deploy.metrics.fidelity import Floor

__all__ = ["CurvePoint", "Sensitivity", "exclude_layers", "measure_sensitivity"]

#: How many of the promising are measured again in each round.
_BEAM = 5
#: The curve ends where this share of the multiply-adds is in higher precision.
MAX_EXCLUDED_SHARE = 0.35
MAX_POINTS = 10
#: A module of more layers is no single choice.
_MAX_GROUP = 8
#: So many layers in a row are a choice, too: between two that stay in eight bits, one gains little.
_RUN = 3
#: What even a tiny layer costs, as a share of the multiply-adds: a change of precision.
_LEAST_COST = 0.005


@dataclass(frozen=True)
class CurvePoint:
    """A plan on the way to higher precision, and what it is worth.

    `added` names the layers that were excluded here, `excluded_share` is the share of the
    multiply-adds in higher precision so far.
    """

    plan: Plan
    score: Score
    excluded_share: float
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sensitivity:
    """What excluding a layer, or a module's layers, alone takes off the joint error."""

    name: str
    layers: tuple[str, ...]
    error: float
    gain: float


def exclude_layers(
    trials: Trials,
    plan: Plan,
    floor: Floor,
    *,
    deadline: float,
    advance: Callable[[str], None] = lambda _: None,
) -> tuple[list[CurvePoint], list[Sensitivity]]:
    """Return the curve from all layers quantized upwards, and each layer's sensitivity.

    The curve goes on beyond the floor while there is time, to show what more would cost.

    Args:
        trials: builds and scores plans.
        plan: where to start.
        floor: what must be reached.
        deadline: `time.monotonic()` after which no more trial is begun.
        advance: told what is being tried.

    Raises:
        BuildError: if a plan cannot be built.
    """
    curve = [CurvePoint(plan, trials.validate(plan), trials.excluded_share(plan))]
    groups = _groups(trials)
    found = measure_sensitivity(trials, plan, deadline, advance)
    gains = {one.name: one.gain for one in found if one.gain > 0}
    while gains and len(curve) <= MAX_POINTS and time.monotonic() < deadline:
        point = _next_point(trials, curve[-1], groups, gains, deadline, advance)
        if point is None:
            break
        if point.excluded_share > MAX_EXCLUDED_SHARE and curve[-1].score.reaches(floor):
            break
        curve.append(point)
    return curve, found


def measure_sensitivity(
    trials: Trials, plan: Plan, deadline: float, advance: Callable[[str], None]
) -> list[Sensitivity]:
    """Return what excluding each layer or small module alone gains, the most first.

    Raises:
        BuildError: if a plan cannot be built.
    """
    before = trials.score(plan).error
    found: list[Sensitivity] = []
    for name, layers in _groups(trials).items():
        if time.monotonic() > deadline:
            break
        advance(f"Sensitivity of {name}")
        error = trials.score(replace(plan, excluded=plan.excluded | layers)).error
        found.append(Sensitivity(name, tuple(sorted(layers)), error, before - error))
    return sorted(found, key=lambda one: -one.gain)


def _groups(trials: Trials) -> dict[str, frozenset[str]]:
    """Return what may be excluded: each layer, small modules, and some layers in a row."""
    graph = trials.graph
    groups = {graph.layer_name(one): frozenset({str(one.name)}) for one in graph.layers}
    modules: dict[str, set[str]] = defaultdict(set)
    for layer in graph.layers:
        module = graph.layer_name(layer).rpartition(".")[0]
        modules[module].add(str(layer.name))
    for module, layers in modules.items():
        if module and 1 < len(layers) <= _MAX_GROUP:
            groups[f"{module}.*"] = frozenset(layers)
    for start in range(len(graph.layers) - _RUN + 1):
        run = graph.layers[start : start + _RUN]
        joined = frozenset(str(layer.name) for layer in run)
        if joined not in groups.values() and len({graph.stage(layer) for layer in run}) == 1:
            groups[f"{graph.layer_name(run[0])} to {graph.layer_name(run[-1])}"] = joined
    return groups


def _next_point(
    trials: Trials,
    last: CurvePoint,
    groups: dict[str, frozenset[str]],
    gains: dict[str, float],
    deadline: float,
    advance: Callable[[str], None],
) -> CurvePoint | None:
    """Return the plan that also excludes the group that pays best, or None if none pays.

    The gains of the groups that are measured again replace their old ones.
    """
    plan = last.plan

    def worth(name: str) -> float:
        more = (
            trials.excluded_share(replace(plan, excluded=groups[name] | plan.excluded))
            - last.excluded_share
        )
        return gains[name] / (more + _LEAST_COST)

    left = [name for name in gains if not groups[name] <= plan.excluded]
    promising = sorted(left, key=worth, reverse=True)[:_BEAM]
    for name in promising:
        if time.monotonic() > deadline:
            return None
        advance(f"Excluding {name}")
        tried = replace(plan, excluded=plan.excluded | groups[name])
        gains[name] = trials.score(plan).error - trials.score(tried).error
    paying = [name for name in promising if gains[name] > 0]
    if not paying:
        return None
    best = max(paying, key=worth)
    chosen = replace(plan, excluded=plan.excluded | groups[best])
    added = tuple(sorted(groups[best] - plan.excluded))
    del gains[best]
    return CurvePoint(chosen, trials.validate(chosen), trials.excluded_share(chosen), added)
