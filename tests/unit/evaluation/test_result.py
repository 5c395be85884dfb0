"""Means come with honest intervals, and files hold what the screen shows."""

import csv
import json

import numpy as np
import pytest

from tame_deploy.errors import InputError
from tame_deploy.evaluation.result import Evaluation, bootstrap


def test_the_interval_is_as_wide_as_theory_says():
    values = np.random.default_rng(3).normal(50, 10, (400, 1))
    mean, low, high, pictures = bootstrap(values)[0]
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 400**0.5, rel=0.1)
    assert low < mean < high
    assert pictures == 400


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        _, low, high, _ = bootstrap(generator.normal(0, 1, (60, 1)), seed=trial)[0]
        covered += low < 0 < high
    assert 87 <= covered <= 100


def test_pictures_without_a_number_do_not_count():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 7.0]])
    first, second = bootstrap(values)
    assert (first.mean, first.pictures) == (2, 2)
    assert (second.mean, second.low, second.high, second.pictures) == (7, 7, 7, 1)


def evaluation(**scores):
    columns = {name: np.array(values, float) for name, values in scores.items()}
    return Evaluation(
        model="it",
        method="tame",
        scores=columns,
        names=["a.png", "b.png"],
        unreadable=["c.png: broken"],
    )


def test_what_no_picture_has_is_left_out():
    found = evaluation(average_drop_100=[1, 2], pointing_game=[np.nan, np.nan])
    assert list(found.estimates()) == ["average_drop_100"]


def test_files_hold_means_and_every_pictures_numbers(tmp_path):
    evaluation(average_drop_100=[1, 2], pointing_game=[np.nan, 100]).save(tmp_path)
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored["metrics"]["average_drop_100"]["mean"] == 1.5
    assert stored["metrics"]["pointing_game"]["pictures"] == 1
    assert stored["unreadable"] == ["c.png: broken"]
    with (tmp_path / "evaluation-pictures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"picture": "a.png", "average_drop_100": "1", "pointing_game": ""}


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot write .*nowhere"):
        evaluation(average_drop_100=[1, 2]).save(tmp_path / "nowhere")
