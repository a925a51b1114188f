"""Runs in the guard, the forkserver and tasks: whose child is whose, and how a family ends.

On Linux a process can adopt the orphans among its descendants. Each task does, so what it starts is
below it for as long as it lives, whatever sessions and daemons that makes of itself. So does the
forkserver, to which all that falls when the task dies: a child of the forkserver that is no task
is what a dead task has left. And so does the guard, to which all falls when the forkserver dies.
Signals are sent to one's own children only: nobody else can have their numbers before they are
waited for.

Elsewhere there is no such adoption. There a family is the process groups that tasks lead.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_localcluster._clock import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pytest_localcluster._clock import Deadline

__all__ = [
    "ADOPTS",
    "PATIENCE",
    "adopt_orphans",
    "children",
    "die_with_parent",
    "fork",
    "kill",
    "kill_all",
    "kill_group",
    "parent",
    "processes",
    "rename",
    "retitle",
    "watch",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_GET_NAME = 16
_PR_SET_CHILD_SUBREAPER = 36
_prctl: Callable[..., int] | None = (
    ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None
)

ADOPTS = _prctl is not None
"""Whether there is adoption."""

PATIENCE = 30.0
"""How many seconds to wait for what should be dead: some things the kernel does not let die."""


def die_with_parent(dies: bool = True) -> None:
    """Have the kernel kill this process when its parent dies, or take that back."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL if dies else 0)


def fork() -> int:
    """Fork, whatever the filters of warnings say; return the child's pid, 0 in the child.

    Something that was imported may have started a thread. Python warns of that, and from 3.15 on
    a filter that makes the warning an error raises it in the parent, when the child is there.
    """
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return os.fork()


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own. It survives an exec, not a fork."""
    if _prctl is not None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def rename(name: bytes) -> bytes:
    """Change what ``ps`` calls this process, where that can be done; return the former name."""
    if _prctl is None:
        return b""
    former = ctypes.create_string_buffer(16)
    _prctl(_PR_GET_NAME, former)
    _prctl(_PR_SET_NAME, ctypes.create_string_buffer(name))
    return former.value


def retitle(arguments: Sequence[bytes]) -> None:
    """Change the command line of this process, which forks will have too, where that can be done.

    It has room for no more than it was executed with; the last argument is filled up with blanks.
    """
    if _prctl is None:
        return
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    begin, end = int(fields[45]), int(fields[46])  # 48 and 49 of all, as proc(5) counts them
    text = b"\0".join(arguments)
    if begin and len(text) < end - begin:
        ctypes.memmove(begin, text.ljust(end - begin - 1) + b"\0", end - begin)


def children() -> list[int]:
    """Return the children of this process, adopted ones as well; none where none can be adopted."""
    if _prctl is None:
        return []
    own = os.getpid()
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{own}/children").read_bytes().split()]
    except OSError:  # not in every kernel
        return [pid for pid in processes() if parent(pid) == own]


def processes() -> list[int]:
    """Return the pids of all processes; none where there is no /proc."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return []


def parent(pid: int) -> int:
    """Return the pid of a process's parent; 0 if that cannot be had."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(stat.rpartition(b")")[2].split()[1])


def kill(pid: int) -> None:
    """Kill a child, with the process group that it leads."""
    kill_group(pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)  # it may not lead a group


def kill_group(pid: int) -> None:
    """Kill the process group that a child leads or led; its number is taken while one is in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_all(known: Collection[int], deadline: Deadline) -> bool:
    """Kill all descendants of this process, and wait for them; tell whether none is left.

    Args:
        known: children to be killed where others cannot be found.
        deadline: when to give up on what the kernel does not let die.
    """
    left = set(known)

    def nobody() -> bool:
        # Again and again: with each that dies, what it had started becomes a child of ours.
        left.update(children())
        for pid in left:
            kill(pid)
        try:
            while dead := os.waitpid(-1, os.WNOHANG)[0]:
                left.discard(dead)
        except ChildProcessError:
            return True
        return False

    return poll(nobody, deadline, interval=0.001)


def watch(pid: int) -> int | None:
    """Return a descriptor that becomes readable when ``pid`` ends; None where there is no such."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
