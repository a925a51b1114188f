"""LocalCluster: the lives of all tasks together, and the function that its ancestor had."""

from __future__ import annotations

import atexit
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import _channel, _context, _ports
from ._clock import Deadline, now
from ._config import ClusterConfig
from ._context import TaskContext
from ._launch import find_launcher
from ._logs import TaskLog
from ._observer import observer
from ._proto.config_pb2 import ConfigProto
from ._proto.server_pb2 import ServerDef
from ._runtimes import Assignment, find_runtime
from ._server import Server, failed
from ._spec import ClusterSpec, Task
from .errors import ClusterError, PortError, SpecError, StartError, StopError

if TYPE_CHECKING:
    from types import TracebackType

    from ._client import Session

__all__ = ["LocalCluster", "create_local_cluster"]

T = TypeVar("T")
_GONE = 3
"""The seconds that killed processes get to vanish, after those that were asked got theirs."""


class LocalCluster:
    """A cluster of tasks on this machine; a context manager that starts and stops it.

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
        self.config = base.replace(**fields) if fields else base
        self.servers: list[Server] = []
        self.start_seconds: float | None = None
        self.stop_seconds: float | None = None
        self.log_dir = None if log_dir is None else Path(log_dir)
        self._runtimes = {
            job: find_runtime(runtime) for job, runtime in self._runtime_names().items()
        }
        for runtime in {id(runtime): runtime for runtime in self._runtimes.values()}.values():
            runtime.check(self.config)
        self._token = secrets.token_hex(16)
        self._spec: ClusterSpec | None = None
        self._open: ExitStack | None = None

    def _runtime_names(self) -> dict[str, Any]:
        runtime = self.config.runtime
        if isinstance(runtime, Mapping):
            return dict(runtime)
        return dict.fromkeys(self.config.counts(), runtime)

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

    # Life.

    def start(self) -> LocalCluster:
        """Start all tasks at once; return when all are ready.

        Raises:
            StartError: a task did not come up; nothing is left of the others.
            PortError: no ports are to be had.
        """
        if self._open is not None:
            raise ClusterError("this cluster runs already", remedy="stop() it first")
        began = now()
        try:
            self._start()
        except (StartError, PortError) as error:
            if not isinstance(error, PortError) and not isinstance(error.__cause__, PortError):
                raise
            # A stranger took one of our ports by name before our server listened.
            try:
                self._start()
            except Exception as second:
                raise second from error
        self.start_seconds = now() - began
        return self

    def _start(self) -> None:
        with ExitStack() as undo:
            undo.callback(self._clear)
            self.servers = self._prepare(undo)
            watcher = observer()
            if watcher is not None:
                undo.callback(watcher.stopped, self)
            undo.callback(self._end)
            self._open = undo
            deadline = self._start_deadline()
            for server in self.servers:
                server.launch()
            if watcher is not None:
                watcher.launched(self)
            self._wait_ready(deadline)
            self._open = undo.pop_all()
        _running.add(self)

    def _prepare(self, undo: ExitStack) -> list[Server]:
        """Lease the ports and tell each task who it is; ``undo`` learns how to take it back."""
        tasks = self.config.tasks()
        # The last lease is MASTER_PORT, for the collectives that the workers may want to form.
        leases = _ports.lease_ports(len(tasks) + bool(self.config.workers))
        for lease in leases:
            undo.callback(lease.release)
        addresses: dict[str, list[str]] = {job: [] for job in self.config.counts()}
        for task, lease in zip(tasks, leases, strict=False):
            addresses[task.job].append(lease.address)
        self._spec = ClusterSpec(addresses)
        logs = self._logs(tasks, undo)
        servers = []
        for task, lease, log in zip(tasks, leases, logs, strict=False):
            runtime = self._runtimes[task.job]
            launcher = find_launcher(
                self.config.launcher, tuple(dict.fromkeys((*runtime.preload, *self.config.preload)))
            )
            context = TaskContext(
                task,
                self._spec,
                runtime.target(lease.address),
                self._task_environment(task, leases[-1].port),
            )
            assignment = Assignment(context, self._server_def(task), self._token)
            servers.append(Server(self, assignment, runtime, launcher, lease, log))
            _context.register_token(lease.address, self._token)
            undo.callback(_context.forget_token, lease.address)
            undo.callback(_channel.close_all, lease.address)
        return servers

    def _logs(self, tasks: list[Task], undo: ExitStack) -> list[TaskLog]:
        watcher = observer()
        if self.log_dir is None and watcher is not None:
            self.log_dir = watcher.log_dir(self)
        kept = self.log_dir is not None
        if self.log_dir is not None:
            directory = self.log_dir
            directory.mkdir(parents=True, exist_ok=True)
        else:
            directory = Path(tempfile.mkdtemp(prefix="pytest-localcluster-"))
            undo.callback(directory.rmdir)
        logs = []
        for task in tasks:
            log = TaskLog(directory / f"{task.job}-{task.index}.log")
            logs.append(log)
            if not kept:
                undo.callback(log.remove)
        return logs

    def _server_def(self, task: Task) -> bytes:
        assert self._spec is not None
        server_def = ServerDef(
            cluster=self._spec.as_cluster_def(),
            job_name=task.job,
            task_index=task.index,
            protocol=self.config.protocol,
        )
        given = {"worker": self.config.worker_config, "ps": self.config.ps_config}.get(task.job)
        if given is not None:
            # By way of bytes, since it may be TensorFlow's own message.
            server_def.default_session_config.CopyFrom(
                ConfigProto.FromString(given.SerializeToString())
            )
        return server_def.SerializeToString()

    def _task_environment(self, task: Task, master_port: int) -> dict[str, str]:
        """Return what the cluster, and then the config, add to a task's environment."""
        env = self._environ(task)
        if task.job == "worker":
            env |= {
                "RANK": str(task.index),
                "LOCAL_RANK": str(task.index),
                "WORLD_SIZE": str(self.config.workers),
                "LOCAL_WORLD_SIZE": str(self.config.workers),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(master_port),
            }
        return env | self.config.environment(task)

    def _environ(self, task: Task | None) -> dict[str, str]:
        assert self._spec is not None
        return {
            "TF_CONFIG": self._spec.tf_config(task),
            _context.TOKEN_VARIABLE: self._token,
        }

    def _start_deadline(self) -> Deadline:
        seconds = self.config.start_timeout
        if seconds is None:
            seconds = max(
                (runtime.start_timeout for runtime in self._runtimes.values()), default=10
            )
        return Deadline(seconds)

    def _wait_ready(self, deadline: Deadline) -> None:
        late: StartError | None = None
        for server in self.servers:
            try:
                server.wait_ready(deadline)
            except TimeoutError as error:
                # Another one's death, if there is one, tells more than this one's waiting.
                if late is None and isinstance(error, StartError):
                    late = error
        if late is not None:
            raise late

    def stop(self) -> None:
        """Stop all tasks and give everything back. Idempotent.

        Raises:
            StopError: something would not die; everything else is gone all the same.
        """
        opened, self._open = self._open, None
        if opened is None:
            return
        _running.discard(self)
        began = now()
        try:
            opened.close()
        finally:
            self.stop_seconds = now() - began

    def _end(self) -> None:
        """Ask all, wait for all, kill what is left; the last one started goes first."""
        deadline = Deadline(self.config.stop_timeout / 2)
        failures = []
        for server in reversed(self.servers):
            server.ask_to_stop()
        for server in reversed(self.servers):
            try:
                server.finish(deadline)
            except StopError as error:
                failures.append(error)
        if failures:
            raise _all_survivors(failures)

    def _clear(self) -> None:
        self._open = None

    def __enter__(self) -> LocalCluster:
        return self.start() if self._open is None else self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self.stop()

    def _check_running(self, verb: str) -> None:
        if self._open is None:
            raise ClusterError(
                f"this cluster is not running, and cannot {verb}", remedy="start() it first"
            )

    # Use.

    def session(self, task: str | Task | Server = "/job:worker/task:0", **options: Any) -> Session:
        """Return a new Session to a task's target; it closes with the cluster.

        Args:
            task: the task, or its name.
            options: what Session takes besides the target.
        """
        from ._client import Session  # only who wants a session pays for the client

        return Session(self._find(task).target, **options)

    def _find(self, task: str | Task | Server) -> Server:
        self._check_running("look up a task")
        wanted = Task.parse(task) if isinstance(task, str) else task
        for server in self.servers:
            if wanted in (server, server.task):
                return server
        names = ", ".join(str(server.task) for server in self.servers)
        raise SpecError(
            f"this cluster has no task {wanted}", remedy=f"its tasks are {names or 'none'}"
        )

    def run(
        self,
        fn: Callable[..., T],
        *args: Any,
        job: str = "worker",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> list[T]:
        """Run ``fn(*args, **kwargs)`` in every task of a job at once; return the results by index.

        The first failure, whichever task it comes from, is raised at once; see Server.run.
        """
        self._check_running("run a function")
        servers = self.jobs.get(job)
        if servers is None:
            raise SpecError(
                f"this cluster has no job {job!r}", remedy=f"its jobs are {', '.join(self.jobs)}"
            )
        deadline = Deadline(timeout)
        futures = {server.submit(fn, *args, **kwargs): server for server in servers}
        done, _ = wait(futures, deadline.remaining(), FIRST_EXCEPTION)
        for future in done:
            error = future.exception()
            if error is not None:
                error.add_note(f"raised in {futures[future].task}")
                raise error
        for future, server in futures.items():
            if not future.done():
                raise server.unfinished(timeout)
        return [future.result() for future in futures]

    def reset(self) -> None:
        """Bring every task back to the state just after start; dead tasks are started again.

        Sessions open themselves again; what they had left on the tasks is gone.
        """
        self._check_running("reset")
        futures = {}
        for server in self.servers:
            future = server._reset()
            if future is not None:
                futures[server] = future
        rest = [server for server in self.servers if server not in futures]
        deadline = self._start_deadline()
        error = failed(futures, deadline)
        if error is not None:
            raise error
        for server in rest:
            server.restart()

    def restart_dead(self) -> list[Server]:
        """Start the tasks again that have died or were stopped; return them."""
        self._check_running("restart tasks")
        dead = [server for server in self.servers if not server.is_alive()]
        for server in dead:
            server.restart()
        return dead

    def _restarted(self, server: Server) -> None:
        """Have the others forget what they knew of a task that has begun anew."""
        futures = {}
        for other in self.servers:
            future = other._forget(server) if other is not server else None
            if future is not None:
                futures[other] = future
        error = failed(futures, self._start_deadline())
        if error is not None and not isinstance(error, StartError):
            raise error

    def environ(self, task: str | Task | Server | None = None) -> dict[str, str]:
        """Return what a subprocess needs in its environment to join.

        As a client if ``task`` is None: TF_CONFIG without a task, and the token, with which
        ``Session`` finds it. As that task otherwise: all that the task itself was given.
        """
        self._check_running("tell how to join")
        if task is None:
            return self._environ(None)
        return dict(self._find(task)._assignment.context.env)

    def __repr__(self) -> str:
        state = "running" if self._open is not None else "not running"
        counts = ", ".join(f"{count} {job}" for job, count in self.config.counts().items() if count)
        return f"<LocalCluster of {counts or 'no tasks'}: {state}>"


_running: set[LocalCluster] = set()


@atexit.register
def _stop_all() -> None:
    for cluster in list(_running):
        with suppress(StopError):
            cluster.stop()


def _all_survivors(failures: list[StopError]) -> StopError:
    if len(failures) == 1:
        return failures[0]
    survivors = tuple(name for failure in failures for name in failure.survivors)
    return StopError(
        f"{len(failures)} tasks would not stop: {', '.join(survivors)}",
        survivors=survivors,
        evidence="\n".join(str(failure) for failure in failures),
    )


def create_local_cluster(
    num_workers: int,
    num_ps: int,
    protocol: str = "grpc",
    worker_config: Any = None,
    ps_config: Any = None,
    **config: Any,
) -> tuple[list[Server], list[Server]]:
    """Start a cluster as ``tf.test.create_local_cluster`` does.

    Called while a fixture is being set up, its servers live as long as that fixture; called in a
    test, until the test ends; otherwise until the interpreter exits, or ``server.cluster.stop()``.

    Args:
        num_workers: tasks of job ``worker``.
        num_ps: tasks of job ``ps``.
        protocol: ``"grpc"``.
        worker_config: a ConfigProto for every worker.
        ps_config: a ConfigProto for every ps.
        config: any other field of ClusterConfig.

    Returns:
        ``(worker_servers, ps_servers)``, each by task index.

    Raises:
        SpecError: asked for what cannot exist.
        StartError: a task did not come up.
        ImportError: portpicker cannot be imported.
    """
    base = ClusterConfig().replace(
        workers=num_workers,
        ps=num_ps,
        protocol=protocol,
        worker_config=worker_config,
        ps_config=ps_config,
        **config,
    )
    cluster = LocalCluster(base)
    watcher = observer()
    if watcher is not None:
        watcher.created(cluster)
    cluster.start()
    return cluster.workers, cluster.ps
