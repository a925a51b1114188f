"""Who is told of every cluster that starts and stops in this process: the pytest plugin.

It is a room of its own, so that the plugin can listen without importing what a cluster needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from ._cluster import LocalCluster
    from ._config import ClusterConfig

__all__ = ["Debugging", "Observer", "observe", "observer"]


class Debugging(Protocol):
    """What is asked, and told, of breakpoints in tasks."""

    def refusal(self) -> str:
        """Return why tasks have no terminal; "" if they may ask for one."""

    def prompting(self) -> None:
        """Learn that a task is about to prompt at the terminal."""

    def resumed(self, how: str) -> None:
        """Learn that it goes on: by a ``"step"``, ``"continue"`` or ``"quit"``."""


class Observer(Protocol):
    """What a cluster tells of itself, and asks."""

    def log_dir(self, cluster: LocalCluster) -> Path | None:
        """Return a new folder for the logs of a cluster about to start; None keeps none."""

    def launched(self, cluster: LocalCluster) -> None:
        """Learn that its tasks were launched: their logs exist, they may not be ready yet."""

    def stopped(self, cluster: LocalCluster) -> None:
        """Learn that it was stopped, also after a start that failed; its logs can still be read."""

    def defaults(self) -> ClusterConfig:
        """Return the config that create_local_cluster() begins with."""

    def created(self, cluster: LocalCluster, scope: str | None) -> None:
        """Take over the life of a cluster that create_local_cluster() made, before it starts.

        It lives as long as the fixture that is being set up, or else the running test; or as that
        ``scope`` of the running test, if one is given.
        """

    @property
    def run(self) -> str:
        """What the workers of this run of xdist have in common; "" if there are none."""

    @property
    def debugging(self) -> Debugging:
        """Who knows of the terminal."""


_current: Observer | None = None


def observer() -> Observer | None:
    """Return who observes now."""
    return _current


def observe(new: Observer | None) -> Observer | None:
    """Let ``new`` observe from now on; return who did until now, to be put back later."""
    global _current
    previous, _current = _current, new
    return previous
