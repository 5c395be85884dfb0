"""What can be wrong with a request, as both transports say it."""

from __future__ import annotations

from enum import Enum

from tame_deploy.errors import TameError

__all__ = ["Fault", "RequestError"]


class Fault(Enum):
    """Whose fault it is: the HTTP status, and the name of gRPC's status code."""

    INVALID = (400, "INVALID_ARGUMENT")
    UNAUTHENTICATED = (401, "UNAUTHENTICATED")
    NOT_FOUND = (404, "NOT_FOUND")
    WRONG_METHOD = (405, "UNIMPLEMENTED")
    SLOW = (408, "DEADLINE_EXCEEDED")
    TOO_LARGE = (413, "RESOURCE_EXHAUSTED")
    UNKNOWN_ENCODING = (415, "INVALID_ARGUMENT")
    MISDIRECTED = (421, "PERMISSION_DENIED")
    CANCELLED = (499, "CANCELLED")
    INTERNAL = (500, "INTERNAL")
    UNIMPLEMENTED = (501, "UNIMPLEMENTED")
    UNAVAILABLE = (503, "UNAVAILABLE")
    DEADLINE = (504, "DEADLINE_EXCEEDED")

    @property
    def status(self) -> int:
        """HTTP's number."""
        return self.value[0]

    @property
    def code(self) -> str:
        """Name in `grpc.StatusCode`."""
        return self.value[1]


class RequestError(TameError):
    """A request that is not answered; its message goes to the client, so it names no path."""

    def __init__(self, message: str, fault: Fault = Fault.INVALID) -> None:
        super().__init__(message)
        self.fault = fault
