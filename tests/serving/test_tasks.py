"""Answers of a server for artifacts of other tasks than one class of several."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.integration.test_tasks import exported
from tests.serving.running import PLAIN, running

PICTURE = Path("tame_deploy/data/pictures/ring-1.png")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    named = [f"{name}={exported(tmp_path_factory, name)}" for name in ("multilabel", "binary")]
    with running(tmp_path_factory.mktemp("server"), *named, *PLAIN, "--no-grpc") as opened:
        yield f"{opened.http}/v2/models"


def asked(address, name, **query):
    return httpx.post(f"{address}/{name}/explain", content=PICTURE.read_bytes(), params=query)


@pytest.mark.parametrize("name", ["multilabel", "binary"])
def test_the_task_stands_in_the_configuration_and_in_answers(address, name):
    parameters = httpx.get(f"{address}/{name}/config").json()["parameters"]
    assert parameters["task"]["string_value"] == name
    assert json.loads(parameters["manifest"]["string_value"])["task"] == name
    assert asked(address, name, maps="none").json()["task"] == name


def test_probabilities_of_labels_do_not_share_one_whole(address):
    shares = [one["probability"] for one in asked(address, "multilabel").json()["classes"]]
    assert len(shares) == 4
    assert abs(sum(shares) - 1) > 0.01
    both = [one["probability"] for one in asked(address, "binary").json()["classes"]]
    assert sum(both) == pytest.approx(1)


def test_classes_are_listed_that_reach_a_threshold(address):
    shares = [one["probability"] for one in asked(address, "multilabel").json()["classes"]]
    between = (shares[1] + shares[2]) / 2
    found = asked(address, "multilabel", threshold=between).json()["classes"]
    assert [one["probability"] for one in found] == shares[:2]
    assert len(asked(address, "multilabel", threshold=0, top=3).json()["classes"]) == 3


@pytest.mark.parametrize("text", ["2", "-0.1", "nan", "half"])
def test_a_threshold_is_a_probability(address, text):
    refused = asked(address, "multilabel", threshold=text)
    assert refused.status_code == 400
    assert "threshold is" in refused.json()["error"]
    assert "expected a number from 0 to 1" in refused.json()["error"]
