"""One task of a cluster of the run: what a worker can do with it, and how that gets there."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

from .. import _held, _warned
from .._clock import poll
from .._core import logging, pickling
from .._core.settings import Settings
from .._foreign import BorrowedServer, ForeignLog
from .._launch import reports
from .._launch.fate import Unseen
from .._life import Life, State
from ..errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._clock import Deadline
    from .._cluster import LocalCluster
    from .._launch import Process
    from .._logs import TaskLog
    from .._setup import Place
    from ..errors import ServerExited
    from .cluster import RunCluster
    from .link import Link
    from .messages import TaskFacts

__all__ = ["RunServer", "log_of", "refusal"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_ANSWER = 5.0
"""Seconds in which the steward tells what it knows of a task; it takes milliseconds."""


class RunServer(BorrowedServer):
    """The handle of one task of a cluster that other workers use, too.

    Args:
        cluster: the cluster.
        place: who and where it is.
        log: what it prints.
        link: the connection to who has it.
        key: of the cluster.
        facts: what is known of it.
    """

    def __init__(
        self,
        cluster: LocalCluster,
        place: Place,
        log: TaskLog,
        link: Link,
        key: str,
        facts: TaskFacts,
    ) -> None:
        super().__init__(cluster, place, log)
        self._link = link
        self._key = key
        self._let_go = False
        self._last_words: ServerExited | None = None
        self.begin(facts, facts.death)

    def begin(self, facts: TaskFacts, death: ServerExited | None) -> None:
        """Go on with a process that somebody has started, after the ``death`` of another one."""
        self._life = Life(self, self._life.place, self.log)
        self._life.process = cast("Process", _RunProcess(self._link, self._key, facts, self.log))
        self._life.state = State.RUNNING
        self._life._death = death

    def is_suspended(self) -> bool:
        """Tell whether the task does nothing, or nobody gives it anything to do."""
        cluster = cast("RunCluster", self.cluster)
        return super().is_suspended() or _held.is_stopped(cluster._steward.pid)

    def unexpected_death(self) -> ServerExited | None:
        """Return the report of a death that this process was not told of, if there was one."""
        return self._last_words if self._let_go else super().unexpected_death()

    def let_go(self) -> None:
        """Look for the last time whether it is there."""
        self._last_words = self.unexpected_death()
        self._let_go = True

    def _refuse(self, verb: str) -> NoReturn:
        raise refusal(str(self.task), verb, task=str(self.task), address=self.address, pid=self.pid)


def refusal(who: str, verb: str, **report: Any) -> UnsupportedError:
    """Return the error for what would be done to the tests of other workers as well."""
    return UnsupportedError(
        f"{who} cannot {verb}: tests in other workers of this run use it, too",
        remedy="give this test a cluster of its own, with a scope other than 'run'",
        **report,
    )


_GONE = Unseen("ended with the steward of this run, exit status unknown")
"""The end of a task of a steward that is gone: nobody else is told of it."""


class _RunProcess:
    """The process of a task, which the steward has started."""

    elsewhere = False

    def __init__(self, link: Link, key: str, facts: TaskFacts, log: TaskLog) -> None:
        self.program = facts.program
        self._link = link
        self._context = facts.context
        self._process = facts.process
        self._which = (key, facts.task, facts.process.pid)
        self._log = log
        self._end: tuple[int, str] | None = None
        self._pending: set[Future[Any]] = set()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        if self._end is None and not self._process.lives():
            code, oom = None, ""
            with suppress(ConnectionError, FutureTimeout):
                code, oom = self._link.ask("ended", self._which).result(_ANSWER)
            self._end = _GONE if code is None else code, oom
        return None if self._end is None else self._end[0]

    def wait(self, deadline: Deadline) -> int | None:
        poll(lambda: self.exitcode is not None, deadline)
        return self.exitcode

    def news(self) -> list[int]:
        return []

    @property
    def busy(self) -> bool:
        return bool(self._pending)

    def out_of_memory(self) -> str:
        return "" if self._end is None else self._end[1]

    def signal(self, signum: int) -> None:
        """Have it show its stacks; no other signal is sent."""
        with suppress(ConnectionError, FutureTimeout):
            self._link.ask("dump", self._which).result(_ANSWER)

    def attend(self) -> Future[None]:
        """Return at once: what the task warns and logs comes with the answers to calls."""
        heard: Future[None] = Future()
        heard.set_result(None)
        return heard

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        if self.program:
            name = getattr(function, "__qualname__", str(function))
            raise reports.no_python(self._context, self.pid, self.program, name)
        call = pickling.dump_call(function, args, kwargs, self._context.task)
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._pending.add(future)
        # All settings, each time: a test in another worker may have given it others.
        asked = self._link.ask("call", self._which, call, Settings().news())
        asked.add_done_callback(partial(self._answer, future))
        return future

    def _answer(self, future: Future[Any], asked: Future[Any]) -> None:
        self._pending.discard(future)
        error = asked.exception()
        try:
            if isinstance(error, ConnectionError):
                error = reports.exited(self._context, self._log, self.pid, _GONE)
            elif error is None:
                kind, records, kept, *rest = asked.result()
                logging.receive(str(self._context.task), records)
                _warned.receive(str(self._context.task), kept)
                if kind == "returned":
                    future.set_result(pickling.load_result(rest[0], self._context.task))
                    return
                if kind == "ended":
                    raise rest[0]
                error = reports.raised(*rest)
        except Exception as unread:
            error = unread
        future.set_exception(error)


def log_of(facts: TaskFacts, started: bool) -> ForeignLog:
    """Return the log of a task, which begins for this worker where it begins to look at it."""
    log = ForeignLog(facts.log)
    if started:
        log.origin = log.begun = 0
    return log
