"""When a search for layers to exclude is not even begun."""

from dataclasses import dataclass

import pytest

from tame_deploy.calibration.graph import Graph
from tame_deploy.calibration.search.outlook import hopeless_reason, times_too_large
from tame_deploy.calibration.search.plan import Plan, Score
from tame_deploy.metrics.fidelity import Floor
from tests.unit.calibration.graphs import small_graph

FLOOR = Floor(0.94, 0.9, 0.98)
PLAN = Plan(precision="int8", target="cpu")
BAD = Score(0.6, 0.7, 0.5, 0.7)


@dataclass
class Measured:
    """Trials whose scores are given: with all layers quantized, and with some excluded."""

    plain: Score
    partly: Score

    @property
    def graph(self) -> Graph:
        return small_graph()

    def validate(self, plan):
        return self.partly if plan.excluded else self.plain

    score = validate

    def excluded_share(self, plan):
        return len(plan.excluded) / len(self.graph.layers)


def test_the_error_is_measured_against_what_the_floor_allows():
    assert times_too_large(Score(0.1, 1, 0.9, 0.98), FLOOR) == pytest.approx(1)
    assert times_too_large(Score(0.1, 1, 0.9, 0.90), FLOOR) == pytest.approx(5)
    assert times_too_large(Score(0.1, 1, 0.7, 0.98), FLOOR) == pytest.approx(9)


@pytest.mark.parametrize(
    ("plain", "partly", "hopeless"),
    [
        (BAD, Score(0.4, 0.8, 0.6, 0.8), True),
        (BAD, Score(0.03, 0.95, 0.91, 0.98), False),
        (Score(0.02, 0.95, 0.88, 0.97), Score(0.02, 0.95, 0.88, 0.97), False),
    ],
    ids=["far away in any case", "excluded layers help", "near already"],
)
def test_one_trial_tells_whether_layers_are_worth_searching(plain, partly, hopeless):
    reason = hopeless_reason(Measured(plain, partly), PLAN, FLOOR)
    assert (reason is not None) == hopeless
    if hopeless:
        assert "about 25 times what the floor allows, and still 17 times with 2 of 7" in reason
