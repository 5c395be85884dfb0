"""Timing in rounds: every round times each candidate once, in an order that is drawn anew."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from candidate import Candidate, Opened
from place import Place, device_free_bytes

_WARM = 4
#: Of the GPU's memory, for candidates that are open at a time; the rest is for what comes and goes.
_SHARE = 0.85


@dataclass
class Seen:
    """A candidate and what is known of it; `reason` says why it could not be had."""

    candidate: Candidate
    reason: str | None = None
    peak_bytes: int | None = None
    taken_bytes: int = 0
    group: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    device_ms: list[float] = field(default_factory=list)
    host_ms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Length:
    """At most `rounds`; fewer, but no less than `least`, where `seconds` are over."""

    rounds: int
    least: int
    seconds: float


def measure(
    candidates: Sequence[Candidate], place: Place, length: Length, tell: Callable[[str], None]
) -> list[Seen]:
    """Return all candidates, timed or with the reason why not.

    Each is first opened alone, which shows what it needs; then as many families as fit into memory
    are opened together and timed interleaved.
    """
    found = [Seen(candidate) for candidate in candidates]
    for seen in found:
        tell(str(seen.candidate))
        _alone(seen, place)
        if seen.reason is not None:
            tell(f"  {seen.reason}")
    groups = _packed([seen for seen in found if seen.reason is None], place.free_bytes())
    for number, group in enumerate(groups, 1):
        tell(f"timing {len(group)} candidates, group {number} of {len(groups)}")
        _together(group, number, place, length)
    return found


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{text:.300}" if text else type(error).__name__


def _alone(seen: Seen, place: Place) -> None:
    """Make a candidate, note what memory it needs, and let go of it again."""
    opened: Opened | None = None
    try:
        seen.candidate.prepare()
        free, held = place.free_bytes(), place.torch_held_bytes()
        opened = seen.candidate.open(place)
        seen.facts = opened.facts
        _warm(opened, place)
        if free is not None:
            if seen.candidate.by_torch:
                seen.peak_bytes = place.torch_peak_bytes(opened.on_device, held)
            # What the caches of torch hold counts here: it must fit beside the others.
            seen.taken_bytes = max(0, free - device_free_bytes())
            if not seen.candidate.by_torch:
                seen.peak_bytes = seen.taken_bytes
    except Exception as error:  # from any library; the run goes on
        seen.reason = _one_line(error)
    finally:
        _close(opened, seen)


def _close(opened: Opened | None, seen: Seen) -> None:
    try:
        if opened is not None:
            opened.close()
    except Exception as error:
        seen.reason = seen.reason or _one_line(error)


def _warm(opened: Opened, place: Place) -> None:
    """Call it until what is compiled, chosen or captured on the way is there."""
    for call in (opened.on_device, opened.from_host):
        for _ in range(_WARM):
            call()
        place.synchronize()


def _packed(found: list[Seen], free: int | None) -> list[list[Seen]]:
    """Return groups that fit into memory at once; a family stays together."""
    families: dict[tuple[str, str], list[Seen]] = {}
    for seen in found:
        families.setdefault(seen.candidate.family, []).append(seen)
    groups: list[tuple[int, list[Seen]]] = []
    for family in families.values():
        needed = sum(seen.taken_bytes for seen in family)
        for place_of, (left, group) in enumerate(groups):
            if free is None or needed <= left:
                group.extend(family)
                groups[place_of] = (left - needed, group)
                break
        else:
            groups.append((int((free or 0) * _SHARE) - needed, list(family)))
    return [group for _, group in groups]


def _together(group: list[Seen], number: int, place: Place, length: Length) -> None:
    """Time a group's candidates in rounds."""
    place.free_bytes()  # gives back what closed candidates left in torch's cache
    opened: list[tuple[Seen, Opened]] = []
    try:
        for seen in group:
            seen.group = number
            try:
                one = seen.candidate.open(place)
                opened.append((seen, one))
                _warm(one, place)
            except Exception as error:
                seen.reason = _one_line(error)
        _rounds(opened, place, length)
    finally:
        for seen, one in opened:
            _close(one, seen)


def _rounds(opened: list[tuple[Seen, Opened]], place: Place, length: Length) -> None:
    end = time.perf_counter() + length.seconds
    for number in range(length.rounds):
        if number >= length.least and time.perf_counter() > end:
            break
        for seen, one in random.sample(opened, len(opened)):
            if seen.reason is not None:
                continue
            try:
                device_ms, host_ms = _once(one, place)
            except Exception as error:
                seen.reason = _one_line(error)
                continue
            seen.device_ms.append(device_ms)
            seen.host_ms.append(host_ms)


def _once(one: Opened, place: Place) -> tuple[float, float]:
    """Time both calls; an untimed one before each leaves nobody with a rival's cold caches."""
    times = []
    for clock, call in ((place.device_ms, one.on_device), (place.host_ms, one.from_host)):
        call()
        place.synchronize()
        times.append(clock(call))
        place.synchronize()
    return times[0], times[1]


def rows_of(found: Sequence[Seen], batch: int) -> list[dict[str, Any]]:
    """Return what is written down of each candidate."""
    plain = {
        seen.candidate.family: seen
        for seen in found
        if seen.candidate.name == "plain" and seen.reason is None
    }
    return [_row(seen, plain.get(seen.candidate.family), batch) for seen in found]


def _row(seen: Seen, plain: Seen | None, batch: int) -> dict[str, Any]:
    candidate = seen.candidate
    named = {
        "backend": candidate.backend,
        "precision": candidate.precision,
        "candidate": candidate.name,
    }
    if seen.reason is not None:
        return {**named, "reason": seen.reason}
    row: dict[str, Any] = {
        **named,
        "group": seen.group,
        "rounds": len(seen.device_ms),
        "peak_bytes": seen.peak_bytes,
        "memory_by": "torch.cuda" if candidate.by_torch else "cudaMemGetInfo",
        **{name: value for name, value in seen.facts.items() if value is not None},
    }
    for copies, times, below in (
        ("without_copies", seen.device_ms, plain and plain.device_ms),
        ("with_copies", seen.host_ms, plain and plain.host_ms),
    ):
        p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
        row[copies] = {
            "p50_ms": p50,
            "p90_ms": p90,
            "p99_ms": p99,
            "pictures_per_s": batch * 1e3 / p50,
            "over_plain": _ratio(times, below) if below else None,
        }
    return row


def _ratio(above: list[float], below: list[float]) -> dict[str, Any]:
    """Return the ratio of medians, with the quartiles of the rounds' own ratios."""
    count = min(len(above), len(below))
    ratios = np.asarray(above[:count]) / np.asarray(below[:count])
    low, high = (float(value) for value in np.percentile(ratios, (25, 75)))
    return {"ratio": float(np.median(above) / np.median(below)), "quartiles": [low, high]}
