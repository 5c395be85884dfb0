"""libtame through its public functions beside the Python runtime, on artifacts made here."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image

import tame_deploy
from tame_deploy.artifact.directory import file_sha256, open_artifact, write_manifest
from tame_deploy.errors import IncompatibleArtifactError, TameError
from tests.attacks.cases import ATTACKS
from tests.conftest import OTHER_CONTRACTS
from tests.cpp.build import built_program
from tests.golden.replay import LOGITS_RELATIVE, MAPS_ABSOLUTE, PICTURES
from tests.integration import test_recipro_cam as recipro_cam
from tests.integration.test_tasks import exported

PICTURE = PICTURES / "turned.jpg"


def answers(*questions):
    """Ask one process, in order."""
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    done = subprocess.run(
        [built_program("tame-replay")], input=lines, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "attack", [one for one in ATTACKS if one.stage == "backend"], ids=lambda attack: attack.name
)
def test_what_only_a_backend_notices_is_the_same_kind_of_error(demo_copy, attack):
    attack.spoil(demo_copy)
    with pytest.raises(TameError) as caught:
        tame_deploy.load(demo_copy, backend="onnxruntime")
    (said,) = answers({"open": str(demo_copy)})
    assert said["status"] == type(caught.value).__name__
    assert attack.words in said["message"]


@pytest.mark.parametrize("options", OTHER_CONTRACTS, ids=str)
def test_other_contracts_give_the_same(demo_with, options, tmp_path):
    artifact = demo_with(**options)
    with tame_deploy.load(artifact, backend="onnxruntime") as explainer:
        expected = explainer.explain(PICTURE)
    shown = tmp_path / "shown.ppm"
    opened, found, chosen = answers(
        {"open": str(artifact)},
        {"explain": str(PICTURE), "overlay": str(shown)},
        {"explain": str(PICTURE), "class_ids": [2]},
    )
    assert (opened["status"], found["status"]) == ("OK", "OK"), (opened, found)
    if "explain" in options:
        assert chosen["status"] == "InputError"
        assert "this artifact always explains" in chosen["message"]
    else:
        assert chosen["class_ids"] == [2]
    logits = np.abs(found["logits"] - expected.logits[0]).max()
    assert logits <= LOGITS_RELATIVE * np.abs(expected.logits).max()
    assert found["class_ids"] == expected.class_ids[0].tolist()
    scale = max(1.0, float(np.abs(expected.maps).max()))  # map logits are not in [0, 1]
    assert np.abs(found["maps"] - expected.maps.ravel()).max() <= MAPS_ABSOLUTE * scale
    apart = np.asarray(Image.open(shown)).astype(int) - np.asarray(expected[0].overlay())
    assert np.abs(apart).max() <= 1


def test_an_artifact_for_vnni_opens_in_both_languages_or_in_none(demo_copy):
    artifact = open_artifact(demo_copy)
    manifest = replace(artifact.manifest, target="cpu-vnni", precision="int8").with_identity()
    model = onnx.load(artifact.model)
    onnx.helper.set_model_props(model, {"tame.manifest": manifest.identity()})
    onnx.save(model, artifact.model)
    files = {**manifest.files, "model.onnx": file_sha256(artifact.model)}
    write_manifest(replace(manifest, files=files), demo_copy)
    expected = {"status": "OK", "message": ""}
    try:
        tame_deploy.load(demo_copy, backend="onnxruntime").close()
    except IncompatibleArtifactError as error:
        expected = {"status": "IncompatibleArtifactError", "message": str(error)}
    (said,) = answers({"open": str(demo_copy)})
    assert said["status"] == expected["status"]
    assert said.get("message", "") == expected["message"]


def test_a_backends_python_package_is_found(demo_export, monkeypatch):
    monkeypatch.delenv("TAME_ONNXRUNTIME_LIBRARY", raising=False)
    (said,) = answers({"open": str(demo_export)})
    assert said["status"] == "OK"
    monkeypatch.setenv("TAME_ONNXRUNTIME_LIBRARY", "/nowhere")
    (said,) = answers({"open": str(demo_export)})
    assert said["status"] == "BackendNotInstalledError"
    assert "/nowhere, which TAME_ONNXRUNTIME_LIBRARY names" in said["message"]


def test_opening_writes_nothing(demo_export, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    before = {path: path.stat().st_mtime_ns for path in demo_export.rglob("*")}
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")  # whose files are ONNX Runtime's own
    monkeypatch.chdir(shutil.copytree(PICTURES, tmp_path / "here"))
    opened, found = answers({"open": str(demo_export)}, {"explain": str(PICTURE)})
    assert (opened["status"], found["status"]) == ("OK", "OK")
    assert {path: path.stat().st_mtime_ns for path in demo_export.rglob("*")} == before
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        path.name for path in PICTURES.iterdir()
    }
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["fully connected", "class token"])
def test_recipro_cam_gives_the_same(tmp_path_factory, name):
    artifact = recipro_cam.exported(tmp_path_factory, name)
    with tame_deploy.load(artifact, backend="onnxruntime") as explainer:
        expected = explainer.explain(PICTURE)
    _, found = answers({"open": str(artifact)}, {"explain": str(PICTURE)})
    assert found["class_ids"] == expected.class_ids[0].tolist()
    assert np.abs(found["maps"] - expected.maps.ravel()).max() <= MAPS_ABSOLUTE


@pytest.mark.parametrize("name", ["binary", "multilabel"])
def test_probabilities_are_those_of_the_task(tmp_path_factory, name):
    artifact = exported(tmp_path_factory, name)
    with tame_deploy.load(artifact, backend="onnxruntime") as explainer:
        expected = explainer.explain(PICTURE)
    _, found = answers({"open": str(artifact)}, {"explain": str(PICTURE)})
    assert found["task"] == name
    np.testing.assert_allclose(found["probabilities"], expected.probabilities[0], atol=1e-6)
