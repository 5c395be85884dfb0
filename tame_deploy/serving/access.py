"""Who may ask: bearer tokens of a file, and certificates."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from tame_deploy.errors import InputError
from tame_deploy.files import read_file
from tame_deploy.serving.faults import Fault, RequestError

__all__ = ["Tokens"]

_SHORTEST = 16
_SCHEME = "bearer "


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
