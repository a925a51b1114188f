"""Which launcher starts the tasks of a runtime, and where each of them will serve.

A launcher of this machine takes any port that is free here. One that has other machines reserves a
berth on one of them for each task: see :class:`~pytest_localcluster._launch.Spreading`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from . import _coverage, _moments, _ports
from ._launch import Berth, Launcher, Needs, Spreading, find_launcher
from ._observer import observer
from ._runtimes import Runtime, find_runtimes
from ._spec import Task
from .errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from contextlib import ExitStack

    from ._config import ClusterConfig

__all__ = ["check_launcher", "find_berths", "launcher_for", "prepare"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


def launcher_for(config: ClusterConfig, runtime: Runtime) -> Launcher:
    """Return what starts the tasks that ``runtime`` serves in a cluster of ``config``."""
    boot_env = {**runtime.boot_env, **_coverage.environment()}
    watcher = observer()
    # What coverage.py is to measure in one worker is not for the forks of another.
    run = "" if watcher is None or _coverage.VARIABLE in boot_env else watcher.run
    return find_launcher(config.launcher, _preload(config, runtime), boot_env, run)


def _preload(config: ClusterConfig, runtime: Runtime) -> tuple[str, ...]:
    noting = () if _moments.recorder() is None else runtime.noting
    return tuple(dict.fromkeys((*runtime.preload, *noting, *config.preload)))


def _spreading(config: ClusterConfig) -> Spreading | None:
    """Return the launcher, if it is one that has other machines."""
    if not config.is_networked():
        return None
    launcher = find_launcher(config.launcher, (), {})
    return cast("Spreading", launcher) if hasattr(launcher, "reserve") else None


def check_launcher(config: ClusterConfig) -> None:
    """Raise SpecError if what launches the tasks of such a cluster is not installed."""
    spreading = _spreading(config)
    if spreading is not None:
        spreading.check()


def find_berths(
    config: ClusterConfig,
    runtimes: Mapping[str, Runtime],
    with_folder: Collection[Task],
    undo: ExitStack,
) -> tuple[list[Berth], tuple[str, int]]:
    """Find a place for each task; ``undo`` learns how to give it back.

    Args:
        config: what was asked for.
        runtimes: by job.
        with_folder: the tasks that need a folder of their own.
        undo: learns how to give the places back.

    Returns:
        The places, in the order of the tasks; and a host and a port that are free for the workers
        to meet at.
    """
    tasks = config.tasks()
    spreading = _spreading(config)
    if spreading is not None and tasks:
        wanted = []
        for task in tasks:
            runtime = runtimes[task.job]
            preload, names = _preload(config, runtime), config.port_names(task.job)
            wanted.append(Needs(task, preload, runtime.boot_env, names, task in with_folder))
        reservation = spreading.reserve(wanted)
        undo.callback(reservation.release)
        for needs, berth in zip(wanted, reservation.berths, strict=True):
            if set(needs.ports) - set(berth.ports) or (needs.folder and berth.folder is None):
                raise UnsupportedError(
                    f"{config.launcher!r} gives {needs.task} neither further ports nor a folder",
                    task=str(needs.task),
                    remedy="leave out ports= and {dir}, or use launcher='process' or 'ray'",
                )
        return list(reservation.berths), reservation.meeting
    # One more is MASTER_PORT, for the collectives that the workers may want to form.
    named = sum(len(config.port_names(task.job)) for task in tasks)
    leases = _ports.lease_ports(len(tasks) + named + bool(config.workers))
    for lease in leases:
        undo.callback(lease.release)
    berths = []
    rest = iter(leases[len(tasks) :])
    meeting = next(rest) if config.workers else None
    for task, lease in zip(tasks, leases, strict=False):
        launcher = launcher_for(config, runtimes[task.job])
        launcher.prepare()
        further = dict(zip(config.port_names(task.job), rest, strict=False))
        others = [*further.values()]
        if meeting is not None and task == Task("worker", 0):
            others.append(meeting)  # where others meet, the first of them binds
        ports = {name: lease.port for name, lease in further.items()}
        berths.append(Berth(launcher, lease, ports, others))
    return berths, ("127.0.0.1", 0 if meeting is None else meeting.port)


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
