"""Artifacts appear whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tame_deploy.artifact.directory import create_artifact, open_artifact
from tame_deploy.errors import ArtifactError
from tests.unit.artifact.test_manifest import EXAMPLE


def fill(staging: Path, content: str = "graph") -> None:
    (staging / "model.onnx").write_text(content)
    (staging / "labels.txt").write_text("\n".join("abcdefghij") + "\n")
    (staging / "manifest.json").write_text(with_checksums(staging))


def with_checksums(directory: Path) -> str:
    from tame_deploy.artifact.directory import file_sha256

    files = {name: file_sha256(directory / name) for name in ("model.onnx", "labels.txt")}
    return json.dumps(json.loads(EXAMPLE.to_json()) | {"files": files})


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_written_can_be_opened(tmp_path):
    with create_artifact(tmp_path / "deep" / "it") as staging:
        fill(staging)
    artifact = open_artifact(tmp_path / "deep" / "it")
    assert artifact.read_labels() == tuple("abcdefghij")
    assert artifact.model.read_text() == "graph"
    assert names(artifact.path) == ["labels.txt", "manifest.json", "model.onnx"]


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), create_artifact(tmp_path / "it") as staging:
        (staging / "model.onnx").write_text(str(1 / 0))
    assert names(tmp_path) == []


def test_an_artifact_that_is_there_needs_overwrite(tmp_path):
    for overwrite, content in ((False, "first"), (True, "second")):
        with create_artifact(tmp_path / "it", overwrite=overwrite) as staging:
            fill(staging, content)
    assert open_artifact(tmp_path / "it").model.read_text() == "second"
    assert names(tmp_path) == ["it"]
    with pytest.raises(ArtifactError, match="--overwrite"), create_artifact(tmp_path / "it"):
        pass


def test_a_failed_replacement_keeps_what_was_there(tmp_path):
    with create_artifact(tmp_path / "it") as staging:
        fill(staging, "first")
    with pytest.raises(RuntimeError), create_artifact(tmp_path / "it", overwrite=True):
        raise RuntimeError
    assert open_artifact(tmp_path / "it").model.read_text() == "first"


def test_a_folder_that_is_no_artifact_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "wedding.jpg").touch()
    refused = pytest.raises(ArtifactError, match="never replaced")
    with refused, create_artifact(tmp_path / "photos", overwrite=True):
        pass
    assert names(tmp_path / "photos") == ["wedding.jpg"]


def test_a_users_files_in_an_artifact_are_not_lost(tmp_path):
    with create_artifact(tmp_path / "it") as staging:
        fill(staging)
    (tmp_path / "it" / "notes.txt").touch()
    refused = pytest.raises(ArtifactError, match="holds notes.txt, no part of the artifact")
    with refused, create_artifact(tmp_path / "it", overwrite=True):
        pass
    assert (tmp_path / "it" / "notes.txt").exists()


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "it").touch()
    with pytest.raises(ArtifactError, match="not a directory"), create_artifact(tmp_path / "it"):
        pass


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "it").mkdir()
    with create_artifact(tmp_path / "it") as staging:
        fill(staging)
    open_artifact(tmp_path / "it")


@pytest.mark.parametrize("place", ["/proc/it", "/dev/null/it", "x" * 300])
def test_a_place_that_cannot_be_written_is_one_line(place):
    with pytest.raises(ArtifactError, match="cannot write|not a directory"), create_artifact(place):
        pass
    with pytest.raises(ArtifactError):
        open_artifact(place)


def test_an_empty_path_is_not_the_working_directory(tmp_path, monkeypatch):
    with create_artifact(tmp_path / "it") as staging:
        fill(staging)
    monkeypatch.chdir(tmp_path / "it")
    with pytest.raises(ArtifactError, match="^found an empty path; expected the directory of an"):
        open_artifact("")
    open_artifact(".")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    # /dev/full answers every write with "no space left", as a full disk does.
    explained = pytest.raises(ArtifactError, match="No space left")
    with explained, create_artifact(tmp_path / "it"), open("/dev/full", "w") as full:
        full.write("x" * 10_000_000)
    assert names(tmp_path) == []


def test_a_kill_leaves_no_artifact_and_the_next_export_cleans_up(tmp_path):
    code = (
        "import sys, time; from tame_deploy.artifact.directory import create_artifact\n"
        "with create_artifact(sys.argv[1]) as staging:\n"
        "    (staging / 'model.onnx').write_text('half'); print('ready', flush=True)\n"
        "    time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "it")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "it").exists()
    assert len(names(tmp_path)) == 1
    with create_artifact(tmp_path / "it") as staging:
        fill(staging)
    assert names(tmp_path) == ["it"]


def test_of_two_exports_at_once_the_later_is_refused(tmp_path):
    refused = pytest.raises(ArtifactError, match="pass --overwrite")
    with refused, create_artifact(tmp_path / "it") as first:
        with create_artifact(tmp_path / "it") as second:
            fill(second, "second")
        assert first.exists()
        fill(first)
    assert open_artifact(tmp_path / "it").model.read_text() == "second"
    assert names(tmp_path) == ["it"]


def test_files_that_came_meanwhile_are_not_lost(tmp_path):
    refused = pytest.raises(ArtifactError, match="never replaced")
    with refused, create_artifact(tmp_path / "it", overwrite=True) as staging:
        fill(staging)
        (tmp_path / "it").mkdir()
        (tmp_path / "it" / "wedding.jpg").touch()
    assert names(tmp_path / "it") == ["wedding.jpg"]


def test_the_working_directory_may_become_the_artifact(tmp_path, monkeypatch):
    (tmp_path / "it").mkdir()
    monkeypatch.chdir(tmp_path / "it")
    with create_artifact(".") as staging:
        fill(staging)
    open_artifact(tmp_path / "it")


def test_a_kill_between_the_two_renames_is_mended(tmp_path):
    with create_artifact(tmp_path / "it") as staging:
        fill(staging, "first")
    (tmp_path / "it").rename(tmp_path / ".it.replaced")  # where such a kill leaves it
    with pytest.raises(RuntimeError), create_artifact(tmp_path / "it", overwrite=True):
        raise RuntimeError
    assert open_artifact(tmp_path / "it").model.read_text() == "first"


def test_labels_must_be_one_a_class(tmp_path):
    with create_artifact(tmp_path / "it") as staging:
        (staging / "model.onnx").touch()
        (staging / "labels.txt").write_text("only one\n")
        (staging / "manifest.json").write_text(with_checksums(staging))
    with pytest.raises(ArtifactError, match="has 1 lines; expected one for each of the 10"):
        open_artifact(tmp_path / "it").read_labels()
