"""Words follow from intervals and fixed bounds, and are never surer than the numbers."""

import numpy as np
import pytest

from tame_deploy.evaluation.result import Evaluation
from tame_deploy.evaluation.verdict import TOO_FEW, verdict_of

COUNT = 100


def spread(mean, deviation=5.0, count=COUNT):
    values = np.random.default_rng(0).normal(0, 1, count)
    return mean + deviation * (values - values.mean()) / values.std()


def verdict(count=COUNT, speed_only=False, **scores):
    evaluation = Evaluation(
        model="it",
        method="tame",
        scores={name: np.asarray(values, float) for name, values in scores.items()},
        names=[str(number) for number in range(count)],
        settings={"speed_only": speed_only},
    )
    return {finding.topic: finding for finding in verdict_of(evaluation)}


def drops(own, chance):
    return verdict(average_drop_50=spread(own), chance_average_drop_50=spread(chance))[
        "faithfulness"
    ]


def test_a_map_that_beats_noise_marks_what_matters():
    found = drops(38, 66)
    assert found.judgement == "good"
    assert found.sentence == (
        "Showing the classifier only the half of each picture that the map marks most loses 38 % "
        "of its certainty on average (a random map: 66 %): the maps mark what matters."
    )


def test_a_map_that_beats_noise_and_still_loses_most_is_said_to_miss_much():
    found = drops(80, 95)
    assert found.judgement == "good"
    assert found.sentence.endswith("but much lies outside that half.")


@pytest.mark.parametrize(("own", "chance"), [(64, 66), (66, 64), (90, 60)])
def test_a_map_that_does_not_beat_noise_is_a_warning(own, chance):
    found = drops(own, chance)
    assert found.judgement == "warning"
    assert "hardly more of what matters than chance" in found.sentence


def test_an_interval_across_the_bound_is_not_certain():
    generator = np.random.default_rng(1)
    own, chance = generator.normal(60, 40, 40), generator.normal(66, 40, 40)
    found = verdict(average_drop_50=own, chance_average_drop_50=chance)["faithfulness"]
    assert found.judgement == "unclear"
    assert found.sentence.endswith("is not certain.")


@pytest.mark.parametrize(
    ("similarity", "judgement", "words"),
    [
        (5, "good", "scrambled (similarity 5 of 100): they depend on what it learnt."),
        (30, "good", "what it learnt; but in part they follow the picture whatever the network."),
        (50, "unclear", "how much they depend on what it learnt is not certain."),
        (90, "warning", "stay much the same when all that the network learnt is scrambled"),
    ],
)
def test_maps_that_stay_when_the_network_is_scrambled_are_a_warning(similarity, judgement, words):
    found = verdict(randomisation_100=spread(similarity))["dependence on the network"]
    assert found.judgement == judgement
    assert words in found.sentence


def test_layers_that_the_maps_do_not_depend_on_are_told():
    found = verdict(
        randomisation_4=spread(100),
        randomisation_23=spread(97),
        randomisation_60=spread(40),
        randomisation_100=spread(20),
    )["dependence on the network"]
    assert found.judgement == "good"
    assert found.sentence.endswith(
        "they depend on what it learnt; but scrambling only the last 23 % of its layers hardly "
        "changes them, and in part they follow the picture whatever the network."
    )


@pytest.mark.parametrize(("moved", "judgement"), [(6, "good"), (25, "unclear"), (70, "warning")])
def test_noise_that_moves_the_map_is_a_warning(moved, judgement):
    found = verdict(sensitivity_max=spread(moved))["stability"]
    assert found.judgement == judgement
    assert f"(by {moved} % at worst" in found.sentence


def test_what_was_not_measured_is_named_with_its_option():
    found = verdict(accuracy=np.full(COUNT, 100))
    assert [finding.judgement for finding in found.values()] == ["not measured"] * 3 + ["note"]
    for topic, metric in (
        ("faithfulness", "ad-ic"),
        ("dependence on the network", "randomisation"),
        ("stability", "sensitivity"),
    ):
        assert found[topic].sentence.endswith(f"add --metrics {metric}.")


def test_few_pictures_judge_nothing():
    few = TOO_FEW - 1
    found = verdict(few, sensitivity_max=spread(2, 0.1, few))["stability"]
    assert found.judgement == "unclear"
    assert f"({few} pictures are too few to tell; expected {TOO_FEW})" in found.sentence


def test_random_weights_get_no_verdict():
    found = verdict(speed_only=True, sensitivity_max=spread(2))
    assert list(found) == ["weights"]
    assert "random" in found["weights"].sentence


def test_no_verdict_calls_a_decision_right():
    said = " ".join(
        finding.sentence
        for value in (1, 50, 99)
        for finding in verdict(
            average_drop_50=spread(value),
            chance_average_drop_50=spread(60),
            randomisation_100=spread(value),
            sensitivity_max=spread(value),
        ).values()
    )
    assert "correct" not in said
    assert "not whether its decision is right" in said
