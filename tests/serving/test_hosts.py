"""The names that a server answers to: a page in a browser must not reach it by one of its own."""

from __future__ import annotations

import httpx
import pytest

from tame_deploy.errors import InputError
from tame_deploy.serving.access import host_check
from tame_deploy.serving.options import ServeOptions


@pytest.mark.parametrize(
    ("listening", "allowed", "told", "expected"),
    [
        ("127.0.0.1", [], "localhost:8000", True),
        ("127.0.0.1", [], "LocalHost.", True),
        ("127.0.0.1", [], "127.0.0.1:8000", True),
        ("127.0.0.1", [], "10.0.0.7", True),
        ("127.0.0.1", [], "[::1]:8000", True),
        ("::1", [], "[::1]", True),
        ("127.0.0.1", [], None, True),
        ("127.0.0.1", [], "rebound.example.com:8000", False),
        ("127.0.0.1", [], "localhost.example.com", False),
        ("127.0.0.1", [], "127.0.0.1.example.com", False),
        ("127.0.0.1", [], "[rebound.example.com]", False),
        ("127.0.0.1", [], "[::1]rebound.example.com", False),
        ("127.0.0.1", [], "[::1].rebound.example.com:8000", False),
        ("127.0.0.1", [], "[127.0.0.1]rebound.example.com", False),
        ("127.0.0.1", [], "[127.0.0.1]", False),
        ("127.0.0.1", [], "[localhost]", False),
        ("127.0.0.1", [], "[::1%rebound.example.com]", False),
        ("127.0.0.1", [], "[::1]:8000:80", False),
        ("127.0.0.1", [], "localhost:8000.rebound.example.com", False),
        ("127.0.0.1", [], "localhost:rebound", False),
        ("127.0.0.1", [], "127.0.0.1:80@rebound.example.com", False),
        ("127.0.0.1", [], ":8000", False),
        ("localhost", [], "rebound.example.com", False),
        ("127.0.0.1", ["tame.example.com"], "Tame.example.com:80", True),
        ("127.0.0.1", ["tame.example.com"], "localhost", True),
        ("127.0.0.1", ["tame.example.com"], "other.example.com", False),
        ("127.0.0.1", ["*"], "rebound.example.com", True),
        # Who listens to a network is reached by names that only that network knows.
        ("0.0.0.0", [], "pod-7.cluster.local", True),
        ("serving.lan", [], "other.lan", True),
        ("0.0.0.0", ["tame.example.com"], "other.example.com", False),
        ("0.0.0.0", ["tame.example.com"], "10.0.0.7:8000", True),
    ],
)
def test_which_names_are_answered(listening, allowed, told, expected):
    assert host_check(listening, allowed)(told) is expected


def test_a_name_of_somebody_else_is_refused_on_every_path(server):
    for path in ("/", "/v2", "/v2/health/live", "/metrics", "/nowhere"):
        found = httpx.get(server.http + path, headers={"host": "rebound.example.com"})
        assert found.status_code == 421
        assert "'rebound.example.com'" in found.json()["error"]
        assert "--allowed-hosts" in found.json()["error"]


def test_names_can_be_allowed(serve):
    server = serve("--allowed-hosts", "a.example.com, b.example.com", "--allowed-hosts", "c")
    for name in ("a.example.com", "b.example.com", "c", "localhost"):
        assert httpx.get(f"{server.http}/v2", headers={"host": name}).status_code == 200
    assert httpx.get(f"{server.http}/v2", headers={"host": "d"}).status_code == 421


@pytest.mark.parametrize("name", ["http://a.example.com", "a:8000", "", "a b", "*.example.com"])
def test_what_is_no_name_cannot_be_allowed(name):
    with pytest.raises(InputError, match="without scheme and port"):
        ServeOptions(allowed_hosts=(name,))
