"""What the hub's libraries raise becomes one line that says what to do."""

import socket
import urllib.request
from contextlib import suppress

import pytest

from tame_deploy.errors import BuildError, DownloadError, InputError
from tame_deploy.model.backbones import hub
from tame_deploy.model.backbones.hub import hub_errors, offline_if_refused

constants = pytest.importorskip("huggingface_hub.constants")
errors = pytest.importorskip("huggingface_hub.errors")
httpx = pytest.importorskip("httpx")

ANSWER = httpx.Response(404, request=httpx.Request("GET", "http://hub/model"))


def wrapped(inner):
    """As transformers wraps an error: in an OSError of many lines."""
    try:
        raise OSError("a b c\nlong advice\nmore advice") from inner
    except OSError as error:
        return error


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (errors.RepositoryNotFoundError("no\nsuch", response=ANSWER), InputError, "hub has no"),
        (errors.GatedRepoError("gated\n", response=ANSWER), DownloadError, "accepted its terms"),
        (errors.HfHubHTTPError("sick\n", response=ANSWER), DownloadError, "not to be reached"),
        (errors.LocalEntryNotFoundError("not in\ncache"), DownloadError, "HF_HUB_OFFLINE"),
        (errors.OfflineModeIsEnabled("off"), DownloadError, "name their folder: hf:FOLDER"),
        (ConnectionError("refused"), DownloadError, "not to be reached"),
        (httpx.ConnectError("refused"), DownloadError, "not to be reached"),
        (ValueError("pass trust_remote_code=True"), InputError, "--trust-remote-code"),
        (RuntimeError("boom\nand advice"), InputError, "cannot build hf:a/b: "),
    ],
)  # fmt: skip
def test_every_failure_is_one_line(raised, kind, message):
    for error in (raised, wrapped(raised)):
        with pytest.raises(kind) as caught, hub_errors("hf:a/b"):
            raise error
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_errors_of_ones_own_pass():
    with pytest.raises(BuildError, match="^mine$"), hub_errors("hf:a/b"):
        raise BuildError("mine")


@pytest.fixture
def listening(monkeypatch):
    """Yield a socket that listens, and is the hub; without proxies."""
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(hub.time, "sleep", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


def test_a_host_that_refuses_is_not_asked_again_and_again(listening):
    with offline_if_refused():
        assert not constants.HF_HUB_OFFLINE
    listening.close()
    with suppress(KeyError), offline_if_refused():
        assert constants.HF_HUB_OFFLINE
        raise KeyError
    assert not constants.HF_HUB_OFFLINE


def test_what_is_slow_or_behind_a_proxy_is_left_to_the_library(listening, monkeypatch):
    listening.close()
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"http": "http://proxy:3128"})
    with offline_if_refused():
        assert not constants.HF_HUB_OFFLINE

    def slow(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", slow)
    with offline_if_refused():
        assert not constants.HF_HUB_OFFLINE
