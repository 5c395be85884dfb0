"""Sensitivity search: the fewest layers kept in higher precision that reach the floor.

Greedy with re-measuring: what hurts most beside what it costs is restored first, then all that
look promising are measured again together with it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

from tame_deploy.calibration.search.workshop import Plan, Score, Workshop
from tame_deploy.metrics.fidelity import Floor

__all__ = ["CurvePoint", "Sensitivity", "measure_sensitivity", "search_layers"]

#: How many of the promising are measured again in each round.
_BEAM = 5
#: The curve ends where this share of the multiply-adds is in higher precision.
MAX_KEPT_SHARE = 0.35
MAX_POINTS = 10
#: A module of more layers is no single choice.
_MAX_GROUP = 8
#: What even a tiny layer costs, as a share of the multiply-adds: a change of precision.
_LEAST_COST = 0.005


@dataclass(frozen=True)
class CurvePoint:
    """A plan on the way to higher precision, and what it is worth.

    `added` names the layers that were restored here, `kept_share` is the share of the
    multiply-adds in higher precision so far.
    """

    plan: Plan
    score: Score
    kept_share: float
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sensitivity:
    """What restoring a layer, or a module's layers, alone takes off the joint error."""

    name: str
    layers: tuple[str, ...]
    error: float
    gain: float


def search_layers(
    workshop: Workshop,
    plan: Plan,
    floor: Floor,
    *,
    deadline: float,
    advance: Callable[[str], None] = lambda _: None,
) -> tuple[list[CurvePoint], list[Sensitivity]]:
    """Return the curve from all layers quantized upwards, and each layer's sensitivity.

    The curve goes on beyond the floor while there is time, to show what more would cost.

    Args:
        workshop: builds and scores plans.
        plan: where to start.
        floor: what must be reached.
        deadline: `time.monotonic()` after which no more trial is begun.
        advance: told what is being tried.

    Raises:
        BuildError: if a plan cannot be built.
    """
    curve = [CurvePoint(plan, workshop.confirm(plan), workshop.kept_share(plan))]
    groups = _groups(workshop)
    found = measure_sensitivity(workshop, plan, deadline, advance)
    gains = {one.name: one.gain for one in found if one.gain > 0}
    while gains and len(curve) <= MAX_POINTS and time.monotonic() < deadline:
        point = _next_point(workshop, curve[-1], groups, gains, deadline, advance)
        if point is None:
            break
        if point.kept_share > MAX_KEPT_SHARE and curve[-1].score.reaches(floor):
            break
        curve.append(point)
    return curve, found


def measure_sensitivity(
    workshop: Workshop, plan: Plan, deadline: float, advance: Callable[[str], None]
) -> list[Sensitivity]:
    """Return what restoring each layer or small module alone gains, the most first.

    Raises:
        BuildError: if a plan cannot be built.
    """
    before = workshop.score(plan).error
    found: list[Sensitivity] = []
    for name, layers in _groups(workshop).items():
        if time.monotonic() > deadline:
            break
        advance(f"Sensitivity of {name}")
        error = workshop.score(replace(plan, kept=plan.kept | layers)).error
        found.append(Sensitivity(name, tuple(sorted(layers)), error, before - error))
    return sorted(found, key=lambda one: -one.gain)


def _groups(workshop: Workshop) -> dict[str, frozenset[str]]:
    """Return what may be restored: each layer, and the layers of each small module."""
    graph = workshop.graph
    groups = {graph.layer_name(layer): frozenset({str(layer.name)}) for layer in graph.layers}
    modules: dict[str, set[str]] = defaultdict(set)
    for layer in graph.layers:
        module = graph.layer_name(layer).rpartition(".")[0]
        modules[module].add(str(layer.name))
    for module, layers in modules.items():
        if module and 1 < len(layers) <= _MAX_GROUP:
            groups[f"{module}.*"] = frozenset(layers)
    return groups


def _next_point(
    workshop: Workshop,
    last: CurvePoint,
    groups: dict[str, frozenset[str]],
    gains: dict[str, float],
    deadline: float,
    advance: Callable[[str], None],
) -> CurvePoint | None:
    """Return the plan with the group restored that pays best, or None if none pays.

    The gains of the groups that are measured again replace their old ones.
    """
    plan = last.plan

    def worth(name: str) -> float:
        more = workshop.kept_share(replace(plan, kept=groups[name] | plan.kept)) - last.kept_share
        return gains[name] / (more + _LEAST_COST)

    left = [name for name in gains if not groups[name] <= plan.kept]
    promising = sorted(left, key=worth, reverse=True)[:_BEAM]
    for name in promising:
        if time.monotonic() > deadline:
            return None
        advance(f"Restoring {name}")
        tried = replace(plan, kept=plan.kept | groups[name])
        gains[name] = workshop.score(plan).error - workshop.score(tried).error
    paying = [name for name in promising if gains[name] > 0]
    if not paying:
        return None
    best = max(paying, key=worth)
    chosen = replace(plan, kept=plan.kept | groups[best])
    added = tuple(sorted(groups[best] - plan.kept))
    del gains[best]
    return CurvePoint(chosen, workshop.confirm(chosen), workshop.kept_share(chosen), added)
