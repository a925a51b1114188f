"""A LocalCluster and its Servers in a task to which a function has brought them along.

A handle itself holds processes, ports and locks, and stays in the test process. In a task arrives a
view: addresses, the spec, logs, and how to open sessions and channels. Whatever else the handle can
do is refused with the place where it can be done. A view that comes back is the handle again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from .. import _context
from .._channel import TaskChannel
from .._core import handles
from ..errors import ClusterError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import grpc

    from .._client import Session
    from .._cluster import LocalCluster
    from .._logs import TaskLog
    from .._server import Server
    from .._spec import ClusterSpec, Task

__all__ = ["ClusterView", "ServerView", "cluster_here", "reduce_cluster", "server_here"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


class _TaskFacts(NamedTuple):
    """One task: its addresses, its log, and the substitute of a Session, if it needs one."""

    task: Task
    address: str
    target: str
    log: TaskLog
    instead_of_session: str


class _Facts(NamedTuple):
    """The data of a cluster; ``spec`` is None if it was not running."""

    spec: ClusterSpec | None
    jobs: tuple[str, ...]
    tasks: tuple[_TaskFacts, ...]
    token: str
    root: str | None
    log_dir: Path | None


def reduce_cluster(
    cluster: LocalCluster, spec: ClusterSpec | None, token: str, root: str | None
) -> tuple[Any, ...]:
    """Return how a cluster goes to another process: what ``__reduce__`` returns.

    Args:
        cluster: the cluster.
        spec: its tasks and their addresses; None if it does not run.
        token: the token that calls to them carry.
        root: their root certificate if they speak TLS.
    """
    tasks = tuple(
        _TaskFacts(s.task, s.address, s.target, s.log, s.instead_of_session)
        for s in cluster.servers
    )
    jobs = tuple(cluster.config.counts())
    facts = _Facts(spec, jobs, tasks, _context.Token(token), root, cluster.log_dir)
    return cluster_here, (handles.key_of(cluster), facts)


def cluster_here(key: str, facts: Any) -> Any:
    """Return the cluster that has the key, or a view of it where that is elsewhere."""
    return handles.handle_of(key) or ClusterView(key, facts)


def server_here(cluster: Any, task: Task) -> Any:
    """Return a task's handle or view."""
    return next(server for server in cluster.servers if server.task == task)


class ClusterView(handles.View):
    """A cluster, in a process that has not started it.

    Attributes:
        servers: views of its tasks, in order of jobs.
        log_dir: where its logs are kept; None if they go with it.
    """

    _data_of_handle = ("config", "start_seconds", "stop_seconds")

    def __init__(self, key: str, facts: _Facts) -> None:
        super().__init__(key)
        self._facts = facts
        self.log_dir = facts.log_dir
        self.servers = [ServerView(self, one) for one in facts.tasks]
        for one in facts.tasks:
            if facts.root is not None and _context.root_for(one.address) is None:
                _context.register_root(one.address, facts.root)

    def __reduce__(self) -> tuple[Any, ...]:
        return cluster_here, (self._key, self._facts)

    @property
    def spec(self) -> ClusterSpec:
        """Its tasks and their addresses, as the test process dials them."""
        if self._facts.spec is None:
            raise ClusterError(
                "this cluster did not run when it was sent here: it has no spec",
                remedy="start() it before",
            )
        return self._facts.spec

    @property
    def workers(self) -> list[ServerView]:
        """The views of job ``worker``, by index."""
        return self.jobs["worker"]

    @property
    def ps(self) -> list[ServerView]:
        """The views of job ``ps``, by index."""
        return self.jobs["ps"]

    @property
    def jobs(self) -> dict[str, list[ServerView]]:
        """The views of each job, by index."""
        jobs: dict[str, list[ServerView]] = {job: [] for job in self._facts.jobs}
        for server in self.servers:
            jobs[server.task.job].append(server)
        return jobs

    def __iter__(self) -> Iterator[list[ServerView]]:
        yield self.workers
        yield self.ps

    def session(
        self, task: str | Task | ServerView | Server = "/job:worker/task:0", **options: Any
    ) -> Session:
        """Return a new Session to a task's target; close it here.

        Raises:
            UnsupportedError: the task's runtime is not the native one.
        """
        name = str(getattr(task, "task", task))
        for server in self.servers:
            if str(server.task) == name:
                return server.session(**options)
        names = ", ".join(str(server.task) for server in self.servers)
        raise ClusterError(f"this cluster has no task {name!r}; its tasks are {names}")

    def __enter__(self) -> NoReturn:
        raise self._refusal("`with`", called=False)

    def __exit__(self, *_: object) -> None:
        """Do nothing: it was not entered."""

    def _handle_class(self) -> type:
        from .._cluster import LocalCluster

        return LocalCluster

    def _refusal(self, name: str, *, called: bool) -> UnsupportedError:
        return _refusal("the cluster", name, called)

    def __repr__(self) -> str:
        counts = {job: len(servers) for job, servers in self.jobs.items()}
        jobs = ", ".join(f"{count} {job}" for job, count in counts.items() if count)
        return f"<view of a LocalCluster of {jobs or 'no tasks'}>"


class ServerView(handles.View):
    """One task of a cluster, in a process that has not started it.

    Attributes:
        cluster: the view of its cluster.
        task: which task it is.
        address: where it serves, ``localhost:port``, as the test process dials it.
        target: what a client dials, such as ``grpc://localhost:41234``.
        log: its output, if the file can be read here.
    """

    protocol = "grpc"

    def __init__(self, cluster: ClusterView, facts: _TaskFacts) -> None:
        super().__init__("")
        self.cluster = cluster
        self.task, self.address, self.target, self.log, self.instead_of_session = facts

    def __reduce__(self) -> tuple[Any, ...]:
        return server_here, (self.cluster, self.task)

    @property
    def job_name(self) -> str:
        """The name of its job."""
        return self.task.job

    @property
    def task_index(self) -> int:
        """Its index in its job."""
        return self.task.index

    def channel(self) -> grpc.Channel:
        """Return a new gRPC channel to the task, with the cluster's token; close it here."""
        return TaskChannel(self.address, self.cluster._facts.token)

    def session(self, **options: Any) -> Session:
        """Return a new Session to the task's target; close it here.

        Raises:
            UnsupportedError: the task's runtime is not the native one.
        """
        from .._client import Session

        if self.instead_of_session:
            raise UnsupportedError(
                f"no Session can be opened to {self.task}: its runtime takes none",
                task=str(self.task),
                address=self.address,
                remedy=self.instead_of_session,
            )
        return Session(self.target, **{"token": self.cluster._facts.token, **options})

    def _handle_class(self) -> type:
        from .._server import Server

        return Server

    def _refusal(self, name: str, *, called: bool) -> UnsupportedError:
        where = {"task": str(self.task), "address": self.address}
        return _refusal(str(self.task), name, called, **where)

    def __repr__(self) -> str:
        return f"<view of a Server {self.task} at {self.address}>"


def _refusal(whose: str, name: str, called: bool, **where: Any) -> UnsupportedError:
    verb = f"{name}()" if called else name
    return UnsupportedError(
        f"{verb} of {whose} is only for the test process, and this is a view in another one",
        remedy=f"use {verb} in the test, on the handle itself; a view has addresses, spec, log, "
        "session() and channel()",
        **where,
    )
