"""What a client accepts: the headers Accept and Accept-Encoding, with their weights."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["preferred_type", "weights"]


def weights(header: str) -> dict[str, float]:
    """Return the weight, 0 to 1, of each name that a header of preferences lists, in its order.

    A weight that is no number is 0: what its client wants cannot be known.
    """
    found = {}
    for part in header.lower().split(","):
        name, *parameters = (one.strip() for one in part.split(";"))
        weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
        if name:
            found[name] = _number(weight)
    return found


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 <= value <= 1 else 0.0


def preferred_type(accept: str, offered: Sequence[str]) -> str:
    """Return which of the media types that are offered a client wants most.

    Of types with the same weight, one that it names comes before one that a range such as `image/*`
    covers, then what it names first. If it accepts none, it gets the first that is offered.
    """
    told = weights(accept)
    order = list(told)

    def rank(kind: str) -> tuple[float, int, int]:
        ranges = (kind, kind.partition("/")[0] + "/*", "*/*")
        found = next((one for one in ranges if one in told), None)
        if found is None:
            return 0.0, 0, 0
        return told[found], -ranges.index(found), -order.index(found)

    return max(offered, key=rank)  # the first of equals
