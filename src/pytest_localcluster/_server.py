"""Server: one task's life, from start to stop, with the faults that a test inflicts on it."""

from __future__ import annotations

import enum
import signal as signals
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ._clock import Deadline
from ._launch import Entry, Launcher, Process
from ._launch.reports import exited
from ._proto.server_pb2 import ServerDef
from .errors import ClusterError, ServerExited, StopError

if TYPE_CHECKING:
    import numpy as np

    from ._cluster import LocalCluster
    from ._logs import TaskLog
    from ._ports import PortLease
    from ._proto.config_pb2 import ConfigProto
    from ._runtimes import Assignment, Runtime
    from ._spec import Task

__all__ = ["Server", "State"]

T = TypeVar("T")


class State(enum.Enum):
    """Where a server is in its life; what it does on its own shows in its process."""

    NEW = "not started"
    STARTING = "starting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    KILLED = "killed"
    STOPPED = "stopped"


class Server:
    """The handle of one task of a running cluster.

    Attributes:
        task: which task it is.
        address: where it serves, ``localhost:port``; it stays the same through restarts.
        log: what the task prints, see TaskLog.
        cluster: the cluster that it belongs to.
    """

    def __init__(
        self,
        cluster: LocalCluster,
        assignment: Assignment,
        runtime: Runtime,
        launcher: Launcher,
        lease: PortLease,
        log: TaskLog,
    ) -> None:
        self.cluster = cluster
        self.task: Task = assignment.context.task
        self.address = lease.address
        self.log = log
        self._assignment = assignment
        self._runtime = runtime
        self._launcher = launcher
        self._lease = lease
        self._process: Process | None = None
        self._state = State.NEW
        self._may_die = False  # its death is no surprise: it was asked for, or the test knows of it

    @property
    def job_name(self) -> str:
        """The name of its job."""
        return self.task.job

    @property
    def task_index(self) -> int:
        """Its index in its job."""
        return self.task.index

    @property
    def target(self) -> str:
        """What a client dials, such as ``grpc://localhost:41234``."""
        return self._runtime.target(self.address)

    @property
    def server_def(self) -> ServerDef:
        """A new ServerDef message: the cluster, and which task of it this is."""
        return ServerDef.FromString(self._assignment.server_def)

    @property
    def protocol(self) -> str:
        """Always ``grpc``."""
        return self.cluster.config.protocol

    @property
    def config(self) -> ConfigProto | None:
        """A copy of the ConfigProto that this task was given; None if it was given none."""
        server_def = self.server_def
        if not server_def.HasField("default_session_config"):
            return None
        return server_def.default_session_config

    @property
    def pid(self) -> int | None:
        """Its process: its own, or the test's if it is a thread; None if it was never started."""
        return None if self._process is None else self._process.pid

    @property
    def exitcode(self) -> int | None:
        """None while it runs; afterwards as in :mod:`subprocess`, negative for a signal."""
        return None if self._process is None else self._process.exitcode

    def is_alive(self) -> bool:
        """Tell whether the task runs, or is suspended."""
        return self._process is not None and self._process.exitcode is None

    def join(self, timeout: float | None = None) -> int | None:
        """Wait until the task has ended; return its exit code, None if ``timeout`` passed first."""
        code = None if self._process is None else self._process.wait(Deadline(timeout))
        self._may_die = self._may_die or code is not None  # whoever is told need not be told again
        return code

    # Its life, as its cluster leads it: launch and wait_ready, ask_to_stop and finish.

    def launch(self) -> None:
        """Start the task without waiting for it."""
        self._lease.hand_over()
        entry = Entry(partial(self._runtime.serve, self._assignment), self._assignment.context)
        self._state = State.STARTING
        self._may_die = False
        self._process = self._launcher.launch(entry, self.log)

    def wait_ready(self, deadline: Deadline) -> None:
        """Wait until the task serves; a StartError tells why it does not."""
        assert self._process is not None
        self._process.wait_ready(deadline)
        self._state = State.RUNNING

    def ask_to_stop(self) -> None:
        """Ask the task to end, without waiting for it; what cannot listen is killed."""
        if self._process is None or not self.is_alive():
            return
        if self._state is State.SUSPENDED:
            self._process.signal(signals.SIGKILL)
        else:
            self._process.ask_to_stop()
        self._state = State.STOPPED

    def finish(self, deadline: Deadline) -> None:
        """Wait for the end that was asked for, force it at the deadline, give everything back."""
        process = self._process
        if process is None:
            return
        process.wait(deadline)
        process.close()
        if process.exitcode is None:
            raise StopError(
                f"{self.task} outlived SIGKILL",
                task=str(self.task),
                address=self.address,
                pid=process.pid,
                survivors=(str(self.task),),
                remedy="look what the kernel has it wait for: /proc/PID/stack",
            )
        if self._state is State.STARTING:
            self._state = State.STOPPED

    def stop(self) -> None:
        """Stop the task; its address stays its own. Idempotent."""
        deadline = Deadline(self.cluster.config.stop_timeout / 2)
        self.ask_to_stop()
        self.finish(deadline)

    def restart(self) -> None:
        """Stop the task if it runs, and start it again at the same address; return when it is ready.

        Its state is lost, its log goes on, and it starts with the environment, directory and path
        that the test process has now. Tasks and sessions that knew it find it again by themselves.
        """
        self.cluster._check_running(f"restart {self.task}")
        self.stop()
        self._lease.take_back()
        self.launch()
        self.wait_ready(self.cluster._start_deadline())
        self.cluster._restarted(self)

    def kill(self, signal: int = signals.SIGKILL) -> None:
        """Send the task a signal; after SIGKILL it is dead when this returns.

        SIGKILL goes to its whole process group, so that its children go with it. A death that
        was asked for like this does not fail the test.

        Raises:
            UnsupportedError: the task is a thread.
        """
        process = self._living("kill")
        process.signal(signal)
        self._may_die = True
        if signal == signals.SIGKILL:
            self._state = State.KILLED
            process.wait(Deadline(self.cluster.config.stop_timeout))

    def suspend(self) -> None:
        """Stop the task and its children in their tracks: they keep their sockets, but do nothing.

        Raises:
            UnsupportedError: the task is a thread.
        """
        self._living("suspend").signal(signals.SIGSTOP)
        self._state = State.SUSPENDED

    def resume(self) -> None:
        """Let a suspended task go on."""
        self._living("resume").signal(signals.SIGCONT)
        self._state = State.RUNNING

    @contextmanager
    def suspended(self) -> Iterator[Server]:
        """Keep the task suspended for the length of a ``with`` block."""
        self.suspend()
        try:
            yield self
        finally:
            if self.is_alive() and self._state is State.SUSPENDED:
                self.resume()

    def _living(self, verb: str) -> Process:
        process = self._process
        if process is None or not self.is_alive():
            raise self._exited(f"; there is nothing to {verb}")
        return process

    def _exited(self, doing: str = "") -> ServerExited:
        error = exited(self._assignment.context, self.log, self.pid, self.exitcode, doing)
        if self._process is None or self._state in (State.STOPPED, State.NEW):
            error.args = (f"{self.task} is {self._state.value}{doing}",)
            error.message = error.args[0]
        return error

    def unexpected_death(self) -> ServerExited | None:
        """Return the report of a death that nobody asked for or was told of; None if there was none."""
        lives = self._state in (State.RUNNING, State.SUSPENDED)
        if lives and not self._may_die and not self.is_alive():
            return self._exited(" on its own")
        return None

    # What a test has it do.

    def run(
        self, fn: Callable[..., T], *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> T:
        """Run ``fn(*args, **kwargs)`` in the task's main thread and return its result.

        ``fn`` may be a closure, a lambda or defined in the test module. What it prints is in the
        log before this returns.

        Raises:
            TimeoutError: it did not end in ``timeout`` seconds; it runs on in the task.
            ServerExited: the task died meanwhile.
            Exception: whatever ``fn`` raised, with the remote traceback as its ``__cause__``.
        """
        future = self.submit(fn, *args, **kwargs)
        try:
            return future.result(timeout)
        except FutureTimeout:
            if future.done():
                raise  # the function's own
            raise self.unfinished(timeout) from None

    def submit(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Have the task run ``fn`` as :meth:`run` does, after what was submitted before; do not wait."""
        process = self._living(f"run {getattr(fn, '__qualname__', fn)} in")
        return _Result(self, process.call(fn, args, kwargs))

    def unfinished(self, timeout: float | None) -> TimeoutError:
        """Return the error for a function that still runs after ``timeout`` seconds."""
        return TimeoutError(
            f"{self.task} at {self.address} (pid {self.pid}) has not finished after {timeout} s; "
            "it runs on, and what is submitted next waits for it: restart() the task to end it"
        )

    def variables(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return a copy of the variables that this task holds now, by name (native runtime).

        Raises:
            UnsupportedError: the task's runtime has none that could be read.
        """
        self._living("read variables of")
        timeout = self.cluster._start_deadline().seconds
        return dict(self._runtime.variables(self.address, self._assignment.token, timeout))

    # For the cluster.

    def _reset(self) -> Future[None] | None:
        """Begin going back to the state after start; None if only a restart would do."""
        in_place = (
            self._runtime.resets_in_place
            and self._state is State.RUNNING
            and self.is_alive()
            and self._process is not None
            and not self._process.busy
        )
        if not in_place or self._process is None:
            return None
        return self._process.reset()

    def _forget(self, peer: Server) -> Future[None] | None:
        """Begin dropping what this task knows of a restarted peer; None if it knows nothing."""
        if self._process is None or self._state is not State.RUNNING or not self.is_alive():
            return None
        return self._process.forget(peer.task)

    def __repr__(self) -> str:
        state = self._state.value
        if self.unexpected_death() is not None:
            state = "dead"
        if self._process is not None and self.is_alive():
            state += f", pid {self.pid}"
        elif self.exitcode is not None:
            state += f", exit code {self.exitcode}"
        return f"<Server {self.task} at {self.address}: {state}>"


class _Result(Future[T]):
    """What a submitted function returns; whoever gets ServerExited from it knows of the death."""

    def __init__(self, server: Server, source: Future[T]) -> None:
        super().__init__()
        self._server = server
        self.set_running_or_notify_cancel()
        source.add_done_callback(self._take)

    def _take(self, source: Future[T]) -> None:
        error = source.exception()
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(source.result())

    def result(self, timeout: float | None = None) -> T:
        try:
            return super().result(timeout)
        except ServerExited:
            self._server._may_die = True
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = super().exception(timeout)
        if isinstance(error, ServerExited):
            self._server._may_die = True
        return error


def failed(futures: dict[Server, Future[None]], deadline: Deadline) -> ClusterError | None:
    """Wait for what several tasks were told to do; return the first failure."""
    for server, future in futures.items():
        try:
            future.result(deadline.remaining())
        except ClusterError as error:
            return error
        except FutureTimeout:
            return ClusterError(
                f"{server.task} did not answer within {deadline.seconds:g} s",
                task=str(server.task),
                address=server.address,
                pid=server.pid,
                remedy="read its log; restart() it",
            )
    return None
