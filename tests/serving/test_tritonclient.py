"""Triton's own client, in an environment of its own, finds this server as it finds Triton."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

import tame_deploy
from tame_deploy.picture.preprocess import load_image, prepare
from tests.serving import triton_suite

_PICTURES = Path(tame_deploy.__file__).parent / "data" / "pictures"


def _run(*command: object, timeout_s: float) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=timeout_s)


def _has_client(python: Path) -> bool:
    imports = "import tritonclient.http.aio, tritonclient.grpc.aio"
    return python.exists() and not _run(python, "-c", imports, timeout_s=60).returncode


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _installed(cache: Path) -> Path:
    """Return the python of an environment with the client, made if it is not there."""
    folder, own = cache / "environment", cache / f"of-{os.getpid()}"
    if _has_client(_python(folder)):
        return _python(folder)
    try:
        venv.create(own, with_pip=True, clear=True)
        install = ("-m", "pip", "install", "--quiet", "tritonclient[all]>=2.50", "protobuf<7")
        done = _run(_python(own), *install, timeout_s=200)
        why = done.stderr.strip()[-300:] if done.returncode else ""
    except (subprocess.SubprocessError, OSError) as error:
        why = str(error)
    if why:
        shutil.rmtree(own, ignore_errors=True)
        pytest.skip(f"tritonclient cannot be installed: {why}")
    try:
        own.rename(folder)
    except OSError:  # tests beside these were faster
        shutil.rmtree(own, ignore_errors=True)
    return _python(folder)


@pytest.fixture(scope="module")
def python(request, tmp_path_factory):
    """The python that has Triton's client: of TAME_DEPLOY_TRITONCLIENT, this one, or a new one."""
    told = os.environ.get("TAME_DEPLOY_TRITONCLIENT")
    if told:
        return Path(told)
    if importlib.util.find_spec("tritonclient") and _has_client(Path(sys.executable)):
        return Path(sys.executable)
    cache = request.config.cache
    return _installed(
        Path(cache.mkdir("tritonclient")) if cache else tmp_path_factory.mktemp("tritonclient")
    )


@pytest.fixture(scope="module")
def expected(demo_export, tmp_path_factory):
    """A file with pictures and what the runtime itself makes of them."""
    files = [path.read_bytes() for path in sorted(_PICTURES.glob("*.png"))[:3]]
    found = {}
    with tame_deploy.load(demo_export, backend="onnxruntime", threads=1) as explainer:
        spec = explainer.artifact.manifest.image
        images = np.stack([np.asarray(prepare(load_image(file), spec)) for file in files])
        likeliest, chosen = np.full((3, 1), -1), np.array([[0, 3], [1, 2], [5, 4]])
        for suffix, class_ids in (("", likeliest), ("_chosen", chosen)):
            answer = explainer.backend.run(
                {"images": images, "class_ids": class_ids.astype(np.int64)}
            )
            found |= {name + suffix: array for name, array in answer.items()}
        labels = np.array(explainer.labels)
    # The file is that of the first picture.
    found |= {f"{name}_file": found[name][:1] for name in ("logits", "explained", "maps")}
    path = tmp_path_factory.mktemp("expected") / "expected.npz"
    np.savez(
        path, images=images, labels=labels, encoded=np.frombuffer(files[0], np.uint8),
        broken=np.frombuffer(b"a ring", np.uint8), **found,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def results(server, python, expected):
    """What every check came to, by its name."""
    host, port = server.address
    done = _run(
        python, "-m", triton_suite.__name__, f"{host}:{port}", server.grpc, expected, timeout_s=120
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["check"]: one for one in told}


@pytest.mark.parametrize("name", triton_suite.CHECKS)
def test_tritons_client_is_served(results, name):
    assert results[name]["passed"], results[name]["why"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_perf_analyzer_measures(server, python, expected, tmp_path, protocol):
    analyzer = python.parent / "perf_analyzer"
    if not analyzer.exists():
        pytest.skip("needs perf_analyzer beside the client")
    with np.load(expected) as file:
        rows = file["images"].reshape(len(file["images"]), -1).tolist()
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [{"images": row} for row in rows]}))
    host, port = server.address
    address = f"{host}:{port}" if protocol == "http" else server.grpc
    done = _run(analyzer, "-m", "demo", "-i", protocol, "-u", address, "--request-count", 20,
                "--input-data", data, timeout_s=60)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
