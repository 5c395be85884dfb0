"""Whether excluding layers can reach the floor at all: found out by one trial, not by hundreds."""

from __future__ import annotations

from dataclasses import replace

from tame_deploy.calibration.search.plan import Plan, Score
from tame_deploy.calibration.search.sensitivity import MAX_EXCLUDED_SHARE
from tame_deploy.calibration.search.trials import Trials
from tame_deploy.metrics.fidelity import Floor

__all__ = ["hopeless_reason", "times_too_large"]

#: Layers are searched, whatever one trial says, where the error is at most so many times too large.
_SEARCHED = 6.0
#: No search finds much better layers to exclude than this trial does.
_BETTER_CHOICE = 2.0


def times_too_large(score: Score, floor: Floor) -> float:
    """Return about how many times the error must shrink until the floor is reached.

    What correlation lacks to one grows with the error, what IoU lacks with its square root.
    """
    pearson = (1 - score.pearson5) / max(1 - floor.pearson5, 1e-9)
    overlap = (1 - score.iou15) / max(1 - floor.iou15, 1e-9)
    return max(pearson, overlap**2)


def hopeless_reason(trials: Trials, plan: Plan, floor: Floor) -> str | None:
    """Return why no choice of layers can reach the floor, or None if one may.

    One trial excludes as many layers as the search ever would, the cheapest first.

    Raises:
        BuildError: if a plan cannot be built.
    """
    factor = times_too_large(trials.validate(plan), floor)
    if factor <= _SEARCHED:
        return None
    tried = replace(plan, excluded=_cheapest(trials, plan))
    left = factor * trials.score(tried).error / max(trials.score(plan).error, 1e-12)
    if left <= _BETTER_CHOICE:
        return None
    return (
        f"the error of eight bits is about {factor:.0f} times what the floor allows, and still "
        f"{left:.0f} times with {len(tried.excluded)} of {len(trials.graph.layers)} layers "
        f"({trials.excluded_share(tried):.0%} of the multiply-adds) excluded, so layers were not "
        "searched one by one"
    )


def _cheapest(trials: Trials, plan: Plan) -> frozenset[str]:
    """Return the cheapest layers, as many as may be excluded."""
    graph, chosen = trials.graph, plan.excluded
    for layer in sorted(graph.layers, key=graph.multiply_adds):
        more = chosen | {str(layer.name)}
        if trials.excluded_share(replace(plan, excluded=more)) > MAX_EXCLUDED_SHARE:
            break
        chosen = more
    return chosen
