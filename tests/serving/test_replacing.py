"""An artifact that is replaced under a running server."""

from __future__ import annotations

import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving.clients import PICTURE, explain
from tests.serving.raw_http import head, read_answer
from tests.serving.running import PLAIN, eventually, running

EXPLAIN = "/v2/models/demo/explain?maps=none"


class Replaced:
    """A server, and the artifact that it serves."""

    def __init__(self, server, path, good):
        self.server, self.path, self._good, self._number = server, path, good, 0

    def loads(self, outcome="ok"):
        return self.server.metric(f'tame_model_loads_total{{model="demo",outcome="{outcome}"}}')

    def replace(self, spoil=lambda _: None):
        """Put another artifact in the place of the one that is served."""
        self._number += 1
        fresh = self.path.with_name(f"fresh-{self._number}")
        shutil.copytree(self._good, fresh)
        spoil(fresh)
        (fresh / "manifest.json").touch()
        self.path.rename(self.path.with_name(f"old-{self._number}"))
        fresh.rename(self.path)

    def replace_and_wait(self):
        before = self.loads()
        self.replace()
        eventually(lambda: self.loads() > before, "the new artifact")


@pytest.fixture(scope="module")
def replaced(demo_export, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replaced")
    served = folder / "demo"
    shutil.copytree(demo_export, served)
    with running(folder, served, *PLAIN, "--reload-s", 0.1) as server:
        yield Replaced(server, served, demo_export)


def test_no_request_fails_meanwhile(replaced):
    stop, statuses = threading.Event(), []

    def ask():
        while not stop.is_set():
            statuses.append(explain(replaced.server.http, timeout=30).status_code)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for _ in range(2):
                replaced.replace_and_wait()
        finally:
            stop.set()
        for one in asking:
            one.result()
    assert len(statuses) > 5
    assert set(statuses) == {200}


def test_a_body_that_comes_meanwhile_is_answered(replaced):
    sizes = {"content-length": len(PICTURE)}
    with socket.create_connection(replaced.server.address, timeout=20) as half:
        half.sendall(head("POST", EXPLAIN, sizes) + PICTURE[:9])
        # Twice: the first of the new ones has been closed by then, and the old one long before.
        replaced.replace_and_wait()
        replaced.replace_and_wait()
        half.sendall(PICTURE[9:])
        assert read_answer(half).status == 200


def test_a_broken_one_leaves_the_old_one_answering(replaced):
    def cut_off(folder):
        graph = folder / "model.onnx"
        graph.write_bytes(graph.read_bytes()[:-1])

    server = replaced.server
    replaced.replace(cut_off)
    eventually(lambda: replaced.loads("failed") == 1, "the failure")
    server.wait_until_said("the new artifact is not taken")
    assert explain(server.http).status_code == 200
    index = httpx.post(f"{server.http}/v2/repository/index").json()[0]
    assert index["state"] == "READY"
    assert "cannot be opened" in index["reason"]
    assert str(replaced.path) not in index["reason"]
    replaced.replace_and_wait()
    assert httpx.post(f"{server.http}/v2/repository/index").json()[0]["reason"] == ""


def test_a_deleted_one_answers_from_memory_and_says_so(replaced):
    server, aside = replaced.server, replaced.path.with_name("aside")
    loads = replaced.loads()

    def index():
        return httpx.post(f"{server.http}/v2/repository/index").json()[0]

    replaced.path.rename(aside)
    eventually(lambda: "gone from disk" in index()["reason"], "the reason")
    assert index()["state"] == "READY"
    assert explain(server.http).status_code == 200
    server.wait_until_said("gone from disk")
    aside.rename(replaced.path)
    eventually(lambda: not index()["reason"], "its being back")
    assert replaced.loads() == loads
