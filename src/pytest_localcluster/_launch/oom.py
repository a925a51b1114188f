"""Whether the kernel has ended processes for want of memory: what it counts, where it tells."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from .._clock import Deadline

__all__ = ["OomCounts", "counts", "counts_lately", "risen"]

OomCounts = dict[str, int]
"""The file that holds a count of such kills, and what it said."""

_COUNT = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
_CGROUPS = Path("/sys/fs/cgroup")


def counts() -> OomCounts:
    """Return what the kernel has counted up to now; nothing where it tells nobody."""
    found = {}
    for path in _files():
        try:
            match = _COUNT.search(Path(path).read_bytes())
        except OSError:
            continue
        if match is not None:
            found[path] = int(match[1])
    return found


def counts_lately() -> OomCounts:
    """Return :func:`counts` of the last moments: tasks that start together need it only once."""
    global _lately
    if _lately is None or _lately[0].expired():
        _lately = Deadline(0.2), counts()
    return _lately[1]


_lately: tuple[Deadline, OomCounts] | None = None


def risen(before: OomCounts) -> str:
    """Return what tells that there was such a kill since ``before``; "" if nothing does."""
    grown = [
        f"oom_kill in {path} went from {before[path]} to {count}"
        for path, count in counts().items()
        if path in before and count > before[path]
    ]
    return ", ".join(grown)


@cache
def _files() -> tuple[str, ...]:
    """Return the counts of this process's control group, of either version, and the machine's."""
    found = []
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found.append(_CGROUPS / path.lstrip("/") / "memory.events")
        elif controllers == "memory":
            found.append(_CGROUPS / "memory" / path.lstrip("/") / "memory.oom_control")
    return (*(str(path) for path in found if path.exists()), "/proc/vmstat")
