"""A verdict in words: what an evaluation's numbers say to somebody who has not read the papers.

Each sentence is judged by the 95 % interval of a number and a fixed bound, so few pictures cannot
make it sure of itself. docs/evaluation.md has the bounds.
"""

from __future__ import annotations

import numpy as np

from tame_deploy.evaluation.result import Estimate, Evaluation, Finding, bootstrap
from tame_deploy.metrics.families import ASKING_FOR_MAPS, RANDOMISATION

__all__ = ["ALIKE", "FOLLOWING", "LOST", "MARGIN", "MOVED", "SAME", "TOO_FEW", "verdict_of"]

#: Points of average drop that a map must be better than noise.
MARGIN = 5.0
#: Percent of certainty whose loss says that a map, however much better than noise, misses a lot.
LOST = 50.0
#: Similarity in percent above which a scrambled network's map is much the same.
ALIKE = 50.0
#: Similarity in percent above which it is said that maps follow the picture in part.
FOLLOWING = 12.5
#: Similarity in percent above which a step of scrambling has hardly changed the maps.
SAME = 90.0
#: Percent of its norm that noise may move a map.
MOVED = 25.0
#: Bootstrap intervals of fewer pictures are too narrow to judge by.
TOO_FEW = 30

_LIMITS = Finding(
    "limits",
    "note",
    "A map says where the classifier finds what it decides by, not why it decides so, and not "
    "whether its decision is right.",
)


def verdict_of(evaluation: Evaluation) -> list[Finding]:
    """Return what an evaluation says of faithfulness, dependence on the network, and stability.

    Of random weights it says only that nothing means anything.
    """
    if evaluation.settings.get("speed_only"):
        sentence = "The weights are random: neither the maps nor any of these numbers mean a thing."
        return [Finding("weights", "warning", sentence)]
    findings = [_faithfulness(evaluation), _dependence(evaluation), _stability(evaluation)]
    return [*findings, _LIMITS]


def _faithfulness(evaluation: Evaluation) -> Finding:
    topic, scores = "faithfulness", evaluation.scores
    if not {"average_drop_50", "chance_average_drop_50"} <= set(scores):
        return _not_measured(evaluation, topic, "whether the maps mark what matters", "ad-ic")
    own, chance = scores["average_drop_50"], scores["chance_average_drop_50"]
    # Of the same pictures, so the interval is that of their differences.
    better = bootstrap((chance - own)[:, None])[0]
    seen = (
        "Showing the classifier only the half of each picture that the map marks most loses "
        f"{np.nanmean(own):.0f} % of its certainty on average (a random map: "
        f"{np.nanmean(chance):.0f} %)"
    )
    judgement = _judged(-better.high, -better.low, -MARGIN, better.pictures)
    said = {
        "good": "the maps mark what matters"
        if np.nanmean(own) <= LOST
        else "the maps mark more of what matters than chance does, but much lies outside that half",
        "warning": "the maps mark hardly more of what matters than chance does",
        "unclear": "whether the maps mark more of what matters than chance does is not certain",
    }
    return _finding(topic, judgement, seen, said[judgement], better.pictures)


def _dependence(evaluation: Evaluation) -> Finding:
    topic = "dependence on the network"
    similarity = _estimate(evaluation, "randomisation_100")
    if similarity is None:
        wanted = "whether the maps depend on what the network learnt"
        return _not_measured(evaluation, topic, wanted, RANDOMISATION)
    low, high, pictures = similarity.low, similarity.high, similarity.pictures
    judgement = _judged(low, high, ALIKE, pictures)
    seen = {
        "good": "The maps change when all that the network learnt is scrambled",
        "warning": "The maps stay much the same when all that the network learnt is scrambled",
        "unclear": "The maps change somewhat when all that the network learnt is scrambled",
    }[judgement] + f" (similarity {similarity.mean:.0f} of 100)"
    said = {
        "good": "they depend on what it learnt",
        "warning": "they show the picture, or a habit of the method, more than what it learnt",
        "unclear": "how much they depend on what it learnt is not certain",
    }[judgement]
    if judgement == "good":
        said += _reservations(evaluation, similarity)
    return _finding(topic, judgement, seen, said, pictures)


def _reservations(evaluation: Evaluation, similarity: Estimate) -> str:
    """Return what speaks against maps that do change once every layer is scrambled."""
    prefix = f"{RANDOMISATION}_"
    unmoved = [
        float(name.removeprefix(prefix))
        for name, values in evaluation.scores.items()
        if name.startswith(prefix) and np.nanmean(values) > SAME
    ]
    found = []
    if unmoved:
        found.append(
            f"scrambling only the last {max(unmoved):g} % of its layers hardly changes them"
        )
    if similarity.low > FOLLOWING:
        found.append("in part they follow the picture whatever the network")
    return f"; but {', and '.join(found)}" if found else ""


def _stability(evaluation: Evaluation) -> Finding:
    topic = "stability"
    moved = _estimate(evaluation, "sensitivity_max")
    if moved is None:
        return _not_measured(evaluation, topic, "whether small noise moves the maps", "sensitivity")
    judgement = _judged(moved.low, moved.high, MOVED, moved.pictures)
    seen = {
        "good": "Noise that one hardly sees moves the maps little",
        "warning": "Noise that one hardly sees moves the maps a lot",
        "unclear": "Noise that one hardly sees moves the maps",
    }[judgement] + f" (by {moved.mean:.0f} % at worst, on average over pictures)"
    said = {
        "good": "alike pictures get alike maps",
        "warning": "do not read much into small details of one map",
        "unclear": "whether that is much is not certain",
    }[judgement]
    return _finding(topic, judgement, seen, said, moved.pictures)


def _estimate(evaluation: Evaluation, name: str) -> Estimate | None:
    if name not in evaluation.scores:
        return None
    found = bootstrap(np.asarray(evaluation.scores[name], np.float64)[:, None])[0]
    return found if found.pictures else None


def _judged(low: float, high: float, bound: float, pictures: int) -> str:
    """Judge a number, of which less is better, by its interval."""
    if pictures < TOO_FEW or low <= bound <= high:
        return "unclear"
    return "good" if high < bound else "warning"


def _finding(topic: str, judgement: str, seen: str, said: str, pictures: int) -> Finding:
    few = f" ({pictures} pictures are too few to tell; expected {TOO_FEW})"
    return Finding(topic, judgement, f"{seen}: {said}{few if pictures < TOO_FEW else ''}.")


def _not_measured(evaluation: Evaluation, topic: str, what: str, metric: str) -> Finding:
    to_do = f"add --metrics {metric}"
    if evaluation.settings.get("explain") == "predicted" and metric in ASKING_FOR_MAPS:
        to_do = (
            "this graph explains only the classes that it predicts; export with --explain "
            f"selectable, and {to_do}"
        )
    return Finding(topic, "not measured", f"Not measured: {what}; {to_do}.")
