"""What a task on another machine has of the test process's environment, and what of its node's."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..._core.environment import for_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["environment", "is_of_a_machine"]

_OF_A_MACHINE = {
    "CUDA_VISIBLE_DEVICES",
    "HOME",
    "HOSTNAME",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOGNAME",
    "PATH",
    "PWD",
    "PYTHONHOME",
    "PYTHONPATH",
    "SHELL",
    "TMPDIR",
    "USER",
    "VIRTUAL_ENV",
}
"""What tells of a machine: a task has that of its node, unless the test has set something else."""


def environment(wanted: Mapping[str, str]) -> tuple[dict[str, str], frozenset[str]]:
    """Return a task's environment but for what is left to its node, and what is to be nowhere.

    Args:
        wanted: what the cluster gives to the task.
    """
    environ = for_tasks(loopback=False)
    given = {name: value for name, value in environ.items() if not is_of_a_machine(name)}
    before = _at_first()
    changed = {n for n in {*before, *os.environ} if before.get(n) != os.environ.get(n)}
    given |= {n: os.environ[n] for n in _OF_A_MACHINE & changed if n in os.environ}
    return {**given, **wanted}, frozenset(changed.difference(os.environ, wanted))


def is_of_a_machine(name: str) -> bool:
    """Tell whether a variable tells of a machine, or of Ray's own process there."""
    return name in _OF_A_MACHINE or name.startswith("RAY_")


@cache
def _at_first() -> dict[str, str]:
    """Return what the environment was when this process was started, or, where none tells, now."""
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}
