"""Public heads, from a local server that stands for the Hugging Face hub and for GitHub."""

import hashlib
import json
import logging
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import pytest
import torch
from huggingface_hub import constants

from tame_deploy.artifact.manifest import WeightsSource
from tame_deploy.artifact.types import ImageSpec, variant_config
from tame_deploy.errors import DownloadError, InputError
from tame_deploy.model import published_heads
from tame_deploy.model.backbones import Backbone
from tame_deploy.model.network import HeadRequest, build_network
from tame_deploy.model.published_heads import HUB_REPOSITORY, fetch_head
from tests.conftest import TinyNet
from tests.unit.model.test_head import random_head

CHECKPOINT = "checkpoints/vit_b_16_TTAME.ckpt"
SNAPSHOT = "snapshots/vgg16_TAME/epoch_8.pt"
LAYERS = ["stages.1", "stages.2"]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def blob_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does for its repository, and as GitHub does for TAME's."""

    def do_GET(self):
        site, path = self.server.site, urlparse(self.path).path
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        if path == f"/api/models/{HUB_REPOSITORY}" and site.hub:
            files = [{"rfilename": name} for name in site.hub]
            self.answer_json({"id": HUB_REPOSITORY, "sha": site.commit, "siblings": files})
        elif path.startswith(f"/{HUB_REPOSITORY}/resolve/"):
            name = path.split("/resolve/")[1].partition("/")[2]
            etag = {"X-Linked-Etag": f'"{self.announced(name)}"', "X-Repo-Commit": site.commit}
            self.answer(site.hub[name], {"ETag": f'"{self.announced(name)}"', **etag})
        elif path.removeprefix("/bmezaris/TAME/main/") in site.github:
            self.answer(site.github[path.removeprefix("/bmezaris/TAME/main/")], {})
        elif path == "/repos/bmezaris/TAME/contents/snapshots/vgg16_TAME" and site.listed:
            self.answer_json([{"name": "epoch_8.pt", "sha": site.listed, "type": "file"}])
        else:
            self.send_error(404)

    def do_HEAD(self):
        self.do_GET()

    def announced(self, name):
        return self.server.site.announced.get(name) or sha256(self.server.site.hub[name])

    def answer_json(self, value):
        self.answer(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, body, headers):
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if start else 200)
        for name, value in {**headers, "Content-Length": str(len(body) - start)}.items():
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "GET":
            cut = self.server.site.cut if len(body) > 1000 else None
            self.wfile.write(body[start : cut and start + cut])
            self.server.site.cut = None if cut else self.server.site.cut

    def log_message(self, *_):
        pass


class Site:
    """What the server has: files by name, digests unlike theirs, and where it cuts one off."""

    def __init__(self):
        self.hub = {}
        self.announced = {}
        self.github = {}
        self.listed = None
        self.cut = None

    @property
    def commit(self):
        return hashlib.sha1(repr((self.hub, self.announced)).encode()).hexdigest()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub and a GitHub of one's own, with caches of one's own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.requests, httpd.site = [], Site()
        httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        monkeypatch.setenv("HF_ENDPOINT", httpd.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("TAME_DEPLOY_GITHUB", httpd.url + "/")
        monkeypatch.setenv("TAME_DEPLOY_CACHE", str(tmp_path / "cache"))
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A Lightning checkpoint of T-TAME and a snapshot of TAME, both tiny."""
    head = random_head(variant_config("tame", (6, 8), 5))
    path = tmp_path_factory.mktemp("published") / "file"

    def saved(prefix, **beside):
        state = {prefix + name: tensor for name, tensor in head.state_dict().items()}
        torch.save({"state_dict": state, **beside}, path)
        return path.read_bytes()

    trained = {"model_name": "vit_b_16", "layers": LAYERS, "attention_version": "TAME"}
    lightning = {"pytorch-lightning_version": "2.2.0", "hyper_parameters": trained}
    optimizer = torch.optim.SGD(head.parameters(), 0.1).state_dict()
    t_tame = saved("generic.attn_mech.", epoch=7, **lightning)
    return t_tame, saved("attn.", epoch=8, global_counter=9, optimizer=optimizer)


@pytest.fixture
def known(files, monkeypatch):
    """Have the tiny files taken for the published ones."""
    monkeypatch.setitem(published_heads.T_TAME_CHECKPOINTS, "vit_b_16", sha256(files[0]))
    snapshot = (SNAPSHOT.removeprefix("snapshots/"), blob_id(files[1]))
    monkeypatch.setitem(published_heads.TAME_SNAPSHOTS, "vgg16", snapshot)
    return files


def backbone(name):
    image, source = ImageSpec(32, 32, 32), WeightsSource("x")
    return Backbone(name, TinyNet().eval(), image, None, source, task="multiclass")


def warnings_of(caplog):
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("which", ["default", "t-tame"])
@pytest.mark.parametrize("place", ["", "checkpoints/", "a/b/"])
def test_t_tame_is_found_wherever_the_hub_lists_it(server, known, caplog, which, place):
    caplog.set_level(logging.INFO, "tame_deploy")
    name = f"{place}vit_b_16_TTAME.ckpt"
    server.site.hub = {"README.md": b"x", "old_vit_b_16_TTAME.ckpt": b"y", name: known[0]}
    network = build_network(backbone("vit_b_16"), HeadRequest(which))
    assert [feature.layer for feature in network.features] == LAYERS
    assert network.head.config.tokens == "patch"
    licence = "academic, non-commercial use only (T-TAME, CERTH-ITI)"
    assert network.head_source == WeightsSource(
        f"T-TAME {name}", sha256=sha256(known[0]), licence=licence
    )
    said = [one.getMessage() for one in caplog.records if one.name == "tame_deploy"]
    assert said == ["the head of T-TAME is for academic, non-commercial use only"]
    assert not any("old_" in path for _, path, _ in server.requests)


@pytest.mark.parametrize("which", ["default", "tame"])
def test_tame_is_an_ordinary_file_of_github(server, known, caplog, which):
    server.site.github = {SNAPSHOT: known[1]}
    network = build_network(backbone("vgg16"), HeadRequest(which), LAYERS)
    assert network.head_source.source == "TAME vgg16_TAME/epoch_8.pt"
    assert network.head_source.licence == "academic, non-commercial use only (TAME, CERTH-ITI)"
    assert network.head_source.sha256 == sha256(known[1])
    assert warnings_of(caplog) == []
    assert [path for _, path, _ in server.requests] == [f"/bmezaris/TAME/main/{SNAPSHOT}"]
    fetch_head("vgg16", which)
    assert len(server.requests) == 1


@pytest.mark.parametrize("paper", ["tame", "t-tame"])
def test_a_newer_file_is_taken_if_its_site_vouches_for_it_and_said(server, files, caplog, paper):
    server.site.hub = {CHECKPOINT: files[0]}
    server.site.github, server.site.listed = {SNAPSHOT: files[1]}, blob_id(files[1])
    name, data = ("vgg16", files[1]) if paper == "tame" else ("vit_b_16", files[0])
    for _ in range(2):  # also when it comes from the cache
        caplog.clear()
        _, source = fetch_head(name, paper)
        (said,) = warnings_of(caplog)
        assert "not the file that this version of tame-deploy knows but a newer one" in said
        assert source.sha256 == sha256(data)
        assert source.sha256 in said


@pytest.mark.parametrize("paper", ["tame", "t-tame"])
def test_other_bytes_than_the_site_announces_are_thrown_away(server, known, tmp_path, paper):
    changed = [bytes(data[:-1]) + b"!" for data in known]
    server.site.hub = {CHECKPOINT: changed[0]}
    server.site.announced = {CHECKPOINT: sha256(known[0])}
    server.site.github, server.site.listed = {SNAPSHOT: changed[1]}, blob_id(known[1])
    name = "vgg16" if paper == "tame" else "vit_b_16"
    with pytest.raises(DownloadError, match="arrived with .*; it was thrown away") as caught:
        fetch_head(name, paper)
    assert "--head PATH" in str(caught.value)
    assert "\n" not in str(caught.value)
    server.site.hub, server.site.github = {CHECKPOINT: known[0]}, {SNAPSHOT: known[1]}
    path, _ = fetch_head(name, paper)
    assert path.read_bytes() in known


@pytest.mark.parametrize("newer", [False, True])
def test_a_damaged_snapshot_of_the_cache_is_called_so(server, known, files, monkeypatch, newer):
    if newer:
        older = (SNAPSHOT.removeprefix("snapshots/"), "0" * 40)
        monkeypatch.setitem(published_heads.TAME_SNAPSHOTS, "vgg16", older)
    server.site.github, server.site.listed = {SNAPSHOT: files[1]}, blob_id(files[1])
    path, _ = fetch_head("vgg16", "tame")
    server.site.github, server.site.listed = {}, None
    assert fetch_head("vgg16", "tame")[0] == path  # though GitHub cannot be asked any more
    path.write_bytes(files[1][:-1] + b"!")
    with pytest.raises(DownloadError, match="is damaged: git blob id .* remove it, and it") as told:
        fetch_head("vgg16", "tame")
    assert str(told.value).startswith(str(path))


def test_what_github_does_not_list_is_not_taken(server, files):
    server.site.github = {SNAPSHOT: files[1]}
    with pytest.raises(DownloadError, match="expected 3fdd75a50ff1 or what GitHub lists today"):
        fetch_head("vgg16", "tame")


@pytest.mark.parametrize("paper", ["tame", "t-tame"])
def test_an_interrupted_download_is_resumed(server, known, monkeypatch, paper):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)  # the library keeps whole chunks
    server.site.hub, server.site.github = {CHECKPOINT: known[0]}, {SNAPSHOT: known[1]}
    server.site.cut = 700
    name = "vgg16" if paper == "tame" else "vit_b_16"
    with suppress(DownloadError):  # newer libraries of the hub try again by themselves
        fetch_head(name, paper)
    path, _ = fetch_head(name, paper)
    assert path.read_bytes() in known
    assert ("GET", "bytes=700-") in [request[::2] for request in server.requests]


def test_the_hub_is_not_needed_for_what_is_cached(server, known, monkeypatch):
    server.site.hub = {CHECKPOINT: known[0], "checkpoints/resnet50_TTAME.ckpt": b"x"}
    path, source = fetch_head("vit_b_16", "t-tame")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch_head("vit_b_16", "t-tame") == (path, source)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_head("vit_b_16", "t-tame") == (path, source)
    with pytest.raises(DownloadError, match="resnet50_TTAME.ckpt .*HF_HUB_OFFLINE.*--head PATH"):
        fetch_head("resnet50", "t-tame")


@pytest.mark.parametrize("paper", ["tame", "t-tame"])
def test_a_site_that_cannot_be_reached_is_one_line(server, monkeypatch, paper):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("TAME_DEPLOY_GITHUB", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="refused.*Without a network: pass --head") as caught:
        fetch_head("resnet50", paper)
    assert "\n" not in str(caught.value)


def test_what_the_sites_do_not_have_is_one_line(server, known):
    for paper, message in (("tame", "answered 404"), ("t-tame", "cannot download.*404")):
        with pytest.raises(DownloadError, match=message) as caught:
            fetch_head("resnet50", paper)
        assert "\n" not in str(caught.value)
    server.site.hub = {"README.md": b"moved"}
    with pytest.raises(DownloadError, match="has no resnet50_TTAME.ckpt on the .*--head PATH"):
        fetch_head("resnet50", "t-tame")


@pytest.mark.parametrize(
    ("name", "which", "message"),
    [
        (
            "squeezenet1_1",
            "default",
            "no public head for squeezenet1_1 .only for vgg16.*--head PATH",
        ),
        ("squeezenet1_1", "t-tame", "no T-TAME head for squeezenet1_1"),
        (
            "vit_b_16",
            "tame",
            "no TAME head for vit_b_16 .only for vgg16, resnet50.; .*--head t-tame",
        ),
    ],
)
def test_backbones_without_a_public_head(name, which, message):
    with pytest.raises(InputError, match=message):
        fetch_head(name, which)


def test_a_head_of_another_backbone_is_refused(server, files, monkeypatch):
    monkeypatch.setitem(published_heads.T_TAME_CHECKPOINTS, "resnet50", sha256(files[0]))
    server.site.hub = {"resnet50_TTAME.ckpt": files[0]}
    with pytest.raises(InputError, match="trained on vit_b_16, not on resnet50"):
        build_network(backbone("resnet50"), HeadRequest("t-tame"))
    server.site.hub = {CHECKPOINT: files[0]}
    monkeypatch.setitem(published_heads.T_TAME_CHECKPOINTS, "vit_b_16", sha256(files[0]))
    with pytest.raises(InputError, match=r"trained on layers stages\.1, stages\.2, not on"):
        build_network(backbone("vit_b_16"), HeadRequest(), ["stages.0", "stages.2"])
