"""Life: one task's process, through all its starts and ends."""

from __future__ import annotations

import enum
import signal as signals
from concurrent.futures import wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import _moments
from ._launch import Entry, Process
from ._launch.reports import describe_exit, died_starting, exited, never_ready
from ._terminal import terminal
from .errors import ServerExited, StopError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ._clock import Deadline
    from ._context import TaskContext
    from ._logs import TaskLog
    from ._server import Server
    from ._setup import Place
    from ._spec import Task
    from .errors import StartError, StartTimeout

__all__ = ["Life", "State"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


_LAST_WAIT = 1.0
"""Seconds for the last words of a task, which take none unless a process of its own says more."""

_ENDING = {signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGQUIT}
"""Signals that a program may answer by ending in its own way."""


class State(enum.Enum):
    """What was last done to a task; what it does on its own shows in its process."""

    NEW = "not started"
    STARTING = "starting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    KILLED = "killed"
    STOPPED = "stopped"


class Life:
    """Starts and ends one task, any number of times, and knows which of its deaths were asked for.

    Attributes:
        place: what the cluster made ready for the task.
        process: its last process, None before the first.
        state: what was last done to it.
        forgiven: whether its death is no surprise: it was asked for, or the test knows of it.
        asked: the signals that it was sent, any of which it may die of.
    """

    def __init__(self, handle: Server, place: Place, log: TaskLog) -> None:
        self.place = place
        self.log = log
        self._handle = handle
        self.process: Process | None = None
        self.state = State.NEW
        self.forgiven = False
        self.asked: set[int] = set()
        self.kept = False  # it was handed to another process, and is not to end
        self._death: ServerExited | None = None  # of an earlier life, not forgiven
        self._missing: str | None = None  # what a start still lacks; None before it was asked

    @property
    def task(self) -> Task:
        """Whose life it is."""
        return self._context.task

    @property
    def _context(self) -> TaskContext:
        return self.place.assignment.context

    def is_alive(self) -> bool:
        """Tell whether there is a process that has not ended."""
        return self.process is not None and self.process.exitcode is None

    def launch(self, deadline: Deadline) -> None:
        """Start the task without waiting for it; it is to serve by the deadline."""
        assignment, runtime, launcher, lease, _ = self.place
        self._death = self.unexpected_death()
        lease.hand_over()
        self.log.begin()
        self.state = State.STARTING
        self._missing = None
        self.forgiven = self.kept = False
        self.asked.clear()
        if (recorder := _moments.recorder()) is not None:
            assignment = replace(assignment, record=recorder.launching(self._handle))
        entry = Entry(runtime.entry(assignment), assignment.context, deadline, terminal())
        self.process = launcher.launch(entry, self.log)

    @property
    def sends_no_event(self) -> bool:
        """Whether its coming up shows only to who looks again and again."""
        return self._missing is not None or (self.process is not None and not self.process.news())

    def come_up(self) -> bool:
        """Look, without waiting for it, whether the task serves.

        Raises:
            StartError: it never will; or it did, and died while others of its cluster started.
        """
        process = self.process
        assert process is not None
        if self.state is not State.RUNNING:
            if not process.come_up():
                return False
            self._missing = self.place.runtime.ready(self._handle)
            if (self._missing or process.program) and process.exitcode is not None:
                raise self._died_starting(" while it started")
            if self._missing:
                return False
            self.state = State.RUNNING
            _moments.tell(self._handle, "ready")
        if process.exitcode is not None:  # whoever has taken note of that, here it is told
            self.forgive()
            raise self._died_starting(" while others started")
        return True

    def late(self, deadline: Deadline) -> StartTimeout:
        """Return the error for a task that is alive, but did not come up by the deadline."""
        process = self.process
        assert process is not None
        if self._missing is None:
            return process.late(deadline)
        seconds = deadline.seconds or 0.0
        return never_ready(
            self._context, self.log, process.pid, seconds, process.program, self._missing
        )

    def _died_starting(self, doing: str) -> StartError:
        process = self.process
        assert process is not None
        what = f"{process.program or 'it'} {describe_exit(process.exitcode)}"
        if self.state is State.RUNNING:
            what += doing
        return died_starting(self._context, self.log, process.pid, process.exitcode, what, doing)

    def leave(self) -> bool:
        """Let go of the task if it was handed to another process; tell whether it was."""
        if not self.kept or self.process is None or not self.is_alive():
            return False
        self.process.leave()
        self.state = State.STOPPED
        self.forgive()
        return True

    def ask_to_stop(self) -> None:
        """Ask the task to end, without waiting for it; what cannot listen is killed."""
        if self.process is None or not self.is_alive():
            return
        _moments.tell(self._handle, "stop")
        if self.state is State.SUSPENDED:
            self.process.signal(signals.SIGKILL)
        elif (signal := self.process.ask_to_stop()) is not None:
            self.asked.add(signal)
        if self.state is not State.RUNNING:
            self.forgive()  # no such task ends by itself: it is killed
        self.state = State.STOPPED

    def await_end(self, deadline: Deadline) -> None:
        """Wait for the end that was asked for; force it at the deadline."""
        if self.process is not None and self.process.wait(deadline) is None:
            self.forgive()  # it is we who kill it
            self.process.force()

    def finish(self, deadline: Deadline) -> None:
        """Give everything back, by the deadline; StopError if the task outlives that."""
        process = self.process
        if process is None:
            return
        process.close(deadline)
        if process.exitcode is None:
            raise StopError(
                f"{self.task} outlived SIGKILL",
                task=str(self.task),
                address=self.place.lease.address,
                pid=process.pid,
                survivors=(str(self.task),),
                remedy="look what the kernel has it wait for: /proc/PID/stack",
            )
        if self.state is State.STARTING:
            self.state = State.STOPPED
            self.forgive()  # the failed start has been reported

    def kill(self, signal: int, deadline: Deadline) -> None:
        """Send a signal that the task may die of; after SIGKILL it is dead by the deadline."""
        process = self.living("kill")
        self.asked.add(signal)
        _moments.tell(self._handle, "kill", signals.Signals(signal).name)
        process.signal(signal)
        if signal == signals.SIGKILL:
            self.state = State.KILLED
            process.wait(deadline)
            self.hear_out()
        elif signal == signals.SIGSTOP:
            self.state = State.SUSPENDED
        elif signal == signals.SIGCONT and self.state is State.SUSPENDED:
            self.state = State.RUNNING

    def suspend(self) -> None:
        """Stop the task in its tracks."""
        self.living("suspend").signal(signals.SIGSTOP)
        _moments.tell(self._handle, "suspend")
        self.state = State.SUSPENDED

    def resume(self) -> None:
        """Let it go on."""
        self.living("resume").signal(signals.SIGCONT)
        _moments.tell(self._handle, "resume")
        self.state = State.RUNNING

    def can_reset(self) -> bool:
        """Tell whether the task can go back to the state just after start, other than by a restart.

        It can if its runtime can, and if it is neither dead, suspended nor busy.
        """
        if not self.place.runtime.resets_in_place or not self._listens():
            return False
        return not self.living("reset").busy

    def reset(self) -> Future[None]:
        """Begin going back to the state just after start."""
        _moments.tell(self._handle, "reset")
        return self.living("reset").reset()

    def forget(self, peer: Task) -> Future[None] | None:
        """Begin dropping what the task knows of a restarted peer; None if it cannot listen."""
        if not self._listens():
            return None
        assert self.process is not None
        return self.process.forget(peer)

    def attend(self) -> Future[None] | None:
        """Begin to take what the task warned and logged; None if it cannot listen."""
        if self.process is None or self.process.program:
            return None
        if self.state is not State.RUNNING and self.is_alive():
            return None
        return self.process.attend()

    def hear_out(self) -> None:
        """Take what a task that has ended warned and logged, which is on its way at most."""
        future = self.attend()
        if future is not None:
            wait([future], _LAST_WAIT)

    def _listens(self) -> bool:
        running = self.state is State.RUNNING and self.is_alive()
        return running and self.process is not None and not self.process.program

    def living(self, verb: str) -> Process:
        """Return the process; ServerExited if there is none to ``verb``."""
        if self.process is None or not self.is_alive():
            error = self._exited(f"; there is nothing to {verb}")
            self.forgive()  # the test has its report
            raise error
        return self.process

    def forgive(self, pid: int | None = None) -> None:
        """Let the death of a process count as no surprise: the present one if ``pid`` is None."""
        if self._death is not None and self._death.pid == pid:
            self._death = None
        if pid is None or self.process is None or self.process.pid == pid:
            self.forgiven = True

    def forgive_during(self, call: Future[Any]) -> None:
        """Let its death count as no surprise if it happens during this call."""
        process, before = self.process, self.forgiven
        self.forgive()

        def end(ended: Future[Any]) -> None:
            # Not ended.exception(): a caller's look at the result is not this one.
            if process is self.process and process is not None and process.exitcode is None:
                self.forgiven = before

        call.add_done_callback(end)

    def unexpected_death(self) -> ServerExited | None:
        """Return the report of a death that nobody asked for or was told of, if there was one."""
        while True:
            process = self.process
            death = self._unexpected_death_of(process)
            if self.process is process:  # no other thread has restarted it while we looked
                return death

    def _unexpected_death_of(self, process: Process | None) -> ServerExited | None:
        code = None if process is None else process.exitcode
        if process is None or code is None or self.forgiven or self._was_asked(code):
            return self._death
        lived = self.state in (State.RUNNING, State.SUSPENDED)
        # It may have been asked to stop when it was dead already, and nobody knew yet.
        if lived or (self.state is State.STOPPED and code != 0):
            oom = process.out_of_memory()
            return exited(self._context, self.log, process.pid, code, " on its own", oom=oom)
        return self._death

    def _was_asked(self, code: int) -> bool:
        """Tell whether a test's kill() may have come to this end."""
        return -code in self.asked or (code >= 0 and not self.asked.isdisjoint(_ENDING))

    def _exited(self, doing: str) -> ServerExited:
        process = self.process
        if process is None or self.state in (State.STOPPED, State.NEW):
            return ServerExited(f"{self.task} is {self.state.value}{doing}", task=str(self.task))
        return exited(self._context, self.log, process.pid, process.exitcode, doing)

    def status(self) -> str:
        """Say how it is: ``running, pid 812``."""
        process, state = self.process, self.state.value
        if process is None:
            return state
        if process.exitcode is None:
            return f"{state}, pid {process.pid}"
        dead = self.state in (State.RUNNING, State.SUSPENDED)
        return f"{'dead' if dead else state}, exit code {process.exitcode}"
