"""What logits mean, task by task."""

import json
from pathlib import Path

import numpy as np
import pytest

from tame_deploy.artifact.task import agreement, probabilities, ranked

#: What arithmetic of fifty digits gave; libtame is held to it too (cpp/tests/explain).
CASES = json.loads((Path(__file__).parents[2] / "golden" / "probabilities.json").read_text())
FOUR = np.array([[8.0, 8.0, -8.0, -8.0]], np.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_probabilities_are_those_of_the_task(case):
    found = probabilities(np.array([case["logits"]], np.float32), case["task"])
    np.testing.assert_allclose(found, [case["probabilities"]], rtol=0, atol=1e-9)


def test_two_labels_of_many_are_both_nearly_certain():
    np.testing.assert_allclose(probabilities(FOUR, "multilabel")[0, :2], 0.99966, atol=1e-5)
    np.testing.assert_allclose(probabilities(FOUR, "multiclass")[0, :2], 0.5, atol=1e-5)


def test_the_softmax_of_a_binary_networks_logits_is_a_sigmoid():
    found = probabilities(np.array([[0.0, 3.0]], np.float32), "binary")
    np.testing.assert_allclose(found, [[1 - 1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-3))]])


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "binary"])
def test_probabilities_of_huge_logits_are_finite(task):
    found = probabilities(np.array([[1e30, -1e30]], np.float32), task)
    np.testing.assert_array_equal(found, [[1, 0]])


def test_labels_that_are_all_certain_still_have_an_order():
    assert ranked(np.array([30.0, 60.0, 40.0])).tolist() == [1, 2, 0]


def test_classes_agree_and_sets_of_labels_overlap():
    one = np.array([[2.0, 1.0, -1.0], [-1.0, -2.0, -3.0]])
    other = np.array([[3.0, -1.0, -1.0], [-1.0, -2.0, -3.0]])
    assert agreement(one, other, "multiclass").tolist() == [1, 1]
    # Of two labels one is left; no label, twice, is full agreement.
    assert agreement(one, other, "multilabel").tolist() == [0.5, 1]
    assert agreement(one, -one, "multilabel").tolist() == [0, 0]
