"""A worker's connection to the steward of its run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from .. import _rendezvous
from .._clock import Deadline, Thread
from .._core import answers
from .._core.files import unnamed_file
from .._core.forks import inherited
from .._core.identity import own_origin
from .._core.stand_ins import Question
from .._launch import boot
from .._launch.line import Line
from ..errors import StartError, StartTimeout, UnsupportedError
from .messages import load_failure

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .._core.stand_ins import Answer
    from .messages import Facts, Wish

__all__ = ["Link", "Member"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_STEWARD = "pytest_localcluster._steward.boot"

_JOINING = 30.0
"""Seconds until the steward has answered; it takes as long as an interpreter and its imports."""

_LEAVING = 10.0
"""Seconds for the steward to end its clusters when the last worker leaves it."""

_PATIENCE = 60.0
"""Seconds in which the steward answers, besides those for the starts that it has to do."""

_ATTEMPTS = 3
"""How many stewards may end while a cluster is asked of them: one that was killed is bad luck."""


class Member:
    """This process as one of the workers of a run; it connects when it first has to.

    Args:
        run: what tells this run from others.
    """

    def __init__(self, *run: object) -> None:
        self._address = _rendezvous.name("run", *run)
        self._link: Link | None = None
        self._lock = threading.Lock()

    def join(self) -> Link:
        """Return the connection to the steward; start one if there is none.

        Raises:
            StartError: it does not come up, or does not answer.
            UnsupportedError: not on this system.
        """
        with self._lock:
            link = self._link
            # That of a parent is not ours: the steward would take us for it.
            if link is None or link.lost or inherited(link):
                self._link = link = _join(self._address)
            return link

    def cluster(self, wish: Callable[[], Wish], seconds: float) -> tuple[Link, Facts]:
        """Return who has the cluster of such a wish, and what there is to know of it.

        Args:
            wish: says what is wanted.
            seconds: how long its start may take, which there may have to wait for another one.

        Raises:
            StartTimeout: the steward has not answered in a multiple of that.
            StartError: one steward after the other has ended over it.
            ClusterError: the cluster, or a task of it, does not start.
        """
        patience = _PATIENCE + 2 * seconds
        for _ in range(_ATTEMPTS):
            link = self.join()
            asked = link.ask("cluster", wish())
            try:
                return link, asked.result(patience)
            except ConnectionError:
                continue
            except FutureTimeout:
                if asked.done():
                    raise  # it is what the start has come to
                raise StartTimeout(
                    f"the steward of this run has not told of a cluster after {patience:g} s",
                    remedy="look whether something has stopped it (its command line has _steward); "
                    "if many large clusters start at a time, raise --cluster-start-timeout",
                ) from None
        raise StartError(
            f"{_ATTEMPTS} stewards, which were to start a cluster, have ended one after the other",
            remedy="look who kills them: had memory run out, dmesg would say so",
        )

    def leave(self) -> None:
        """Take leave of the steward, which ends its clusters if nobody else is left. Idempotent."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None and not inherited(link):
            link.leave()


class Link:
    """One connection; any number of threads ask, and one reads the answers."""

    def __init__(self, sock: socket.socket) -> None:
        self._owner = os.getpid()
        self.lost = False
        self._line = Line(sock, "the steward", lambda _: None)
        self._numbers = count()
        self._asked: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._reader = Thread(target=self._read, name="answers of the steward", daemon=True)
        self._reader.start()

    def ask(self, kind: str, *args: object) -> Future[Any]:
        """Ask the steward for something.

        Returns:
            What comes of it; a ConnectionError if the steward is gone.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            number = next(self._numbers)
            if not self.lost:
                self._asked[number] = future
        try:
            if self.lost or inherited(self):
                raise BrokenPipeError
            self._line.send(number, kind, *args)
        except OSError:
            self._asked.pop(number, None)
            with suppress(InvalidStateError):  # who reads may have said so already
                future.set_exception(self._gone())
        return future

    def _read(self) -> None:
        try:
            while True:
                number, how, what = self._line.receive()
                if how == "asks":
                    answers.reply(Question(*what), partial(self._answer, number))
                    continue
                future = self._asked.pop(number)
                if how == "returned":
                    future.set_result(what)
                else:
                    future.set_exception(load_failure(what))
        except (EOFError, OSError):
            pass
        finally:
            with self._lock:
                self.lost = True
            for future in list(self._asked.values()):
                with suppress(InvalidStateError):
                    future.set_exception(self._gone())
            self._asked.clear()

    def _answer(self, number: int, answer: Answer | None) -> None:
        with suppress(OSError):
            self._line.send(number, "answer", answer)

    def _gone(self) -> ConnectionError:
        return ConnectionError("the steward of this run, which has its clusters, has ended")

    def leave(self) -> None:
        """Take leave, and close the connection."""
        with suppress(ConnectionError, FutureTimeout):
            self.ask("leave").result(_LEAVING)
        self._line.close(Deadline(1.0))
        self._reader.join(1.0)


def _join(address: bytes) -> Link:
    if not _rendezvous.AVAILABLE:
        raise UnsupportedError(
            "workers of pytest-xdist can share a cluster of scope 'run' on Linux only",
            status=f"this is {sys.platform}, which has no abstract sockets for them to meet at",
            remedy="run these tests in one process, with -n 0, or give them scope='session'",
        )
    try:
        sock = _rendezvous.meet(address, _start, Deadline(_JOINING))
    except (TimeoutError, PermissionError) as error:
        raise StartError(
            f"the steward of this run cannot be reached: {error}",
            remedy="look who has that address (ss -xlp), and end it",
        ) from None
    with ExitStack() as failed:
        failed.callback(sock.close)
        fds = _own_watch()
        for fd in fds:
            failed.callback(os.close, fd)
        with suppress(ConnectionError):  # the first request tells it
            _rendezvous.send(sock, own_origin().encode(), fds)
        failed.pop_all()
    for fd in fds:
        os.close(fd)
    return Link(sock)


def _own_watch() -> list[int]:
    """Return a descriptor of this process, if there is such a thing here."""
    try:
        return [os.pidfd_open(os.getpid())]
    except (AttributeError, OSError):
        return []


def _start(listener: socket.socket) -> None:
    """Start the steward."""
    watches = _own_watch()
    fds = [listener.fileno(), *watches]
    options = {"listener": fds[0], "starter": watches[0] if watches else None}
    with ExitStack() as stack:
        stack.callback(lambda: [*map(os.close, watches)])
        output = stack.enter_context(unnamed_file())
        command = boot.command(_STEWARD)
        code = boot.execute(subprocess.Popen, command, options, fds, output, {}).wait()
        if code:
            output.seek(0)
            raise StartError(
                "the steward, which has the clusters of scope 'run', did not start",
                status=f"exit code {code}",
                evidence=output.read().decode(errors="replace"),
                remedy="mend what it says; it imports pytest_localcluster, with the path of pytest",
            )
