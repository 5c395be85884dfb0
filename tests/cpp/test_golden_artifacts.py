"""Artifacts that earlier versions wrote open in C++ for ever, as in Python."""

from tame_deploy import open_artifact
from tests.cpp.opening import open_all
from tests.golden.test_artifacts import ARTIFACTS, stored_identity


def test_each_opens_and_its_graph_is_its_own():
    for path, said in zip(ARTIFACTS, open_all(ARTIFACTS), strict=True):
        assert said["status"] == "OK", path.name
        assert said["identity"] == stored_identity(path)
        assert said["graph_is_checked"]
        assert tuple(said["labels"]) == open_artifact(path).read_labels()
