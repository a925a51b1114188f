"""The test process's handle of a task that is a process: a control socket and a status pipe."""

from __future__ import annotations

import contextlib
import signal as signals
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import _held
from .._clock import Deadline
from .._core import answers, exceptions, logging, pickling, stand_ins
from .._logs import settle
from ..errors import ClusterError
from . import oom, reports, shelter
from .calls import Calls
from .fate import Fate, Unseen
from .line import Line
from .wire import DUMP_SIGNAL, KEPT_AT_ONCE, LATE, SIGNAL

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .._core.settings import News, Settings
    from .._logs import TaskLog
    from .._spec import Task
    from ..errors import ServerExited, StartError, StartTimeout
    from . import Entry
    from .process import ProcessLauncher

__all__ = ["ChildProcess"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_LAST_WAIT = 1.0
"""Seconds for what takes none, unless the kernel, or a callback of the user's, does not let go."""


def _unknown() -> Unseen:
    return Unseen(reports.describe_exit(None))


class ChildProcess:
    """One task in a process of its own."""

    elsewhere = False

    def __init__(
        self,
        launcher: ProcessLauncher,
        number: int,
        entry: Entry,
        log: TaskLog,
        control: socket.socket,
        status: int,
        settings: Settings,
        unseen: Callable[[], Unseen] = _unknown,
    ) -> None:
        self._launcher = launcher
        self._number = number
        self.program = ""
        self._context = entry.context
        self._log = log
        self._name = str(entry.context.task)
        self._settings = settings
        self._terminal = entry.terminal
        self._owner = _held.owner()
        self._handle = _held.hold(f"the control socket and the status pipe of {self._name}")
        self._held = _held.hold(
            f"the process of {self._name}",
            alive=lambda: self._fate.lives(),
            says=lambda: f"pid {self.pid}",
            remedy="end it by hand, and look what keeps it alive: /proc/PID/stack",
        )
        self._fate = Fate(status, self._held.give_back, unseen)
        self._oom = oom.counts_lately()
        self._killed = False  # by us
        self._threads: list[_held.Held] = []
        self._control = Line(control, self._name, self._hold_thread)
        self._ready = False
        self._stuck = False  # the forkserver never came to fork it
        self._calls = Calls(
            self._control,
            self._context,
            exited=lambda: self._exited(self.wait(Deadline(1.0))),
            debugs=self._debugs,
            ended=lambda: self._terminal.gone(self),
            hold=self._hold_thread,
        )

    @property
    def pid(self) -> int | None:
        return self._fate.pid

    @property
    def exitcode(self) -> int | None:
        return self.wait(Deadline(0))

    def wait(self, deadline: Deadline) -> int | None:
        return self._fate.wait(deadline)

    def _hold_thread(self, thread: threading.Thread) -> None:
        self._threads.append(_held.hold_thread(thread, owner=self._owner))

    def news(self) -> list[int]:
        # On a busy machine a task may serve before the forkserver tells its pid: that comes first.
        control = [self._control.fileno()] if self._fate.told and not self._ready else []
        pipe = self._fate.pipe
        return control if pipe is None else [*control, pipe]

    def await_start(self, seconds: float | None) -> None:
        self._control.readable(Deadline(seconds))

    def come_up(self) -> bool:
        if self._ready or (self.pid is None and self.exitcode is None):
            return self._ready
        if not self._control.readable(Deadline(0)):
            # A child of its own may hold the socket open longer than it lives.
            if self.exitcode is None or self._control.readable(Deadline(0)):
                return False
            raise self._died_starting()
        try:
            # What has begun to arrive is soon there, unless the task is stopped just then.
            kind, _, *rest = self._control.receive(Deadline(5.0))
            if kind == "program":
                (self.program,) = rest
                return False  # next is how it could not be executed, or the end
            if self._debugs(kind, rest) or self._calls.unasked(kind, *rest):
                return False
        except TimeoutError:
            return False
        except (EOFError, ConnectionResetError):
            kind = "ready" if self.program else ""  # as far as this handle can tell: it has begun
        if not kind:
            raise self._died_starting()
        if kind == "failed":
            self.wait(Deadline(1.0))
            self._calls.give_up()
            data, text = rest
            cause = exceptions.load_exception(data, text)
            what = text.rstrip().rpartition("\n")[2]
            if cause is not None:
                what = f"{type(cause).__name__}: {cause}".partition("\n")[0]
            if self.pid is None:
                raise reports.not_forked(self._context, what) from cause
            raise reports.start_failed(self._context, self._log, self.pid, what) from cause
        self._ready = True
        shelter.hear_of_guards()  # so that descriptors which come with them come with a start
        if not self.program:
            self._calls.serves()
            logging.subscribe(self._level_changed)
        return True

    def _debugs(self, kind: str, rest: list[Any]) -> bool:
        """Tell whether that was a question or said by a debugger, and see to it."""
        if kind == "asks":
            self._answer(*rest)
        elif kind == "breakpoint":
            self._terminal.ask(self, partial(self._control.send, "terminal", 0))
        elif kind == "resumed":
            self._terminal.leave(self, *rest)
        return kind in ("asks", "breakpoint", "resumed")

    def _answer(self, number: int, question: Sequence[Any]) -> None:
        def send(answer: stand_ins.Answer | None) -> None:
            with contextlib.suppress(OSError):  # the task is gone
                self._control.send("answer", number, answer)

        answers.reply(stand_ins.Question(*question), send)

    def _died_starting(self) -> StartError:
        code = self.wait(Deadline(1.0))
        self._calls.give_up()
        what, oom = f"it {reports.describe_exit(code)}", self._oom_kill()
        return reports.died_starting(
            self._context, self._log, self.pid, code, what, " while it started", oom=oom
        )

    def late(self, deadline: Deadline) -> StartTimeout:
        pid = self.pid
        if pid is None:  # not even forked: the forkserver is still importing
            last = self._launcher.said().rstrip().rpartition("\n")[2]
            stacks = self._launcher.dump_stacks()
            self._stuck = True
        else:
            last = self._log.tail(1).rstrip()
            mark = self._log.mark()
            self.signal(DUMP_SIGNAL)
            stacks = settle(self._log.mark, self._log.since, mark, Deadline(1.0))
        return reports.start_timeout(
            self._context, pid, deadline.seconds or 0.0, last, reports.with_source(stacks)
        )

    def signal(self, signal: int) -> None:
        self._killed |= signal == signals.SIGKILL
        suspends = signal == signals.SIGSTOP
        answer = self._launcher.request(SIGNAL, (self._number, int(signal)), acknowledged=suspends)
        if suspends and answer == LATE:
            raise reports.not_suspended(self._context, self.pid)

    @property
    def busy(self) -> bool:
        return self._calls.busy

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        name = getattr(function, "__qualname__", function)
        if self.program:
            raise reports.no_python(self._context, self.pid, self.program, str(name))
        call = pickling.dump_call(function, args, kwargs, self._context.task)
        return self._calls.make("call", call, self._settings.news())

    def relay(self, call: bytes, news: News | None) -> Future[tuple[Any, ...]]:
        """Run what another process has pickled for :meth:`call`, and read none of the answer."""
        return self._calls.make("call", call, news, relayed=True)

    def reset(self) -> Future[None]:
        return self._calls.make("reset")

    def forget(self, task: Task) -> Future[None]:
        return self._calls.make("forget", task)

    def attend(self) -> Future[None]:
        if self.exitcode is not None:
            return self._calls.over
        return self._calls.make("settings", self._settings.news())

    def _level_changed(self) -> Future[None] | None:
        news = self._settings.news()
        alive = news is not None and self.exitcode is None
        return self._calls.make("settings", news) if alive else None

    def _hear_last_words(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while self._control.fileno() >= 0 and self._control.readable(Deadline(0)):
                kind, _, *rest = self._control.receive(Deadline(_LAST_WAIT))
                self._calls.unasked(kind, *rest)

    def _exited(self, code: int | None, doing: str = "") -> ServerExited:
        oom = self._oom_kill()
        return reports.exited(self._context, self._log, self.pid, code, doing, oom=oom)

    def _oom_kill(self) -> str | None:
        return None if self._killed else self.out_of_memory()

    def out_of_memory(self) -> str:
        return oom.risen(self._oom)

    def ask_to_stop(self) -> int | None:
        if self._stuck:
            self._launcher.abandon()
        elif not self._ready or self._control.clogged:
            self.signal(signals.SIGKILL)  # it would not listen before it serves, or does not at all
            return signals.SIGKILL
        elif self.program:
            self.signal(signals.SIGTERM)
            return signals.SIGTERM
        else:
            with contextlib.suppress(OSError):
                self._control.send("stop", 0)
        return None

    def force(self) -> None:
        if self.exitcode is None:
            with contextlib.suppress(ClusterError):  # nobody signals it: it was killed otherwise
                self.signal(signals.SIGKILL)

    def keep(self, leases: Sequence[int]) -> Path:
        """Have the task outlive this process, with these descriptors that hold its ports.

        Returns:
            A folder, not made yet, which is removed when nothing that is kept is left.
        """
        for start in range(0, len(leases), KEPT_AT_ONCE):
            self._launcher.keep(None, leases[start : start + KEPT_AT_ONCE])
        return self._launcher.keep(self._number, [self._control.fileno()])

    def leave(self) -> None:
        """Give back what this handle holds of a task that is kept; it lives on."""
        logging.unsubscribe(self._level_changed)
        self._control.leave()
        self._fate.close()
        for held in (*self._threads, self._handle, self._held):
            # Who waits for a task's answer goes on to, until the socket ends with the task.
            held.give_back()

    def close(self, deadline: Deadline) -> None:
        self.force()
        if self.wait(deadline) is None:
            # Either the kernel does not let go of it, or nobody sends it signals any more: then
            # it goes with the forkserver, which is of no use anyway.
            self._launcher.abandon_if_hung()
            self.wait(Deadline(_LAST_WAIT))
        if not self._calls.listens:
            self._hear_last_words()
        logging.unsubscribe(self._level_changed)
        self._control.hang_up()  # wakes who listens
        self._calls.end(_LAST_WAIT)
        self._control.close(Deadline(_LAST_WAIT))
        self._terminal.gone(self)
        self._fate.close()
        self._handle.give_back()
