"""What the hub's libraries raise, in one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tame_deploy.errors import DownloadError, InputError, TameError
from tame_deploy.model.backbones.backbone import first_line

__all__ = ["hub_errors"]

#: Names of errors of several libraries, some wrapped in others.
_UNKNOWN = {
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "EntryNotFoundError",
    "HFValidationError",
}
_NOT_IN_CACHE = {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}
_UNREACHABLE = {"ConnectionError", "TransportError", "HfHubHTTPError", "URLError", "TimeoutError"}


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what goes wrong while a model is fetched and built into an error of one line.

    Raises:
        InputError: if there is no such model, or it cannot be built.
        DownloadError: if the hub is not to be reached, or does not give the model out.
    """
    try:
        yield
    except TameError:
        raise
    # Libraries raise what they like, with advice of many lines.
    except Exception as error:
        raise _explained(error, name) from None


def _explained(error: Exception, name: str) -> TameError:
    chain = list(_chain(error))
    kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
    text = " ".join(str(one) for one in chain)
    if "trust_remote_code" in text:
        return InputError(
            f"{name} comes with code of its own, which was not run; read it on the hub, and "
            "pass --trust-remote-code if you trust whoever wrote it"
        )
    if "GatedRepoError" in kinds:
        return DownloadError(
            f"{name} is only given to who accepted its terms on the hub: accept them there, "
            "and log in with `hf auth login`"
        )
    if kinds & _UNKNOWN and not kinds & _NOT_IN_CACHE:
        return InputError(
            f"the hub has no {name}, or not for you; check the name, or log in with "
            "`hf auth login` if it is private"
        )
    if kinds & (_UNREACHABLE | _NOT_IN_CACHE):
        return DownloadError(
            f"cannot download {name}: the hub is not to be reached, or switched off "
            "(HF_HUB_OFFLINE), and the cache lacks a file. Without a network: pass "
            "--weights FILE, or --weights random to measure speed only"
        )
    return InputError(f"cannot build {name}: {first_line(error)}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
