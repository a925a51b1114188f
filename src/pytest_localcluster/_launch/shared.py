"""A worker's guard and forkserver, forked from what all workers of a run have imported once.

This is the test process's side; :mod:`pytest_localcluster._launch.hub` is the other. The guard is
no child of this process, so it is known by descriptors: one that tells of its end, by which signals
reach it and nobody else, and the *leash*, a socket whose other end it alone holds. Before it is
there, the hub stands for it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress

from .. import _rendezvous
from .._clock import Deadline, poll
from .wire import STATUS, readable

__all__ = ["AVAILABLE", "SharedGuard", "ask_for_guard"]

AVAILABLE = _rendezvous.AVAILABLE
"""Whether processes of one run can meet here; to share, they need descriptors of processes, too."""

_PATIENCE = 2.0
"""Seconds in which a hub is found or started: it has to be executed, not to import anything."""


class SharedGuard:
    """A guard that the hub's importer forks, in the manner of a :class:`subprocess.Popen`.

    Args:
        leash: connected to the hub, which was asked for the guard.
    """

    def __init__(self, leash: socket.socket) -> None:
        self._leash = leash
        self._greeted = False
        self._watch: int | None = None
        self._pid = 0
        self._output: int | None = None
        self.returncode: int | None = None

    @property
    def pid(self) -> int:
        """Its number; that of the hub until there is one, and 0 before that is known."""
        self.poll()
        return self._pid

    @property
    def born(self) -> bool:
        """Whether there is a guard."""
        self.poll()
        return self._watch is not None and self._output is None

    @property
    def output(self) -> int | None:
        """A descriptor of what the hub prints, until there is a guard."""
        self.poll()
        return self._output

    def poll(self) -> int | None:
        """Hear what there is to hear; return None as long as it lives, or may yet."""
        while self.returncode is None and readable(self._leash.fileno(), Deadline(0.0)):
            self._hear()
        return self.returncode

    def _hear(self) -> None:
        try:
            if not self._greeted:
                if not self._leash.recv(1):
                    raise EOFError
                self._greeted = True
                return
            told, fds = _rendezvous.receive(self._leash)
        except (EOFError, ConnectionResetError):  # or there never was one
            self.returncode = 0
            return
        (self._pid,) = STATUS.unpack(told)
        self._forget()
        self._watch, self._output = (*fds, None)[:2]

    def send_signal(self, number: int) -> None:
        """Send a signal to the guard; to the hub before there is one."""
        if self.poll() is None and self._watch is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._watch, number)

    def terminate(self) -> None:
        """Have the guard end, or have none forked."""
        if self.born:
            self.send_signal(signal.SIGTERM)
        else:
            with suppress(OSError):
                self._leash.shutdown(socket.SHUT_RDWR)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            TimeoutExpired: it lives still.
        """
        deadline = Deadline(timeout)
        while self.poll() is None:
            if not readable(self._leash.fileno(), deadline):
                raise subprocess.TimeoutExpired("guard", timeout or 0.0)
        return self.returncode or 0

    def close(self) -> None:
        """Give back the descriptors. Idempotent."""
        self._leash.close()
        self._forget()
        self.returncode = self.returncode or 0

    def _forget(self) -> None:
        for fd in (self._watch, self._output):
            if fd is not None:
                os.close(fd)
        self._watch = self._output = None


def ask_for_guard(
    parts: tuple[object, ...],
    title: list[str],
    folder: str,
    fds: Sequence[int],
    start_hub: Callable[[socket.socket, int], object],
) -> SharedGuard | None:
    """Ask the hub of this run for a guard, and do not wait for it.

    Args:
        parts: what tells hubs apart: run, interpreter, and whatever imports may depend on.
        title: the command line that the guard shall show.
        folder: that the guard removes when this process has ended.
        fds: of its forkserver: the control socket, the output, and the pipe for its exit code.
        start_hub: called with the socket it listens at, and a descriptor that becomes readable when
            this process ends.

    Returns:
        None if there is no hub, and none can be started.
    """
    address = _rendezvous.name(hashlib.sha256(repr(parts).encode()).hexdigest())
    wanted = pickle.dumps(([os.fsencode(word) for word in title], folder))
    own = os.pidfd_open(os.getpid())

    def connect() -> socket.socket | None:
        with suppress(ConnectionRefusedError, BlockingIOError):
            kind, sock = _rendezvous.join(address)
            if kind == "peer":
                return sock
            with sock:
                start_hub(sock, own)
        return None

    try:
        leash = poll(connect, Deadline(_PATIENCE))
        if leash is None:
            return None
        _rendezvous.send(leash, wanted, [own, *fds])
        return SharedGuard(leash)
    except OSError:  # another user has the address, or the hub ended just now
        return None
    finally:
        os.close(own)
