"""What is said of random weights, in whole sentences."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.cli.screen import warn_speed_only


@pytest.mark.parametrize(
    ("random", "words"),
    [
        ((False, True), "the head of it has random weights"),
        ((True, True), "the backbone and head of it have random weights"),
    ],
)
def test_one_part_has_and_two_have_random_weights(capsys, random, words):
    parts = zip(("backbone", "head"), random, strict=True)
    weights = {part: WeightsSource("made here", random=one) for part, one in parts}
    warn_speed_only(SimpleNamespace(speed_only=True, weights=weights, name="it"))
    assert words in " ".join(capsys.readouterr().err.split())
