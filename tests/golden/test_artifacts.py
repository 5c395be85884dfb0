"""Artifacts that earlier versions wrote open for ever, with the answers that they had.

Each folder of artifacts/ is a network of a few kilobytes, as that schema's exporter (or `quantize`)
left it; from the int8 one, before-after.png was left out. Two take other pictures than RGB of 8
bits: five channels, and letterboxed grey of 16 bits in a window. Those of schema 4 have narrow
branches, and masked copies in place of a head; both can tell one class from another.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from tame_deploy import load, open_artifact
from tame_deploy.artifact.directory import write_manifest
from tame_deploy.errors import IncompatibleArtifactError
from tame_deploy.runtime.backends.onnxruntime.backend import OnnxRuntimeBackend
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.predict.predictor import Predictor
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.parity import ParityReference, check_parity
from tests.unit.artifact.test_manifest import later_version

__all__ = ["later_version"]

ARTIFACTS = sorted((Path(__file__).parent / "artifacts").iterdir())
SCHEMAS = ("schema-1", "schema-1-int8", "schema-2", "schema-3")
OF_3 = ("schema-3-five", "schema-3-grey16")
OF_4 = ("schema-4", "schema-4-recipro-cam")
whatever_schema = pytest.mark.parametrize("path", ARTIFACTS, ids=lambda path: path.name)


def stored_identity(path: Path) -> str:
    entries = onnx.load(path / "model.onnx").metadata_props
    return next(entry.value for entry in entries if entry.key == "tame.manifest")


def test_there_is_one_of_every_schema():
    names = [path.name for path in ARTIFACTS]
    assert names == [*SCHEMAS, *OF_3, *OF_4]


@whatever_schema
def test_it_opens_and_its_graph_is_its_own(path):
    artifact = open_artifact(path)
    assert artifact.manifest.identity() == stored_identity(path)
    assert artifact.read_labels() == ("0", "1", "2", "3", "4")
    # Not by `load`: whether this processor computes the int8 one well is another question.
    with OnnxRuntimeBackend.of_artifact(artifact, BackendOptions()) as backend:
        Predictor.of(artifact.manifest, backend).warm_up(2)


@pytest.mark.parametrize("name", [path.name for path in ARTIFACTS if "int8" not in path.name])
def test_it_answers_as_pytorch_did(name):
    artifact = open_artifact(ARTIFACTS[0].parent / name)
    with open_backend(artifact, "onnxruntime") as backend:
        check_parity(backend, ParityReference.load(artifact), artifact)


@whatever_schema
def test_a_version_with_more_fields_finds_the_same_identity(path, later_version):
    text = (path / "manifest.json").read_text()
    assert later_version.from_json(text).identity() == stored_identity(path)


@whatever_schema
def test_written_by_todays_version_it_is_still_its_graphs(path, tmp_path):
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    write_manifest(open_artifact(path).manifest, copy)
    OnnxRuntimeBackend.of_artifact(open_artifact(copy), BackendOptions()).close()


def test_a_schema_1_manifest_that_was_edited_is_refused(tmp_path):
    copy = Path(shutil.copytree(ARTIFACTS[0], tmp_path / "copy"))
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"resize": 32', '"resize": 33'))
    with pytest.raises(IncompatibleArtifactError, match="was not exported with this manifest"):
        load(copy, backend="onnxruntime")
