"""What the hub's libraries raise becomes one line that says what to do."""

import pytest

from tame_deploy.errors import BuildError, DownloadError, InputError
from tame_deploy.model.backbones.hub import hub_errors

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
        (errors.OfflineModeIsEnabled("off"), DownloadError, "--weights random"),
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
