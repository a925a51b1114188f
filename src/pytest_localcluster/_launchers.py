"""Which launcher starts the tasks of a runtime, and how it gets ready before there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _coverage, _moments
from ._launch import Launcher, find_launcher
from ._observer import observer
from ._runtimes import Runtime, find_runtimes

if TYPE_CHECKING:
    from ._config import ClusterConfig

__all__ = ["launcher_for", "prepare"]


def launcher_for(config: ClusterConfig, runtime: Runtime) -> Launcher:
    """Return what starts the tasks that ``runtime`` serves in a cluster of ``config``."""
    noting = () if _moments.recorder() is None else runtime.noting
    preload = dict.fromkeys((*runtime.preload, *noting, *config.preload))
    boot_env = {**runtime.boot_env, **_coverage.environment()}
    watcher = observer()
    # What coverage.py is to measure in one worker is not for the forks of another.
    run = "" if watcher is None or _coverage.VARIABLE in boot_env else watcher.run
    return find_launcher(config.launcher, tuple(preload), boot_env, run)


def prepare(config: ClusterConfig) -> None:
    """Have what would start the tasks of such a cluster get ready; do not wait for it.

    A launcher of the user's own is left alone: when it is asked first may matter.

    Raises:
        SpecError: there can be no such cluster.
    """
    if not isinstance(config.launcher, str):
        return
    runtimes = find_runtimes(config)
    for job, count in config.counts().items():
        if count:
            launcher_for(config, runtimes[job]).prepare()
