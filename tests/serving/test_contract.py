"""What a model tells of itself: its manifest without folders, which a client reads as any other."""

from dataclasses import replace

import pytest

from tame_deploy.artifact.manifest import Manifest, WeightsSource
from tame_deploy.serving.contract import _without_paths
from tests.unit.artifact.test_manifest import EXAMPLE


@pytest.mark.parametrize("source", ["/home/anna/secret/head.pt", r"C:\anna\secret\head.pt"])
def test_the_manifest_that_is_told_names_no_folder_and_is_whole(source):
    weights = {"head": WeightsSource(source), "backbone": WeightsSource("torchvision")}
    told = _without_paths(replace(EXAMPLE, weights=weights).with_identity())
    assert "secret" not in told
    found = Manifest.from_json(told)
    assert found.weights["head"].source == "head.pt"
    assert found.image == EXAMPLE.image
