"""The clusters that still run when the interpreter exits."""

from __future__ import annotations

import atexit
from contextlib import suppress
from typing import Protocol

from .errors import StopError

__all__ = ["forget", "running", "stop_at_exit"]


class Stoppable(Protocol):
    """What a cluster is, as far as its end goes."""

    def _clean_up(self) -> None:
        """Stop it, unless this is a fork of the process that started it."""


_running: set[Stoppable] = set()


def stop_at_exit(cluster: Stoppable) -> None:
    """Have a cluster stopped at the interpreter's exit, should it still run then."""
    _running.add(cluster)
    # Anew each time, so that it comes before what launchers have registered meanwhile: tasks are
    # asked to end before their forkserver takes them along.
    atexit.unregister(_stop_all)
    atexit.register(_stop_all)


def forget(cluster: Stoppable) -> None:
    """Take back :func:`stop_at_exit`: the cluster was stopped."""
    _running.discard(cluster)


def running() -> set[Stoppable]:
    """Return what is to be stopped, the set itself."""
    return _running


def _stop_all() -> None:
    for cluster in list(_running):
        with suppress(StopError):
            cluster._clean_up()
