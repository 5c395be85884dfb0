"""libtame holds graphs of lower precision to their reference, and shares Python's verdicts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from tame_deploy.artifact.directory import file_sha256, open_artifact, write_manifest
from tame_deploy.errors import ParityError
from tame_deploy.runtime.backends.protocol import BackendOptions
from tame_deploy.runtime.backends.table import backend_spec
from tame_deploy.runtime.selection.selection import open_backend
from tame_deploy.runtime.verify.reference import ParityReference
from tame_deploy.runtime.verify.trust import describe_here
from tests.cpp.test_runtime import answers

OPTIONS = BackendOptions(threads=1)


@pytest.fixture(params=["onnxruntime", "openvino"])
def name(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Return where verdicts are kept."""
    monkeypatch.setenv("TAME_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "verdicts"


@pytest.fixture
def half(demo_copy, kept):
    """Return an artifact that passes for one of lower precision, whose graph is the float32 one."""
    manifest = replace(open_artifact(demo_copy).manifest, precision="fp16").with_identity()
    model = onnx.load(demo_copy / "model.onnx")
    for entry in model.metadata_props:
        if entry.key == "tame.manifest":
            entry.value = manifest.identity()
    onnx.save(model, demo_copy / "model.onnx")
    return listed(demo_copy, manifest)


def listed(folder, manifest):
    files = {name: file_sha256(folder / name) for name in manifest.files}
    write_manifest(replace(manifest, files=files), folder)
    return folder


def opened(folder, name):
    (said,) = answers({"open": str(folder), "backend": name})
    return said


def described(folder, name):
    return describe_here(open_artifact(folder), backend_spec(name, OPTIONS), OPTIONS)


def spoil_reference(folder):
    """Turn the reference's maps upside down, as if every backend had."""
    artifact = open_artifact(folder)
    reference = ParityReference.load(artifact)
    replace(reference, maps=reference.maps[:, :, ::-1].copy()).save(folder / "parity.npz")
    listed(folder, artifact.manifest)


def test_what_libtame_verified_is_verified_for_python(half, kept, name):
    assert described(half, name) == "not yet verified here"
    assert opened(half, name)["status"] == "OK"
    assert described(half, name).startswith("verified here: logits off by 0.0")
    (path,) = kept.iterdir()
    before = path.stat().st_mtime_ns
    open_backend(open_artifact(half), name, OPTIONS).close()
    assert opened(half, name)["status"] == "OK"
    assert (list(kept.iterdir()), path.stat().st_mtime_ns) == ([path], before)


def test_what_python_refused_is_refused_in_the_same_words(half, kept, name):
    spoil_reference(half)
    with pytest.raises(ParityError) as told:
        open_backend(open_artifact(half), name, OPTIONS)
    said = opened(half, name)
    assert said == {"status": "ParityError", "message": str(told.value)}


def test_what_libtame_refused_is_refused_in_the_same_words(half, kept, name):
    spoil_reference(half)
    said = opened(half, name)
    assert said["status"] == "ParityError"
    (path,) = kept.iterdir()
    measured = json.loads(path.read_text())["deviation"]
    with pytest.raises(ParityError) as told:
        open_backend(open_artifact(half), name, OPTIONS)
    assert str(told.value) == said["message"]
    with pytest.raises(ParityError):
        open_backend(open_artifact(half), name, OPTIONS, anew=True)
    again = json.loads(path.read_text())["deviation"]
    assert measured == pytest.approx(again, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("damage", ["", "[]", '{"about": 3}', "{" * 100_000])
def test_a_damaged_verdict_is_measured_again(half, kept, damage):
    opened(half, "onnxruntime")
    (path,) = kept.iterdir()
    whole = path.read_text()
    path.write_text(damage)
    assert opened(half, "onnxruntime")["status"] == "OK"
    assert json.loads(path.read_text()) == json.loads(whole)


def test_without_a_cache_it_is_measured_each_time(half, kept):
    kept.parent.mkdir()
    kept.write_text("in the way")
    assert opened(half, "onnxruntime")["status"] == "OK"
    spoil_reference(half)
    assert opened(half, "onnxruntime")["status"] == "ParityError"


def arrays(**changes):
    def change(folder):
        with np.load(folder / "parity.npz") as stored:
            found = {name: stored[name] for name in stored.files} | changes
        np.savez_compressed(
            folder / "parity.npz",
            **{name: value for name, value in found.items() if value is not None},
        )

    return change


def bytes_of(text):
    return lambda folder: (folder / "parity.npz").write_bytes(text)


@pytest.mark.parametrize(
    "spoil",
    [
        bytes_of(b""),
        bytes_of(b"PK\5\6" + b"\0" * 18),
        bytes_of(b"no archive at all"),
        arrays(maps=None),
        arrays(maps=np.zeros((1, 1, 2, 2), np.float32)),
        arrays(logits=np.zeros((4, 6))),
        arrays(class_ids=np.full((4, 1), 99, np.int64)),
        arrays(images=np.array([{}])),
    ],
)
def test_a_reference_that_cannot_be_read_is_an_error_in_both(half, kept, spoil):
    manifest = open_artifact(half).manifest
    spoil(half)
    listed(half, manifest)
    said = opened(half, "onnxruntime")
    assert said["status"] == "ManifestError"
    assert str(half / "parity.npz") in said["message"]
    assert said["message"].endswith("Export again")
    with pytest.raises(Exception, match="parity.npz .*Export again"):
        open_backend(open_artifact(half), "onnxruntime", OPTIONS)
