"""Who may ask, and by which name: bearer tokens of a file, and names that a server answers to."""

from __future__ import annotations

import functools
import hmac
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tame_deploy.errors import InputError
from tame_deploy.files import read_file
from tame_deploy.serving.faults import Fault, RequestError

__all__ = ["Tokens", "host_check"]

_SHORTEST = 16
_SCHEME = "bearer "
_HOST = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*)\]|(?P<name>[^\[\]:]+))(?::[0-9]*)?"
)


@dataclass(frozen=True)
class Tokens:
    """The tokens that are let in; without any, everybody is."""

    known: tuple[bytes, ...] = ()

    @classmethod
    def of_file(cls, path: str) -> Tokens:
        """Read one token a line; empty lines and those that begin with # are left out.

        Raises:
            InputError: if there is none, or one is shorter than 16 characters.
        """
        lines = [line.strip() for line in read_file(path, "tokens").splitlines()]
        known = tuple(line for line in lines if line and not line.startswith(b"#"))
        if not known:
            raise InputError(f"{path} has no token; expected one a line")
        if min(map(len, known)) < _SHORTEST:
            raise InputError(f"{path} has a token of under {_SHORTEST} characters; make it longer")
        return cls(known)

    def check(self, authorization: str | None) -> None:
        """Check the Authorization header, or gRPC's metadata of that name.

        Raises:
            RequestError: if it holds no token that is known.
        """
        if not self.known:
            return
        given = (authorization or "").encode()
        token = given[len(_SCHEME) :].strip()
        # All of them are compared, each in constant time: how long it takes tells nothing.
        same = [hmac.compare_digest(token, known) for known in self.known]
        if not any(same) or given[: len(_SCHEME)].lower() != _SCHEME.encode():
            raise RequestError(
                "expected a bearer token that this server knows", Fault.UNAUTHENTICATED
            )


def host_check(host: str, allowed: Sequence[str]) -> Callable[[str | None], bool]:
    """Return what says whether a server answers to a request's `Host`.

    A page that was loaded from some name can have that name point to this machine afterwards, and
    then reads what a server here answers (DNS rebinding). Only names can be misused so: addresses
    in numbers, `localhost` and requests without the header are always answered.

    Args:
        host: where the server listens.
        allowed: names that it answers to besides, `*` for any. If there are none, a server on the
            loopback answers to its own name, and one that is open to a network to any.
    """
    names = frozenset(name.lower().rstrip(".") for name in allowed)
    if "*" in names or (not names and not _is_loopback(host)):
        return lambda _: True
    known = names | {"localhost", host.lower()}

    @functools.lru_cache(maxsize=256)
    def is_answered(told: str | None) -> bool:
        name = _name_of(told or "localhost")
        return name is not None and (name in known or _is_address(name))

    return is_answered


def _is_loopback(host: str) -> bool:
    if _is_address(host):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(told: str) -> str | None:
    """Return the name of a Host header, in small letters; None if it is not written as one is.

    An IPv6 address stands in brackets, which nothing but a port may follow.
    """
    found = _HOST.fullmatch(told)
    return found and (found["ipv6"] or found["name"]).lower().rstrip(".")
