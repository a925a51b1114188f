"""Server: the handle of one task, with the faults that a test inflicts on it."""

from __future__ import annotations

import os
import signal as signals
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from . import _held, _moments
from ._channel import TaskChannel
from ._clock import Deadline
from ._core import stopped
from ._life import Life, State
from ._lives import end_all, wait_all_ready
from ._results import Result, gather
from .errors import ServerExited, SpecError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc
    import numpy as np

    from ._cluster import LocalCluster
    from ._logs import TaskLog
    from ._proto.config_pb2 import ConfigProto
    from ._proto.server_pb2 import ServerDef
    from ._setup import Place
    from ._spec import Task

__all__ = ["Server"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

T = TypeVar("T")


class Server:
    """The handle of one task of a running cluster.

    Attributes:
        task: which task it is.
        log: what the task prints, see TaskLog.
        cluster: the cluster that it belongs to.
        stopped_with: the test that its cluster stopped with, once that is over; "" otherwise.
    """

    def __init__(self, cluster: LocalCluster, place: Place, log: TaskLog) -> None:
        self.cluster = cluster
        self.task: Task = place.assignment.context.task
        self.stopped_with = ""
        self._address: str = place.lease.address
        self._target: str = place.assignment.context.target
        self.log = log
        self._life = Life(self, place, log)

    @property
    def address(self) -> str:
        """Where it serves, ``localhost:port``; it stays the same through restarts.

        Once its cluster has stopped with an earlier test, asking for it warns.
        """
        self._check_stopped("address")
        return self._address

    @property
    def target(self) -> str:
        """What a client dials, such as ``grpc://localhost:41234``; warns as :attr:`address`."""
        self._check_stopped("target")
        return self._target

    @property
    def job_name(self) -> str:
        """The name of its job."""
        return self.task.job

    @property
    def task_index(self) -> int:
        """Its index in its job."""
        return self.task.index

    @property
    def server_def(self) -> ServerDef:
        """A new ServerDef message, with the cluster and which task of it this is.

        With the TensorFlow runtime it is TensorFlow's own message. It warns as :attr:`address`.
        """
        self._check_stopped("server_def")
        place = self._life.place
        message: ServerDef = place.runtime.server_def(place.server_def)
        return message

    @property
    def protocol(self) -> str:
        """Always ``grpc``."""
        return self.cluster.config.protocol

    @property
    def config(self) -> ConfigProto | None:
        """A copy of the ConfigProto that this task was given; None if it was given none."""
        server_def = self.server_def
        given = server_def.HasField("default_session_config")
        return server_def.default_session_config if given else None

    @property
    def pid(self) -> int | None:
        """Its process id, or the test's if it is a thread; None if it was never started."""
        return None if self._life.process is None else self._life.process.pid

    @property
    def exitcode(self) -> int | None:
        """None while it runs; afterwards as in :mod:`subprocess`, negative for a signal."""
        return None if self._life.process is None else self._life.process.exitcode

    def is_alive(self) -> bool:
        """Tell whether the task runs, or is suspended."""
        return self._life.is_alive()

    def join(self, timeout: float | None = None) -> int | None:
        """Wait until the task has ended; return its exit code, None if ``timeout`` passed first."""
        process = self._life.process
        code = None if process is None else process.wait(Deadline(timeout))
        if code is not None:
            self._life.forgive()
        return code

    def unexpected_death(self) -> ServerExited | None:
        """Return the report of a death that nobody asked for or was told of, if there was one."""
        return self._life.unexpected_death()

    def start(self) -> None:
        """Start the task again after :meth:`stop` or its death; nothing happens if it runs."""
        with self.cluster._lock:
            if not self.is_alive():
                self.restart()

    def channel(self) -> grpc.Channel:
        """Return a new gRPC channel to the task; it closes with the cluster.

        For clients of your own services. Unlike one from ``grpc.insecure_channel`` it ignores
        HTTP proxies, sets no limit to messages, finds a restarted task at once, and carries the
        cluster's token.
        """
        undo = self.cluster._check_running(f"open a channel to {self.task}")
        channel = TaskChannel(self.address, self._life.place.assignment.token)
        undo.callback(channel.close)
        return channel

    def stop(self) -> None:
        """Stop the task; its address stays its own. Idempotent."""
        with self.cluster._lock:
            end_all([self._life], self.cluster.config.stop_timeout)

    def restart(self) -> None:
        """Stop the task if it runs, start it again at the same address, return when it is ready.

        Its state is lost, its log goes on, and it starts with the environment, directory and path
        that the test process has now. Tasks and sessions that knew it find it again by themselves.
        """
        with self.cluster._lock:
            self.cluster._check_running(f"restart {self.task}")
            self.stop()
            self._life.place.lease.take_back()
            deadline = self.cluster._start_deadline()
            with _held.owned_by(self.cluster._held):
                self._life.launch(deadline)
            wait_all_ready([self._life], deadline)
            self.cluster._restarted(self)

    def kill(self, signal: int = signals.SIGKILL) -> None:
        """Send the task a signal; after SIGKILL it is dead when this returns.

        SIGKILL goes to its whole process group, so that its children go with it. A death that
        was asked for like this does not fail the test.

        Raises:
            SpecError: there is no such signal.
            UnsupportedError: the task is a thread.
        """
        if isinstance(signal, bool) or signal not in signals.valid_signals():
            raise SpecError(f"{signal!r} is no signal", remedy="use signal.SIGTERM or its like")
        self._life.kill(signal, Deadline(self.cluster.config.stop_timeout))

    def suspend(self) -> None:
        """Stop the task and its children in their tracks: they keep their sockets, but do nothing.

        Raises:
            ClusterError: it did not stop, because the kernel does not let it.
            UnsupportedError: the task is a thread.
        """
        self._life.suspend()

    def resume(self) -> None:
        """Let a suspended task go on."""
        self._life.resume()

    @contextmanager
    def suspended(self) -> Iterator[Server]:
        """Keep the task suspended for the length of a ``with`` block."""
        self.suspend()
        try:
            yield self
        finally:
            if self.is_alive() and self._life.state is State.SUSPENDED:
                self.resume()

    def run(
        self, fn: Callable[..., T], /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> T:
        """Run ``fn(*args, **kwargs)`` in the task's main thread and return its result.

        ``fn`` may be a closure, a lambda or defined in the test module. What it prints is in the
        log before this returns.

        Without a ``timeout`` it may take as long as it likes, but not while the task is suspended.

        Raises:
            TimeoutError: it did not end in ``timeout`` seconds; it runs on in the task. Or, without
                one, the task has been suspended for some time.
            ServerExited: the task died meanwhile.
            Exception: whatever ``fn`` raised, with the remote traceback as its ``__cause__``.
        """
        return gather({self: self.submit(fn, *args, **kwargs)}, timeout)[0]

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have the task run ``fn`` as :meth:`run` does, after what was submitted before."""
        process = self._life.living(f"run {getattr(fn, '__qualname__', fn)} in")
        result = process.call(fn, args, kwargs)
        result.add_done_callback(self._explain)
        _moments.follow(self, fn, result)
        return Result(result, self._life.forgive)

    def _explain(self, result: Future[Any]) -> None:
        """Have the runtime add to an error what it knows of it."""
        error = None if result.cancelled() else result.exception()
        if error is not None and (note := self._life.place.runtime.explain(error, self.task)):
            error.add_note(note)

    def is_suspended(self) -> bool:
        """Tell whether the task does nothing until it is resumed, whoever has stopped it.

        Of a task on another machine only what was done to it from here is known.
        """
        pid, process = self.pid, self._life.process
        here = pid not in (None, os.getpid()) and not (process and process.elsewhere)
        stopped = here and pid is not None and _held.is_stopped(pid)
        return self._life.state is State.SUSPENDED or stopped

    def unfinished(self, timeout: float | None) -> TimeoutError:
        """Return the error for a function that still runs after ``timeout`` seconds.

        None is for one that has none, and does not run, since the task is suspended.
        """
        if timeout is None:
            return TimeoutError(
                f"{self.task} at {self.address} (pid {self.pid}) is suspended, and does not run "
                "what it was given; resume() it, or give run() a timeout"
            )
        return TimeoutError(
            f"{self.task} at {self.address} (pid {self.pid}) has not finished after {timeout} s; "
            "it runs on, and what is submitted next waits for it: restart() the task to end it"
        )

    def variables(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return a copy of the variables that this task holds now, by name (native runtime).

        Raises:
            UnsupportedError: the task's runtime has none that could be read.
        """
        self._life.living("read variables of")
        timeout = self.cluster._start_deadline().seconds
        assignment, runtime, *_ = self._life.place
        return dict(runtime.variables(self.address, assignment.token, timeout))

    def test_is_over(self, test: str) -> None:
        """Note that the test is over which the cluster stopped with: nobody should dial it now."""
        self.stopped_with = test
        stopped.note(stopped.Stopped(str(self.task), self._address, test))

    def _check_stopped(self, attribute: str) -> None:
        if self.stopped_with:
            which = stopped.Stopped(str(self.task), self._address, self.stopped_with)
            stopped.warn(which, attribute)

    def _check_takes_sessions(self) -> None:
        runtime = self._life.place.runtime
        if runtime.instead_of_session:
            raise UnsupportedError(
                f"no Session can be opened to {self.task}, which {type(runtime).__name__} serves",
                task=str(self.task),
                address=self.address,
                remedy=runtime.instead_of_session,
            )

    def __repr__(self) -> str:
        return f"<Server {self.task} at {self.address}: {self._life.status()}>"
