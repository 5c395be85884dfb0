"""What the hub's libraries raise, in one line that says what to do, and soon."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tame_deploy.errors import DownloadError, InputError, TameError
from tame_deploy.model.backbones.backbone import first_line

__all__ = ["hub_errors", "offline_if_refused"]

#: A host that answers later than that is slow, and left to the hub's library.
_SLOW_S = 3

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


@contextmanager
def offline_if_refused() -> Iterator[None]:
    """Keep the hub's library to its cache, if the hub's host refuses the connection or has no name.

    The library would try five times more, over 23 seconds for each file. What lies behind a proxy,
    or is slow, is left to it.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or _refuses(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _refuses(endpoint: str) -> bool:
    """Whether a host cannot be connected to at once, twice a second apart."""
    address = urlsplit(endpoint)
    if {address.scheme, "all"} & urllib.request.getproxies().keys() or not address.hostname:
        return False
    place = (address.hostname, address.port or (80 if address.scheme == "http" else 443))
    for pause in (0, 1):
        time.sleep(pause)
        try:
            socket.create_connection(place, timeout=_SLOW_S).close()
        except TimeoutError:
            return False
        except OSError:
            continue
        return False
    return True


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
        instead = "pass --weights FILE, or --weights random to measure speed only"
        if name.startswith("hf:"):  # of which the configuration is needed in any case
            instead = "bring the model's files, and name their folder: hf:FOLDER"
        return DownloadError(
            f"cannot download {name}: the hub is not to be reached, or switched off "
            f"(HF_HUB_OFFLINE), and the cache lacks a file. Without a network: {instead}"
        )
    return InputError(f"cannot build {name}: {first_line(error)}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
