"""``down``: ends a cluster that a file describes."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from pathlib import Path

from .._clock import Deadline, poll
from .._clusterfile import ClusterFile, ProcessId, read_cluster_file
from ..errors import SpecError, StopError

__all__ = ["run"]

_PATIENCE = 10.0
"""Seconds for a cluster to end, which takes it one at most."""


def run(given: argparse.Namespace) -> int:
    """End it; return when it is gone."""
    file = read_cluster_file(given.file)
    if file.owner is None and not file.members():
        raise SpecError(
            f"{given.file} does not say which processes its cluster is",
            remedy="end it the way it was started",
        )
    if not file.is_in_use():
        given.file.unlink(missing_ok=True)
        print(f"the cluster of {given.file} had ended already; the file is removed")
        return 0
    _end(file, given.file)
    print(f"the cluster of {given.file} is ended")
    return 0


def _end(file: ClusterFile, path: Path) -> None:
    # Whoever owns it ends it in its own way; without an owner there are the tasks alone.
    told = [file.owner] if file.owner is not None and file.owner.lives() else []
    for process in told:
        _signal(process, signal.SIGTERM)
        _signal(process, signal.SIGCONT)  # should somebody have stopped it
    for process in () if told else file.members():
        _signal(process, signal.SIGKILL)

    def living() -> list[ProcessId]:
        return [process for process in (*told, *file.members()) if process.lives()]

    poll(lambda: not living(), Deadline(_PATIENCE))
    if left := living():
        pids = ", ".join(str(process.pid) for process in left)
        raise StopError(
            f"the cluster of {path} has not ended within {_PATIENCE:g} s",
            status=f"still there: pid {pids}",
            survivors=tuple(str(process.pid) for process in left),
            remedy=f"kill -9 {pids.replace(',', '')}",
        )
    path.unlink(missing_ok=True)


def _signal(process: ProcessId, number: int) -> None:
    """Send a signal to this process, and to no other that has got its number."""
    with contextlib.suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if process.lives():
                os.kill(process.pid, number)
            return
        descriptor = os.pidfd_open(process.pid)
        try:
            if process.lives():  # so the descriptor is of that one
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
