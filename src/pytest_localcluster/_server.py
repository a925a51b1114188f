"""Server: the handle of one task, with the faults that a test inflicts on it."""

from __future__ import annotations

import os
import signal as signals
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from . import _held, _moments
from ._channel import TaskChannel
from ._clock import Deadline, now_ns
from ._core import coroutines, stopped
from ._core.files import of_the_machine
from ._core.forks import inherited, owner_only
from ._core.sockets import need_sockets
from ._life import Life, State
from ._lives import end_all, wait_all_ready
from ._results import Result, gather
from .errors import ServerExited, SpecError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

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
        self.stopped_with: str = ""
        self._address: str = place.lease.address
        self._target: str = place.assignment.context.target
        self.log = log
        self._life = Life(self, place, log)

    def __reduce__(self) -> tuple[Any, ...]:
        from ._attach.views import server_here  # for who takes a handle to a task

        return server_here, (self.cluster, self.task)

    @property
    def instead_of_session(self) -> str:
        """What clients use in place of a Session; "" if its runtime takes sessions."""
        return self._life.place.runtime.instead_of_session

    @property
    def _owner(self) -> int:
        return self.cluster._owner

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
    def ports(self) -> dict[str, int]:
        """The task's further ports, name to number, as ``ports=`` of the config asks for them."""
        return dict(self._life.place.assignment.context.ports)

    @property
    def dir(self) -> Path | None:
        """A folder of the task's own; None unless ``{dir}`` is used for the task.

        It lasts through restarts. It is removed with the cluster, or kept beside the task's log if
        logs are kept and the test fails.
        """
        return self._life.place.assignment.context.dir

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

    @owner_only
    def is_alive(self) -> bool:
        """Tell whether the task runs, or is suspended."""
        return self._life.is_alive()

    @owner_only
    def join(self, timeout: float | None = None, *, check: bool = True) -> int | None:
        """Wait until the task has ended; return its exit code, None if ``timeout`` passed first.

        An exit with 0 is as good as asked for. Any other end fails the test all the same, unless
        kill() or stop() asked for it, or an error reported it; with ``check=False`` none does.
        """
        process = self._life.process
        code = None if process is None else process.wait(Deadline(timeout))
        if code == 0 or (code is not None and not check):
            self._life.forgive()
        if code is not None:
            self._life.hear_out()
        return code

    def unexpected_death(self) -> ServerExited | None:
        """Return the report of a death that nobody asked for or was told of, if there was one."""
        return self._life.unexpected_death()

    @owner_only
    def start(self) -> None:
        """Start the task again after :meth:`stop` or its death; nothing happens if it runs."""
        with self.cluster._lock:
            if not self.is_alive():
                self.restart()

    @owner_only
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

    @owner_only
    def stop(self) -> None:
        """Stop the task; its address stays its own. Idempotent."""
        with self.cluster._lock:
            end_all([self._life], self.cluster.config.stop_timeout)

    @owner_only
    def restart(self) -> None:
        """Stop the task if it runs, start it again at the same address, return when it is ready.

        Its state is lost, its log goes on, and it starts with the environment, directory and path
        that the test process has now. Tasks and sessions that knew it find it again by themselves.
        """
        self._restart()

    def _restart(self, *, anew: bool = False) -> None:
        """Restart the task; ``anew`` also without what is in its own folder."""
        with self.cluster._lock, of_the_machine(), need_sockets(f"a restart of {self.task}"):
            self.cluster._check_running(f"restart {self.task}")
            self.stop()
            if anew:
                self._life.empty_folder()
            self._life.take_ports_back()
            deadline = self.cluster._start_deadline()
            with _held.owned_by(self.cluster._held):
                self._life.launch(deadline)
            wait_all_ready([self._life], deadline)
            self.cluster._restarted(self)

    @owner_only
    def kill(self, signal: int = signals.SIGKILL) -> None:
        """Send the task a signal; after SIGKILL it is dead when this returns.

        SIGKILL goes to its whole process group, so that its children go with it. A death that
        was asked for like this does not fail the test.

        Raises:
            SpecError: there is no such signal.
            ClusterError: SIGKILL was sent, and the end was not seen within ``stop_timeout``.
            UnsupportedError: the task is a thread.
        """
        if isinstance(signal, bool) or signal not in signals.valid_signals():
            raise SpecError(f"{signal!r} is no signal", remedy="use signal.SIGTERM or its like")
        self._life.kill(signal, Deadline(self.cluster.config.stop_timeout))

    @owner_only
    def suspend(self) -> None:
        """Stop the task and its children in their tracks: they keep their sockets, but do nothing.

        Raises:
            ClusterError: it did not stop, because the kernel does not let it.
            UnsupportedError: the task is a thread.
        """
        self._life.suspend()

    @owner_only
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
            if not inherited(self) and self.is_alive() and self._life.state is State.SUSPENDED:
                self.resume()

    @overload
    def run(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> T: ...
    @overload
    def run(
        self, fn: Callable[..., T], /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> T: ...
    @owner_only
    def run(
        self, fn: Callable[..., Any], /, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Run ``fn(*args, **kwargs)`` in the task's main thread and return its result.

        ``fn`` may be a closure, a lambda or defined in the test module. A coroutine is awaited in
        the task, by ``asyncio.run``. What it prints is in the log before this returns.

        Without a ``timeout`` it may take as long as it likes, but not while the task is suspended.

        Raises:
            TimeoutError: it did not end in ``timeout`` seconds; it runs on in the task. Or, without
                one, the task has been suspended for some time.
            ServerExited: the task died meanwhile.
            SpecError: ``fn`` is a generator function.
            TransferError: ``fn``, its arguments or its result hold what cannot be pickled.
            Exception: whatever ``fn`` raised, as if raised here; the remote traceback is the
                ``__cause__`` of the last in its chain of causes.
        """
        return gather({self: self._submit(fn, args, kwargs)}, timeout)[0]

    @overload
    def submit(
        self, fn: Callable[..., NoReturn], /, *args: Any, **kwargs: Any
    ) -> Future[NoReturn]: ...
    @overload
    def submit(
        self, fn: Callable[..., Coroutine[Any, Any, T]], /, *args: Any, **kwargs: Any
    ) -> Future[T]: ...
    @overload
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]: ...
    @owner_only
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have the task run ``fn`` as :meth:`run` does, after what was submitted before.

        A coroutine awaits the result by ``await asyncio.wrap_future(server.submit(fn))``. An
        exception has a note with the task's name.
        """
        return self._submit(fn, args, kwargs, named=True)

    def _submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        named: bool = False,
    ) -> Future[Any]:
        """Have the task run a function; ``named`` adds the task's name to an exception."""
        coroutines.check(fn)
        process = self._life.living(f"run {getattr(fn, '__qualname__', fn)} in")
        began = now_ns()  # a busy machine may run it whole before the next line
        result = process.call(fn, args, kwargs)
        result.add_done_callback(self._explain)
        _moments.follow(self, fn, began, result)
        return Result(result, self._life, f"raised in {self.task}" if named else "")

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

    @owner_only
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
