"""Who belongs to this process: those below it, and those below the guards that others forked."""

from __future__ import annotations

import sys
from contextlib import suppress

import psutil

__all__ = ["below", "guards_elsewhere"]


def guards_elsewhere() -> list[psutil.Process]:
    """Return the guards of this process that are not its children."""
    module = sys.modules.get("pytest_localcluster._launch.shelter")
    if module is None or module._shelter is None:
        return []
    module.hear_of_guards()  # and so wait for who has only forked a hub
    pids = [guard.pid for guard in module._shelter.guards if guard.born]
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if (guard := psutil.Process(pid)).ppid() != psutil.Process().pid:
                found.append(guard)
    return found


def below() -> list[psutil.Process]:
    """Return them, parents before their children."""
    found = psutil.Process().children(recursive=True)
    for guard in guards_elsewhere():
        with suppress(psutil.NoSuchProcess):
            found += [guard, *guard.children(recursive=True)]
    return found
