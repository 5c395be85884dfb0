"""Artifacts that somebody damaged or forged."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest

from tame_deploy import load, open_artifact
from tame_deploy.artifact import file_sha256
from tame_deploy.errors import (
    ArtifactError,
    ChecksumError,
    IncompatibleArtifactError,
    ManifestError,
)
from tame_deploy.runtime.parity import ParityReference


def edit(path, **changes):
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


def listed(path):
    return json.loads((path / "manifest.json").read_text())["files"]


@pytest.mark.parametrize("found", ["nothing", "a file"])
def test_no_artifact(tmp_path, found):
    path = tmp_path / "it"
    if found == "a file":
        path.touch()
    with pytest.raises(ArtifactError, match=f"found {found}. Make one: tame-deploy export"):
        open_artifact(path)


def test_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match="it has no manifest"):
        open_artifact(tmp_path)


def test_manifest_that_is_not_text(demo_copy):
    (demo_copy / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="cannot be read"):
        open_artifact(demo_copy)


def test_manifest_too_large_to_be_one(demo_copy):
    with (demo_copy / "manifest.json").open("w") as stream:
        stream.truncate(17 * 2**20)
    with pytest.raises(ManifestError, match="over 16 MiB"):
        open_artifact(demo_copy)


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "parity.npz"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "a folder"])
def test_damaged_file(demo_copy, name, damage):
    path = demo_copy / name
    data = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "altered":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "a folder":
        path.mkdir()
    with pytest.raises(ChecksumError, match="Export the artifact again"):
        open_artifact(demo_copy)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/../../secret", "..\\secret", "C:secret", "", "x\0y", "a/.."],
)
def test_listed_name_outside_the_artifact(demo_copy, name):
    (demo_copy.parent / "secret").write_text("secret")
    edit(demo_copy, files=listed(demo_copy) | {name: "0" * 64})
    with pytest.raises(ManifestError, match="outside the artifact"):
        open_artifact(demo_copy)


def test_link_out_of_the_artifact(demo_copy):
    secret = demo_copy.parent / "secret"
    shutil.move(demo_copy / "labels.txt", secret)
    (demo_copy / "labels.txt").symlink_to(secret)
    with pytest.raises(ManifestError, match="is a link to"):
        open_artifact(demo_copy)


def test_link_to_itself(demo_copy):
    (demo_copy / "labels.txt").unlink()
    (demo_copy / "labels.txt").symlink_to("labels.txt")
    with pytest.raises(ChecksumError, match="missing"):
        open_artifact(demo_copy)


@pytest.mark.parametrize("name", ["\ud800", "x" * 300])
def test_listed_name_that_no_file_can_have(demo_copy, name):
    edit(demo_copy, files=listed(demo_copy) | {name: "0" * 64})
    with pytest.raises(ChecksumError, match="missing"):
        open_artifact(demo_copy)


def forge(path, name, data):
    """Replace a file, checksum included."""
    (path / name).write_bytes(data)
    edit(path, files=listed(path) | {name: file_sha256(path / name)})


def test_labels_that_are_not_text(demo_copy):
    forge(demo_copy, "labels.txt", b"\xff\xfe")
    with pytest.raises(ManifestError, match="labels.txt cannot be read"):
        load(demo_copy)


def archive(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def damaged_archive():
    data = bytearray(archive(images=np.arange(5000)))
    data[60:80] = b"\xff" * 20
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"not an archive",
        archive(images=np.zeros(3)),
        archive(images=np.array([{"pickled": 1}], dtype=object)),
        archive(**{name: np.zeros(2) for name in ("images", "class_ids", "logits", "maps")}),
        damaged_archive(),
    ],
)
def test_forged_reference(demo_copy, data):
    forge(demo_copy, "parity.npz", data)
    with pytest.raises(ManifestError, match="Export again"):
        ParityReference.load(open_artifact(demo_copy))


def test_reference_that_unpacks_to_more_than_memory(demo_copy):
    with zipfile.ZipFile(demo_copy / "parity.npz", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("images.npy", bytes(1100 * 2**20))
    forge(demo_copy, "parity.npz", (demo_copy / "parity.npz").read_bytes())
    with pytest.raises(ManifestError, match="unpacks to 1100 MiB"):
        ParityReference.load(open_artifact(demo_copy))


def test_newer_artifact(demo_copy):
    edit(demo_copy, schema_version=99)
    with pytest.raises(IncompatibleArtifactError, match="Upgrade"):
        open_artifact(demo_copy)


def test_edited_preprocessing_is_noticed(demo_copy):
    image = json.loads((demo_copy / "manifest.json").read_text())["image"]
    edit(demo_copy, image=image | {"resize": 200})
    with pytest.raises(IncompatibleArtifactError, match="was not exported with this manifest"):
        load(demo_copy)


def test_garbage_graph_with_a_matching_checksum(demo_copy):
    (demo_copy / "model.onnx").write_bytes(b"garbage")
    edit(demo_copy, files=listed(demo_copy) | {"model.onnx": file_sha256(demo_copy / "model.onnx")})
    with pytest.raises(Exception, match="onnxruntime cannot load") as caught:
        load(demo_copy)
    assert "\n" not in str(caught.value)


def test_graph_whose_weights_lie_outside_the_artifact(demo_copy):
    import onnx
    from onnx.external_data_helper import convert_model_to_external_data

    model = onnx.load(demo_copy / "model.onnx")
    convert_model_to_external_data(model, location="outside.bin", size_threshold=0)
    onnx.save(model, demo_copy / "model.onnx")
    shutil.move(demo_copy / "outside.bin", demo_copy.parent / "outside.bin")
    data = (demo_copy / "model.onnx").read_bytes()
    assert data.count(b"outside.bin") > 1
    data = data.replace(b"outside.bin", b"../side.bin")  # same length
    shutil.move(demo_copy.parent / "outside.bin", demo_copy.parent / "side.bin")
    (demo_copy / "model.onnx").write_bytes(data)
    edit(demo_copy, files=listed(demo_copy) | {"model.onnx": file_sha256(demo_copy / "model.onnx")})
    with pytest.raises(Exception, match="onnxruntime cannot load"):
        load(demo_copy)
