"""LocalCluster: the lives of all tasks together."""

from __future__ import annotations

import os
import secrets
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from . import _held, _setup, _warned
from ._channel import close_all, renew_all
from ._clock import Deadline, now
from ._config import ClusterConfig
from ._context import Token
from ._core import coroutines, stopped
from ._core.files import of_the_machine
from ._core.forks import inherited, owner_only, refusal
from ._core.sockets import need_sockets
from ._exit import forget, stop_at_exit
from ._faults import Faults
from ._launchers import check_launcher
from ._lives import end_all, wait_all_ready
from ._net import lay_links
from ._observer import observer
from ._results import failure, gather
from ._runtimes import find_runtimes
from ._server import Server
from .errors import ClusterError, PortError, ServerExited, SpecError, StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from ._chaos import Chaos
    from ._client import Session
    from ._life import Life
    from ._spec import ClusterSpec, Task

__all__ = ["LocalCluster"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

T = TypeVar("T")


class LocalCluster(Faults):
    """A cluster of tasks on this machine; a context manager that starts and stops it.

    ``async with`` starts and stops it in a thread, while asyncio's event loop goes on.

    Args:
        config: what to build; a plain ClusterConfig if None.
        log_dir: keep the tasks' logs in this directory; otherwise they go with the cluster.
        fields: any field of ClusterConfig, over ``config``.

    ``workers, ps = cluster`` unpacks it as the ancestor's tuple.

    Attributes:
        config: what was asked for.
        servers: the handles of all tasks, in order of jobs: worker, ps, the others as given.
        log_dir: where the logs are kept; None if they go with the cluster.
        start_seconds: how long the last start took; None before it.
        stop_seconds: how long the last stop took; None before it.

    Raises:
        SpecError: asked for what cannot exist.
    """

    def __init__(
        self,
        config: ClusterConfig | None = None,
        *,
        log_dir: str | os.PathLike[str] | None = None,
        **fields: Any,
    ) -> None:
        base = ClusterConfig() if config is None else config
        if not isinstance(base, ClusterConfig):
            raise SpecError(f"a cluster is made from a ClusterConfig, not {config!r}")
        self.config: ClusterConfig = base.replace(**fields) if fields else base
        self.servers: list[Server] = []
        self.start_seconds: float | None = None
        self.stop_seconds: float | None = None
        self.log_dir = None if log_dir is None else Path(log_dir)
        check_launcher(self.config)
        self._runtimes = find_runtimes(self.config)
        self._token = Token(secrets.token_hex(16))
        self._spec: ClusterSpec | None = None
        self._root: str | None = None  # by what its tasks are known, if they speak TLS
        self._open: ExitStack | None = None
        self._owner = os.getpid()
        self._chaos: list[Chaos] = []  # for reports
        self._lock = threading.RLock()  # one start, stop, restart or reset at a time

    def __reduce__(self) -> tuple[Any, ...]:
        from ._attach.views import reduce_cluster  # for who takes a handle to a task

        spec = self._spec if self._open is not None else None
        return reduce_cluster(self, spec, self._token, self._root)

    @property
    def spec(self) -> ClusterSpec:
        """Who exists, at which address."""
        self._check_running("show its spec")
        assert self._spec is not None
        return self._spec

    @property
    def workers(self) -> list[Server]:
        """The servers of job ``worker``, by index."""
        return self.jobs["worker"]

    @property
    def ps(self) -> list[Server]:
        """The servers of job ``ps``, by index."""
        return self.jobs["ps"]

    @property
    def jobs(self) -> dict[str, list[Server]]:
        """The servers of each job, by index; ``worker`` and ``ps`` are always there."""
        jobs: dict[str, list[Server]] = {job: [] for job in self.config.counts()}
        for server in self.servers:
            jobs[server.task.job].append(server)
        return jobs

    def __iter__(self) -> Iterator[list[Server]]:
        yield self.workers
        yield self.ps

    def start(self) -> Self:
        """Start all tasks at once; return when all are ready.

        Raises:
            StartError: a task did not come up; nothing is left of the others.
            PortError: no ports are to be had.
        """
        if inherited(self):
            if self._open is not None:
                raise refusal(self, "start")
            self._owner, self._lock = os.getpid(), threading.RLock()
        with self._lock, of_the_machine(), need_sockets("a cluster"):
            if self._open is not None:
                raise ClusterError("this cluster runs already", remedy="stop() it first")
            began = now()
            try:
                self._start()
            except StartError as error:
                if not isinstance(error.__cause__, PortError):
                    raise
                self._start()  # a stranger took one of our ports by name before our server did
            self.start_seconds = now() - began
            return self

    def _start(self) -> None:
        self._held = _held.hold(repr(self).replace(": not running", ""))
        with ExitStack() as undo, _held.owned_by(self._held):
            undo.callback(self._held.give_back)
            undo.callback(setattr, self, "_open", None)
            watcher = observer()
            if self.log_dir is None and watcher is not None:
                self.log_dir = watcher.log_dir(self)
            self._spec, self._root, places, links, directory = _setup.lease_places(
                self.config, self._runtimes, self._token, self.log_dir, undo
            )
            kept = self.log_dir is not None
            logs = _setup.open_logs(self.config.tasks(), directory, kept, undo)
            self.servers = [
                Server(self, place, log) for place, log in zip(places, logs, strict=True)
            ]
            stopped.forget(server.address for server in self.servers)
            self._net = lay_links(self, links, self._spec, logs, undo)
            if watcher is not None:
                undo.callback(watcher.stopped, self)
            undo.callback(self._end)
            for server in self.servers:
                undo.callback(close_all, server.address)
            self._open = undo
            deadline, lives = self._start_deadline(), self._lives()
            for life in lives:
                life.launch(deadline)
            if watcher is not None:
                watcher.launched(self)
            wait_all_ready(lives, deadline)
            _setup.prepare_next(places)
            self._open = undo.pop_all()
        stop_at_exit(self)

    def _start_deadline(self) -> Deadline:
        return Deadline(_setup.start_seconds(self.config, self._runtimes.values()))

    @owner_only
    def stop(self) -> None:
        """Stop all tasks and give everything back. Idempotent.

        Raises:
            StopError: something would not die; everything else is gone all the same.
        """
        with self._lock, of_the_machine():
            opened, self._open = self._open, None
            if opened is None:
                return
            forget(self)
            began = now()
            try:
                opened.close()
            finally:
                self.stop_seconds = now() - began
                _held.forget_ended()
                _warned.deliver()

    def _clean_up(self) -> None:
        """Stop as :meth:`stop` does; in a fork, leave the cluster to the parent."""
        if not inherited(self):
            self.stop()

    def _end(self) -> None:
        lives = [life for life in self._lives() if not life.leave()]
        end_all(lives[::-1], self.config.stop_timeout)  # the last started goes first

    def _lives(self) -> list[Life]:
        return [server._life for server in (*self._net.servers, *self.servers)]

    def __enter__(self) -> Self:
        return self.start() if self._open is None else self

    def __exit__(self, *_: object) -> None:
        self._clean_up()

    async def __aenter__(self) -> Self:
        started = self._open is None
        try:
            return await coroutines.in_thread(self.__enter__)
        except BaseException:  # cancelled meanwhile, at the latest: a failed start leaves nothing
            if started:
                await coroutines.in_thread(self._clean_up)
            raise

    async def __aexit__(self, *_: object) -> None:
        await coroutines.in_thread(self._clean_up)

    def _check_running(self, verb: str) -> ExitStack:
        """Return what is undone at the stop, in reverse order; ClusterError if it is stopped."""
        if self._open is None:
            test = next((server.stopped_with for server in self.servers), "")
            since = f" since {test} ended" if test else ""
            raise ClusterError(
                f"this cluster does not run{since}: it cannot {verb}",
                remedy=stopped.REMEDY if test else "start() it",
            )
        return self._open

    def session(self, task: str | Task | Server = "/job:worker/task:0", **options: Any) -> Session:
        """Return a new Session to a task's target; it closes with the cluster.

        Args:
            task: the task, or its name.
            options: what Session takes besides the target.

        Raises:
            UnsupportedError: the task's runtime is not the native one.
        """
        from ._client import Session  # only who wants a session pays for the client

        server = self._find(task)
        server._check_takes_sessions()
        return Session(server.target, **options)

    @overload
    def run(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *args: Any,
        job: str = "worker",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> list[T]: ...
    @overload
    def run(
        self,
        fn: Callable[..., T],
        /,
        *args: Any,
        job: str = "worker",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> list[T]: ...
    @owner_only
    def run(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        job: str = "worker",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> list[Any]:
        """Run ``fn(*args, **kwargs)`` in every task of a job at once; return the results by index.

        The first failure, whichever task it comes from, is raised at once; see Server.run.
        """
        self._check_running("run a function")
        if job not in (jobs := self.jobs):
            raise SpecError(f"this cluster has no job {job!r}; its jobs are {', '.join(jobs)}")
        several = len(jobs[job]) > 1
        futures = {s: s._submit(fn, args, kwargs, named=several) for s in jobs[job]}
        return gather(futures, timeout)

    @owner_only
    def reset(self) -> None:
        """Bring every task's server back to the state just after start.

        Faults between them are healed. Sessions open themselves again; what they left is gone. A
        task that is dead, suspended or busy is restarted. The tasks' own folders (``{dir}``) are as
        they were at the start. What functions changed in a task's
        interpreter (its environment, directory, modules) stays: restart() begins anew.
        """
        with self._lock, of_the_machine():
            self._check_running("reset")
            self._net.heal()
            # First what is dead or suspended: the others may have to reach it for their reset.
            for server in (stale := [s for s in self.servers if not s._life.can_reset()]):
                server._restart(anew=True)
            for server in self.servers:
                if server not in stale:
                    server._life.empty_folder()
            futures = {s: s._life.reset() for s in self.servers if s not in stale}
            error = failure(futures, self._start_deadline())
            if error is not None:
                raise error

    @owner_only
    def restart_dead(self) -> list[Server]:
        """Start the tasks again that have died or were stopped; return them."""
        with self._lock:
            self._check_running("restart tasks")
            dead = [server for server in self.servers if not server.is_alive()]
            for server in dead:
                server.restart()
            return dead

    def _restarted(self, server: Server) -> None:
        """Have the others, and our sessions, forget what they knew of a task that began anew."""
        for address in (server.address, *self._net.leading_to(server.task)):
            renew_all(address)
        others = [other for other in self.servers if other is not server]
        futures = {other: other._life.forget(server.task) for other in others}
        error = failure({s: f for s, f in futures.items() if f}, self._start_deadline())
        if error is not None and not isinstance(error, ServerExited):
            raise error  # the death of another one is reported as its own

    def environ(self, task: str | Task | Server | None = None) -> dict[str, str]:
        """Return what a subprocess needs in its environment to join.

        As a client if ``task`` is None: TF_CONFIG without a task, and the token, with which
        ``Session`` finds it. As that task otherwise: all that the task itself was given.
        """
        self._check_running("tell how to join")
        if task is None:
            return _setup.client_environment(self.spec, self._token, root=self._root)
        return dict(self._find(task)._life.place.assignment.context.env)

    def __repr__(self) -> str:
        state = "running" if self._open is not None else "not running"
        jobs = ", ".join(f"{count} {job}" for job, count in self.config.counts().items() if count)
        return f"<LocalCluster of {jobs or 'no tasks'}: {state}>"
