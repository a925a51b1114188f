"""Life: one task's process, through all its starts and ends."""

from __future__ import annotations

import enum
import re
import signal as signals
from concurrent.futures import wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from . import _moments
from ._clock import Deadline, now
from ._core.listeners import holder_of, in_use, ports_in_use
from ._launch import Entry, Process
from ._launch.reports import (
    describe_exit,
    died_starting,
    exited,
    never_ready,
    not_killed,
)
from ._logs import empty_folder
from ._ports import Binding, system_holds_ports
from ._terminal import terminal
from .errors import PortError, ServerExited, StopError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ._context import TaskContext
    from ._launch import Lease
    from ._launch.ray.berth import RayBerth
    from ._logs import TaskLog
    from ._server import Server
    from ._setup import Place
    from ._spec import Task
    from .errors import StartError, StartTimeout

__all__ = ["Life", "State"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


_RECENT = 1 << 16  # how much output is searched for the reason of a failed start

_PORT_NUMBER = re.compile(r"(?<![\w.-])([1-9]\d{3,4})(?![\w.-])")

_END = 1.0
"""Seconds for the end of a program that is killed, which takes none."""

_REMEDY_IN_USE = (
    "end the process that has it; or give the program a port of its own for it, by ports= of the "
    "cluster and {ports[NAME]}; or set SO_REUSEADDR in the program if its own last connections are "
    "in the way"
)

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
        self._binding = place.runtime.binding(self.task.job)
        self._deadline = Deadline(None)  # of the last start
        self._launched = 0.0  # when its process was
        self._heard: tuple[object, ...] = ()  # how far its words were searched for a refusal

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

    def empty_folder(self) -> None:
        """Remove what the task, or a test, has left in its own folder."""
        folder = self._context.dir
        if folder is None:
            return
        if self.process is not None and self.process.elsewhere:
            cast("RayBerth", self.place.launcher).empty_folder()
        else:
            empty_folder(folder)

    def launch(self, deadline: Deadline) -> None:
        """Start the task without waiting for it; it is to serve by the deadline."""
        self._death = self.unexpected_death()
        self._launch(deadline)

    def _launch(self, deadline: Deadline) -> None:
        assignment, runtime, launcher, *_ = self.place
        for lease in self._leases():
            # A launcher of the user's own may have leases that know no way but the usual one.
            lease.hand_over(*([self._binding] if self._binding else []))
        self._deadline, self._launched = deadline, now()
        self.log.begin()
        self.state = State.STARTING
        self._missing = None
        self.forgiven = self.kept = False
        self.asked.clear()
        if (recorder := _moments.recorder()) is not None:
            assignment = replace(assignment, record=recorder.launching(self._handle))
        entry = Entry(runtime.entry(assignment), assignment.context, deadline, terminal())
        self.process = launcher.launch(entry, self.log)

    def _leases(self) -> list[Lease]:
        return [self.place.lease, *self.place.others]

    def take_ports_back(self) -> None:
        """Hold the ports again after the end of a process.

        Raises:
            PortError: somebody else took one meanwhile.
        """
        for lease in self._leases():
            try:
                lease.take_back()
            except PortError:
                if not self._binding:
                    raise
                # Connections of a program that does not set SO_REUSEADDR keep others away for some
                # time after its end, us as well; the lease stays aside, and the next start shows
                # whether a stranger has the port.

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
            died = process.exitcode is not None
            if process.program and (self._missing or died) and self._makes_room():
                return False
            if (self._missing or process.program) and died:
                raise self._died_starting(" while it started")
            if self._missing:
                return False
            self.state = State.RUNNING
            self.place.runtime.learn(self.task.job, self._binding)
            _moments.tell(self._handle, "ready")
        if process.exitcode is not None:  # whoever has taken note of that, here it is told
            self.forgive()
            raise self._died_starting(" while others started")
        return True

    def _makes_room(self) -> bool:
        """Start a program anew, with more room at its ports, if they may have been refused to it.

        That is so if it said that an address is in use, unless it named another one, and if it
        ended without a word. It begins with the least room, so that nobody has more than it needs.
        """
        process = self.process
        assert process is not None
        if self._binding is Binding.WILDCARD or not system_holds_ports():
            return False
        heard, self._heard = self._heard, (process, self.log.mark(), process.exitcode)
        if heard == self._heard:
            return False
        lines = in_use(text := self._said())
        named = ports_in_use(lines)
        if named and not set(named) & set(self._ports()):
            return False
        if not lines:
            left, spent = self._deadline.remaining(), now() - self._launched
            in_time = left is None or left > spent * (Binding.WILDCARD - self._binding)
            if text.strip() or not process.exitcode or process.exitcode < 0 or not in_time:
                return False
        process.close(Deadline(_END))
        if process.exitcode is None:
            return False
        self._binding = Binding(self._binding + 1)
        if lines:
            self.log.write(
                "-- started once more by pytest-localcluster: it does not set SO_REUSEADDR, and so "
                "the leases of its ports were in its way\n"
            )
        self._launch(self._deadline)
        return True

    def _said(self) -> str:
        return self.log.since(max(self.log.begun, self.log.mark() - _RECENT))

    def _ports(self) -> list[int]:
        leased = (int(lease.address.rpartition(":")[2]) for lease in self._leases())
        return list(dict.fromkeys([*leased, *self._context.ports.values()]))

    def _in_use(self) -> tuple[str, list[int]]:
        """Return who has the address that a program says it cannot have, and our ports among them.

        "" if it says nothing like that.
        """
        process = self.process
        assert process is not None
        lines = in_use(self._said())
        if not process.program or not lines:
            return "", []
        ours, named = self._ports(), ports_in_use(lines)
        host = self.place.lease.address.rpartition(":")[0]
        but = [] if process.pid is None else [process.pid]
        found = {}
        for port in [] if process.elsewhere else named or ours:
            found[port] = holder_of(port, but)
        if not any(found.values()) and not named and not process.elsewhere:
            # It may be a port that its own command line names.
            numbers = {int(number) for number in _PORT_NUMBER.findall(process.program)}
            found |= {port: holder_of(port, but, lingering=False) for port in sorted(numbers)}
        known = [f"{host}:{port} is in use: {who}" for port, who in found.items() if who]
        known = known or [f"{host}:{port} is in use" for port in named]
        text = "; ".join(known) or f"an address is in use ({lines[-1].strip()})"
        return text, [port for port, who in found.items() if who and port in ours]

    def late(self, deadline: Deadline) -> StartTimeout:
        """Return the error for a task that is alive, but did not come up by the deadline."""
        process = self.process
        assert process is not None
        if self._missing is None:
            return process.late(deadline)
        seconds, (taken, _) = deadline.seconds or 0.0, self._in_use()
        missing = f"{self._missing}; {taken}" if taken else self._missing
        return never_ready(self._context, self.log, process.pid, seconds, process.program, missing)

    def _died_starting(self, doing: str) -> StartError:
        process = self.process
        assert process is not None
        what = f"{process.program or 'it'} {describe_exit(process.exitcode)}"
        if self.state is State.RUNNING:
            what += doing
        taken, ours = self._in_use()
        if taken:
            what += f": {taken}"
        error = died_starting(self._context, self.log, process.pid, process.exitcode, what, doing)
        if taken:
            error.remedy = _REMEDY_IN_USE
        if ours:  # a cluster is started once more then, with other ports
            cause = PortError(f"a leased port was taken: {taken}")
            cause.__cause__, error.__cause__ = error.__cause__, cause
        return error

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
        if self._binding:
            self.take_ports_back()
        if self.state is State.STARTING:
            self.state = State.STOPPED
            self.forgive()  # the failed start has been reported

    def kill(self, signal: int, deadline: Deadline) -> None:
        """Send a signal that the task may die of; after SIGKILL it is dead.

        Raises:
            ClusterError: it was not seen to be dead by the deadline.
        """
        process = self.living("kill")
        self.asked.add(signal)
        _moments.tell(self._handle, "kill", signals.Signals(signal).name)
        process.signal(signal)
        if signal == signals.SIGKILL:
            self.state = State.KILLED
            if process.wait(deadline) is None:
                raise not_killed(self._context, process.pid, deadline.seconds)
            self.hear_out()
            if self._binding:
                self.take_ports_back()
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
            test = self._handle.stopped_with
            since = f" since {test} ended" if test else ""
            return ServerExited(
                f"{self.task} is {self.state.value}{since}{doing}", task=str(self.task)
            )
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
