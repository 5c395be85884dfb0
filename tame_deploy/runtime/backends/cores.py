"""How many processors this process may use: of its affinity mask, and of its container's quota.

libtame counts alike (`cpp/src/backends/cores.cpp`): both are held to `tests/golden/cores.json`.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["cpu_quota", "threads_for", "usable_cores", "usable_processors"]

_log = logging.getLogger("tame_deploy")

_PROCESS, _PROCESSORS = Path("/proc/self"), Path("/sys/devices/system/cpu")


def usable_processors() -> int:
    """Return how many processors this process may use, at least 1.

    Hardware threads of one core count each. Part of a processor that a quota allows counts as a
    whole one.
    """
    return _within_quota(len(_affinity()))


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1.

    It is `usable_processors`, but hardware threads of one core count as one: they share what
    multiplies.
    """
    return _within_quota(_count_cores(_affinity(), _PROCESSORS))


def _within_quota(number: int) -> int:
    quota = cpu_quota()
    return number if quota is None else max(1, min(number, math.ceil(quota)))


def threads_for(asked: int | None) -> int | None:
    """Return how many threads a library is told to use for one operation on the CPU.

    Without a number, it is one for each core that this process may use; None where that is the
    whole machine, whose cores every library counts and chooses well by itself. More threads than
    this process has processors are as asked, with a warning: they wait for each other.

    Args:
        asked: for by the user, if anything is.
    """
    usable = usable_processors()
    if asked is None:
        return usable_cores() if usable < (os.cpu_count() or 1) else None
    if asked > usable:
        _warn_once(asked, usable)
    return asked


@functools.cache
def _warn_once(asked: int, usable: int) -> None:
    _log.warning(
        "found threads %d where this process may use %d processor%s; the others wait for each "
        "other, at many times the time: leave threads out, or ask for at most %d",
        asked, usable, "" if usable == 1 else "s", usable,
    )  # fmt: skip


def cpu_quota(process: Path = _PROCESS) -> float | None:
    """Return how many processors' time the process's cgroups allow, of version 1 or 2.

    Args:
        process: the folder of /proc that describes it.

    Returns:
        The least of its own cgroup's and those above it; None if none of them has a limit, or the
        system has no cgroups.
    """
    found = [_limit_of(folder) for folder in _cgroup_folders(process)]
    return min((limit for limit in found if limit is not None), default=None)


def _cgroup_folders(process: Path) -> Iterator[Path]:
    """Yield the folders of the CPU controller that the process is in, from the inmost up."""
    try:
        memberships = (process / "cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (process / "mountinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    paths: dict[str, str] = {}  # of the process, by the kind of file system
    for line in memberships:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            paths["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            paths["cgroup"] = path
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, described = before.split(" "), after.split(" ")
        kind = described[0]
        if kind not in paths or len(fields) < 5:
            continue
        if kind == "cgroup" and "cpu" not in described[-1].split(","):
            continue
        yield from _upwards(Path(_unescaped(fields[4])), _unescaped(fields[3]), paths[kind])


def _upwards(mount: Path, root: str, path: str) -> Iterator[Path]:
    """Yield a cgroup's folder and those above it, as far as a mount of `root` shows them."""
    inner, outer = PurePosixPath(path), PurePosixPath(root)
    # Where the path is told from outside the container, the mount is all that can be seen of it.
    seen = inner.is_relative_to(outer) and ".." not in inner.parts
    folder = mount / inner.relative_to(outer) if seen else mount
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder


def _unescaped(path: str) -> str:
    """Return a path of mountinfo, which writes spaces and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _limit_of(folder: Path) -> float | None:
    """Return a cgroup's own limit, in processors."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        limit = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number either
        return None
    return limit if limit > 0 else None


def _affinity() -> frozenset[int]:
    """Return the numbers of the processors that the process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _count_cores(numbers: frozenset[int], processors: Path) -> int:
    """Return how many cores some processors belong to; `processors` is the folder of /sys."""
    cores = set()
    for number in numbers:
        path = processors / f"cpu{number}" / "topology" / "thread_siblings_list"
        try:
            cores.add(path.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError):
            cores.add(str(number))
    return len(cores)
