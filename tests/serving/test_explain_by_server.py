"""`explain` with a server's URL in place of an artifact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import one_line, run
from tests.serving.running import running

pytest.importorskip("tritonclient.grpc")
pytest.importorskip("tritonclient.http")
trustme = pytest.importorskip("trustme")

PICTURES = Path("tame_deploy/data/pictures").absolute()
TOKEN = "a-token-of-this-test-only"


def records_in(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_files_are_explained_as_by_the_artifact_itself(server, demo_export, tmp_path, transport):
    url = f"{server.http}/demo" if transport == "http" else f"grpc://{server.grpc}"
    there, here = tmp_path / "there", tmp_path / "here"
    told = ("--top-k", 2, "--batch-size", 5)
    done = run("explain", url, PICTURES, "-o", there, *told)
    assert f"explained 12 of 12 pictures with demo at {transport}://" in done.stdout
    run("explain", demo_export, PICTURES, "-o", here, *told, "--backend", "onnxruntime")
    for found, expected in zip(records_in(there), records_in(here), strict=True):
        assert found["file"] == expected["file"]
        assert found["top"][0]["name"] == expected["top"][0]["name"]
        overlays = [one["explained"][1]["overlay"] for one in (found, expected)]
        assert overlays[0] == overlays[1]
        drawn = [np.asarray(Image.open(folder / overlays[0]), int) for folder in (there, here)]
        assert np.abs(drawn[0] - drawn[1]).max() <= 8


def test_tokens_and_certificates_are_options(demo_export, tmp_path):
    authority = trustme.CA()
    ours = authority.issue_cert("localhost", "127.0.0.1")
    tokens, ca, cert, key = (tmp_path / name for name in ("tokens", "ca.pem", "c.pem", "k.pem"))
    tokens.write_text(f"# ours\n{TOKEN}\n")
    authority.cert_pem.write_to_path(ca)
    ours.cert_chain_pems[0].write_to_path(cert)
    ours.private_key_pem.write_to_path(key)
    closed = ("--token-file", tokens, "--tls-cert", cert, "--tls-key", key, "--client-ca", ca)
    ring = PICTURES / "ring-1.png"
    with running(
        tmp_path, f"demo={demo_export}", "--backend", "onnxruntime", "--threads", 1, *closed
    ) as server:
        url = f"grpcs://localhost:{server.grpc.rpartition(':')[2]}/demo"
        certificates = ("--tls-ca", ca, "--tls-cert", cert, "--tls-key", key)
        told = ("explain", url, ring, "--no-pictures", "--timeout-s", 30, *certificates)
        run(*told, "--token-file", tokens, "-o", tmp_path / "1")
        assert records_in(tmp_path / "1")[0]["top"][0]["name"] == "ring"
        run(*told, "-o", tmp_path / "2", env={"TAME_DEPLOY_TOKEN": TOKEN})
        assert "bearer token" in one_line(run(*told, "-o", tmp_path / "3", expect=1))
    assert not (tmp_path / "3").exists()
