"""A task that somebody else started and will end: what of a Server can be had of it, what not."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ._clock import Deadline, poll
from ._life import State
from ._logs import TaskLog
from ._server import Server
from .errors import ServerExited, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._cluster import LocalCluster
    from ._clusterfile import ProcessId
    from ._launch import Process
    from ._setup import Place

__all__ = ["BorrowedServer", "Elsewhere", "ForeignLog", "ForeignServer", "refusal"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


class BorrowedServer(Server):
    """A task whose life is not ours: whatever would end or change it is refused."""

    def start(self) -> NoReturn:
        """Refuse it."""
        self._refuse("be started")

    def stop(self) -> NoReturn:
        """Refuse it."""
        self._refuse("be stopped")

    def restart(self) -> NoReturn:
        """Refuse it."""
        self._refuse("be restarted")

    def kill(self, signal: int = 0) -> NoReturn:
        """Refuse it."""
        self._refuse("be sent a signal")

    def suspend(self) -> NoReturn:
        """Refuse it."""
        self._refuse("be suspended")

    def resume(self) -> NoReturn:
        """Refuse it."""
        self._refuse("be resumed")

    def test_is_over(self, test: str) -> None:
        """Do nothing: the task runs on."""

    def _refuse(self, verb: str) -> NoReturn:
        raise NotImplementedError


class ForeignServer(BorrowedServer):
    """One task of a cluster that is only used here.

    Args:
        cluster: the cluster.
        place: who and where it is; its lease is an :class:`Elsewhere`.
        log: what it prints.
        process: which process it is; None if nobody knows.
        status: how the cluster is used, for reports.
    """

    def __init__(
        self,
        cluster: LocalCluster,
        place: Place,
        log: TaskLog,
        process: ProcessId | None,
        status: str,
    ) -> None:
        super().__init__(cluster, place, log)
        self._process = process
        self._status = status
        self._let_go = False
        self._death: ServerExited | None = None
        self._life.state = State.RUNNING
        self._life.process = cast("Process", place.lease)

    @property
    def pid(self) -> int | None:
        """Its process id, if the cluster file has it."""
        return None if self._process is None else self._process.pid

    @property
    def exitcode(self) -> int | None:
        """None: how it ends is told to whoever started it."""
        return None

    def is_alive(self) -> bool:
        """Tell whether its process is there; True if the cluster file does not have that."""
        return self._process is None or self._process.lives()

    def join(self, timeout: float | None = None, *, check: bool = True) -> None:
        """Wait until the task has ended, or ``timeout`` has passed.

        Its exit code is not known here: any end fails the test, unless ``check=False``.
        """
        if poll(lambda: not self.is_alive(), Deadline(timeout)) and not check:
            self._let_go = True

    def unexpected_death(self) -> ServerExited | None:
        """Return the report of its death, if it was no more when it was last used here."""
        if self._let_go or self.is_alive():
            return self._death
        return ServerExited(
            f"{self.task} of the cluster that pytest is attached to has ended",
            task=str(self.task),
            address=self.address,
            pid=self.pid,
            evidence=self.log.tail(),
            remedy="look in its log for what ended it, and start the cluster again",
        )

    def let_go(self) -> None:
        """Look for the last time whether it is there."""
        self._death = self.unexpected_death()
        self._let_go = True

    def _submit(self, fn: Callable[..., Any], *_: Any, **__: Any) -> NoReturn:
        self._refuse(f"run {getattr(fn, '__qualname__', fn)}")

    def _refuse(self, verb: str) -> NoReturn:
        raise refusal(
            str(self.task),
            verb,
            task=str(self.task),
            address=self.address,
            pid=self.pid,
            status=self._status,
        )

    def __repr__(self) -> str:
        pid = "" if self.pid is None else f", pid {self.pid}"
        state = "attached" if self.is_alive() else "ended"
        return f"<Server {self.task} at {self.address}: {state}{pid}>"


class Elsewhere:
    """What a task's life holds of its process and its port: nothing but where it serves."""

    exitcode = None
    elsewhere = False
    program = ""
    busy = False

    def __init__(self, address: str) -> None:
        self.address = address
        self.pid = None

    def news(self) -> list[int]:
        return []

    def reset(self) -> Future[None]:
        raise NotImplementedError  # the cluster does it

    def attend(self) -> Future[None]:
        """Return at once: whoever started the task has its warnings and records."""
        heard: Future[None] = Future()
        heard.set_result(None)
        return heard


class ForeignLog(TaskLog):
    """A log that somebody else writes: it is read where it can be, and never made or removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = True
        self._remains = None
        self.begun = self.origin = 0
        with contextlib.suppress(OSError):  # the report says what is wrong with it
            self.begun = self.origin = self.mark()

    def remove(self) -> None:
        """Let it be."""


def refusal(who: str, verb: str, *, remedy: str = "", **report: Any) -> UnsupportedError:
    """Return the error for what can be done to a cluster of this run only."""
    return UnsupportedError(
        f"{who} cannot {verb}: it is not of this run, which is only attached to it",
        remedy=remedy or "run this test without --cluster-attach, on a cluster of its own",
        **report,
    )
