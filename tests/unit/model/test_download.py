"""Downloads against a real local server: resumed, checked, and explained when they fail."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from tame_deploy.errors import DownloadError
from tame_deploy.files import cache_directory
from tame_deploy.model import pretrained
from tame_deploy.model.download import begins_with_sha256, download, fetch_text, git_blob_id

DATA = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(DATA).hexdigest()
WHOLE = begins_with_sha256(DIGEST)


class Handler(BaseHTTPRequestHandler):
    """Serves DATA everywhere, with ranges unless the path says otherwise."""

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        if self.path == "/missing":
            self.send_error(404)
            return
        start = 0
        if (asked := self.headers.get("Range")) and self.path != "/noranges":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(DATA):
            self.send_error(416)
            return
        body = DATA[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:1000] if self.path == "/cut" else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.requests = []
        httpd.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def test_a_whole_file_with_progress(server, tmp_path):
    seen = []
    target = download(
        f"{server.url}/file", tmp_path / "a" / "file", WHOLE, lambda *p: seen.append(p)
    )
    assert target.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    download(f"{server.url}/file", tmp_path / "file", WHOLE)
    assert server.requests == []


@pytest.mark.parametrize("path", ["/file", "/noranges"])
def test_an_interrupted_download_is_resumed(server, tmp_path, path):
    (tmp_path / "file.part").write_bytes(DATA[:5000])
    assert (
        download(server.url + path, tmp_path / "file", begins_with_sha256(DIGEST[:8])).read_bytes()
        == DATA
    )
    assert server.requests == [(path, "bytes=5000-")]


def test_a_cut_connection_keeps_what_came(server, tmp_path):
    with pytest.raises(DownloadError, match="kept to resume from"):
        download(f"{server.url}/cut", tmp_path / "file", WHOLE)
    assert (tmp_path / "file.part").read_bytes() == DATA[:1000]
    assert not (tmp_path / "file").exists()
    assert download(f"{server.url}/file", tmp_path / "file", WHOLE).read_bytes() == DATA


def test_a_part_that_is_already_whole_counts(server, tmp_path):
    (tmp_path / "file.part").write_bytes(DATA)
    assert download(f"{server.url}/file", tmp_path / "file", WHOLE).read_bytes() == DATA


@pytest.mark.parametrize("start", [b"", b"x" * 100])
def test_other_bytes_are_thrown_away(server, tmp_path, start):
    (tmp_path / "file.part").write_bytes(start)
    expected = "0" * 64 if not start else DIGEST
    with pytest.raises(DownloadError, match="expected .*thrown away"):
        download(f"{server.url}/file", tmp_path / "file", begins_with_sha256(expected))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/missing", "the server answered 404"),
        ("http://127.0.0.1:9/file", "refused"),
        ("file:///etc/passwd", "expected an http or https"),
    ],
)
def test_failures_say_why(server, tmp_path, url, message):
    url = server.url + url if url.startswith("/") else url
    with pytest.raises(DownloadError, match=message) as caught:
        download(url, tmp_path / "file", WHOLE)
    assert "\n" not in str(caught.value)
    with pytest.raises(DownloadError, match=message):
        fetch_text(url)


def test_torchvision_weights_go_where_torch_looks_for_them(server, tmp_path, monkeypatch):
    class Weights:
        url = f"{server.url}/models/net-{DIGEST[:8]}.pth"

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = pretrained.fetch_torchvision(Weights)
    assert path == tmp_path / "checkpoints" / f"net-{DIGEST[:8]}.pth"


def test_offline_says_what_to_pass_instead(tmp_path, monkeypatch):
    class Weights:
        url = f"http://127.0.0.1:9/net-{DIGEST[:8]}.pth"

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DownloadError, match="Without a network: pass --weights PATH"):
        pretrained.fetch_torchvision(Weights)


def test_blob_ids_are_gits(tmp_path):
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert git_blob_id(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("TAME_DEPLOY_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("TAME_DEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "tame-deploy"
