"""Runs in the forkserver: what a parent does to a single task."""

from __future__ import annotations

import contextlib
import os
import signal
from functools import partial

from pytest_localcluster._clock import Deadline, poll
from pytest_localcluster._core import exceptions, sockets
from pytest_localcluster._launch.wire import STATUS, send

__all__ = ["refuse", "send_signal"]

_STOP_SECONDS = 2.0  # for the threads of a suspended task to stop: only the kernel can hold one up
_GROUP_SIGNALS = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT})


def refuse(error: OSError, control: int, status: int) -> None:
    """Say that there is no process for a task, and that it is over."""
    with contextlib.suppress(OSError), sockets.adopt(os.dup(control)) as sock:
        send(sock, ("failed", 0, *exceptions.dump_exception(error)))
    with contextlib.suppress(BrokenPipeError):
        os.write(status, STATUS.pack(0) + STATUS.pack(1))
    os.close(status)


def send_signal(pid: int, signum: int) -> bool:
    """Send a signal; for SIGSTOP, tell whether no thread of the process runs any more."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if signum in _GROUP_SIGNALS:
            with contextlib.suppress(ProcessLookupError):  # not the leader of a group yet
                os.killpg(pid, signum)
        if signum not in _GROUP_SIGNALS or signum == signal.SIGKILL:
            os.kill(pid, signum)
        if signum == signal.SIGSTOP and hasattr(os, "waitid"):
            return poll(partial(_has_stopped, pid), Deadline(_STOP_SECONDS), interval=0.0002)
    return True


def _has_stopped(pid: int) -> bool:
    try:
        flags = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, pid, flags) is not None
    except ChildProcessError:
        return True
