"""Events of the clusters of this process, for a recorder of timelines.

There is none without ``--cluster-timeline``; an event then costs a look at one name. A native task
records its steps itself, see :mod:`pytest_localcluster._ring`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

__all__ = ["Recorder", "Stepped", "follow", "record", "recorder", "tell"]


class Stepped(Protocol):
    """A step that a session of this process runs.

    Attributes:
        step_id: what its master calls it, once that is known.
    """

    step_id: int


class Recorder(Protocol):
    """Records events. ``server`` is always the handle of a task."""

    def launching(self, server: Any) -> str:
        """Learn that a task is about to be launched; return the file for what it notes itself."""

    def happened(self, server: Any, what: str, name: str) -> None:
        """Learn of something that happens to a task just now."""

    def called(self, server: Any, name: str, began: int, result: Future[Any]) -> None:
        """Record a call of a function, sent at ``began``, in ns of the monotonic clock."""

    def stepping(self, target: str, name: str) -> AbstractContextManager[Stepped]:
        """Learn that a session runs a step, for the length of a block."""

    def inflicted(self, cluster: Any, fault: Any, tasks: Collection[Any]) -> None:
        """Learn that a fault is in force from now on."""

    def healed(self, faults: Collection[Any]) -> None:
        """Learn that faults are in force no more."""


_current: Recorder | None = None
_watched_forks = False


def recorder() -> Recorder | None:
    """Return who records now."""
    return _current


def record(new: Recorder | None) -> Recorder | None:
    """Let ``new`` record from now on; return who did until now, to be put back later."""
    global _current, _watched_forks
    previous, _current = _current, new
    if new is not None and not _watched_forks:
        # A fork has neither the recorder's thread nor, it may be, a lock that somebody will open.
        _watched_forks = True
        os.register_at_fork(after_in_child=_forget)
    return previous


def _forget() -> None:
    global _current
    _current = None


def tell(server: Any, what: str, name: str = "") -> None:
    """Record an event of a task, which happens now."""
    if _current is not None:
        _current.happened(server, what, name)


def follow(server: Any, function: Any, began: int, result: Future[Any]) -> None:
    """Record a call of a function, sent at ``began``, in ns of the monotonic clock."""
    if _current is not None:
        name = str(getattr(function, "__qualname__", function))
        _current.called(server, name, began, result)
