"""Artifacts that somebody damaged or forged: C++ gives Python's error, and names its place."""

import shutil

import pytest

from tame_deploy import load, open_artifact
from tame_deploy.errors import ArtifactError
from tests.attacks.cases import ATTACKS
from tests.cpp.opening import open_all, told


@pytest.fixture(scope="module")
def spoilt(demo_export, tmp_path_factory):
    """Return, by attack, a spoilt artifact and what C++ says of it; one process opens them all."""
    paths = {}
    for attack in ATTACKS:
        paths[attack.name] = tmp_path_factory.mktemp("attack") / "demo"
        shutil.copytree(demo_export, paths[attack.name])
        attack.spoil(paths[attack.name])
    found = open_all(list(paths.values()))
    return {name: (path, said) for (name, path), said in zip(paths.items(), found, strict=True)}


@pytest.mark.parametrize(
    "attack", [one for one in ATTACKS if one.stage != "backend"], ids=lambda attack: attack.name
)
def test_attack(spoilt, attack):
    path, said = spoilt[attack.name]
    with pytest.raises(attack.error) as caught:
        load(path)
    assert said["status"] == attack.error.__name__
    if attack.own_words:
        assert attack.words in said["message"]
        assert len(said["message"]) < 600
    else:
        manifest = f"{path / 'manifest.json'}: "
        expected = str(caught.value).removeprefix(manifest)
        assert told(said["message"].removeprefix(manifest)) == told(expected)


@pytest.mark.parametrize(
    "attack", [one for one in ATTACKS if one.stage == "backend"], ids=lambda attack: attack.name
)
def test_what_only_a_backend_can_notice(spoilt, attack):
    _, said = spoilt[attack.name]
    assert said["status"] == "OK"
    assert said["graph_is_checked"] is (attack.name == "graph whose weights lie outside")


def test_whole_artifact(demo_export):
    artifact = open_artifact(demo_export)
    (said,) = open_all([demo_export])
    assert said["status"] == "OK"
    assert said["identity"] == artifact.manifest.identity()
    assert tuple(said["labels"]) == artifact.read_labels()
    assert said["map_size"] == list(artifact.manifest.outputs[2].shape[2:])
    assert said["files"] == len(artifact.manifest.files)
    assert said["graph_is_checked"]


@pytest.mark.parametrize("path", [".", "/", "//", "./no//such/./folder/", "/dev/null", "x" * 300])
def test_odd_paths(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (said,) = open_all([path])
    with pytest.raises(ArtifactError) as caught:
        load(path)
    assert said["status"] == type(caught.value).__name__
    assert said["message"]
