"""Runs in the steward, never in a test process: its clusters, by what workers mean by them."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from .._clock import Deadline, Thread
from .._cluster import LocalCluster
from .._clusterfile import ProcessId
from .._core import exceptions, pickling
from .._launch import reports
from .._launch.handle import ChildProcess
from .._launch.wire import DUMP_SIGNAL
from .._launchers import prepare
from .._logs import new_folder
from ..errors import ClusterError
from .messages import Facts, TaskFacts

if TYPE_CHECKING:
    from .._core.settings import News
    from .._launch import Process
    from .._server import Server
    from .._spec import Task
    from ..errors import ServerExited
    from .messages import Wish

__all__ = ["Keeper"]

_REAPED = 1.0
"""Seconds until the end of a process, which others have seen, is known here as well."""

Which = tuple[str, "Task", int]
"""A task by its cluster's key and its pid, which is of one of its lives only."""


class Keeper:
    """All clusters of the steward. Its methods are called by many threads at once."""

    def __init__(self) -> None:
        self._clusters: dict[str, _Kept] = {}
        # One start at a time: environment, directory and path are those of whoever asked for it.
        self._starting = threading.Lock()

    def cluster(self, wish: Wish) -> Facts:
        """Return what there is to know of a cluster; all its tasks are alive, started if need be.

        Raises:
            ClusterError: it, or a task of it, does not start.
        """
        kept = self._clusters.get(wish.key)
        if kept is not None and not kept.dead():
            return kept.facts()
        with self._starting:
            wish.surroundings.take_over()
            kept = self._clusters.get(wish.key)
            if kept is not None:
                return kept.facts(restarted=kept.revive())
            folder = None if wish.log_dir is None else new_folder(wish.log_dir, wish.name)
            cluster = LocalCluster(pickling.loads(wish.config), log_dir=folder)
            cluster.start()
            kept = self._clusters[wish.key] = _Kept(cluster)
            return kept.facts(started=True)

    def prepare(self, wish: Wish) -> None:
        """Have what would start the tasks get ready."""
        with self._starting:
            if wish.key not in self._clusters:
                wish.surroundings.take_over()
                prepare(pickling.loads(wish.config))

    def ended(self, which: Which) -> tuple[int | None, str]:
        """Return how a process of a task has ended, and what tells that it was for want of memory.

        Whoever asks has seen its end already.
        """
        key, task, pid = which
        kept = self._clusters[key]
        server = kept.server(task)
        if server.pid == pid:
            kept.note(server)
        return kept.ends.get((task, pid), (None, ""))

    def dump(self, which: Which) -> None:
        """Have a task write the stacks of its threads to its log."""
        process = self._process(which)
        if process is not None:
            process.signal(DUMP_SIGNAL)

    def call(self, which: Which, call: bytes, news: News | None) -> Future[Any]:
        """Have a task run a function of a worker's; the answer is for that worker to read."""
        process = self._process(which)
        if process is None:
            return _failed(self._exited(which))
        if isinstance(process, ChildProcess):
            return process.relay(call, news)
        answer: Future[Any] = Future()
        try:
            result = process.call(*pickling.loads(call))
        except Exception as error:
            return _failed(error)
        result.add_done_callback(partial(_relay, answer))
        return answer

    def _process(self, which: Which) -> Process | None:
        """Return a task's process; None if it is not the one that is meant any more."""
        key, task, pid = which
        process = self._clusters[key].server(task)._life.process
        return process if process is not None and process.pid == pid else None

    def _exited(self, which: Which) -> ServerExited:
        key, task, pid = which
        server = self._clusters[key].server(task)
        context = server._life.place.assignment.context
        return reports.exited(context, server.log, pid, self.ended(which)[0], "")

    def stop(self, seconds: float | None) -> None:
        """Stop all clusters at once, in ``seconds`` if that is not None."""

        def stop(cluster: LocalCluster) -> None:
            if seconds is not None:
                cluster.config = cluster.config.replace(stop_timeout=seconds)
            with suppress(ClusterError):
                cluster.stop()

        threads = [Thread(target=stop, args=(kept.cluster,)) for kept in self._clusters.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class _Kept:
    """One cluster, and how processes of it have ended."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.ends: dict[tuple[Task, int], tuple[int | None, str]] = {}
        self._deaths: dict[Task, ServerExited] = {}

    def server(self, task: Task) -> Server:
        return next(server for server in self.cluster.servers if server.task == task)

    def dead(self) -> list[Server]:
        return [server for server in self.cluster.servers if not server.is_alive()]

    def note(self, server: Server) -> None:
        """Remember how the process of a task has ended, which may be known a little later."""
        process = server._life.process
        # Not join(), by which whoever waits is told of the end: here nobody is.
        code = None if process is None else process.wait(Deadline(_REAPED))
        if process is not None and process.pid is not None and code is not None:
            self.ends[server.task, process.pid] = code, process.out_of_memory()

    def revive(self) -> tuple[Task, ...]:
        """Restart what is dead; return that."""
        for server in self.dead():
            self.note(server)
            death = server.unexpected_death()
            if death is not None:
                self._deaths[server.task] = death
        return tuple(server.task for server in self.cluster.restart_dead())

    def facts(self, *, started: bool = False, restarted: tuple[Task, ...] = ()) -> Facts:
        cluster = self.cluster
        return Facts(
            ProcessId.of(os.getpid()),
            cluster.spec,
            cluster._token,
            cluster.log_dir,
            tuple(map(self._task, cluster.servers)),
            started,
            restarted,
        )

    def _task(self, server: Server) -> TaskFacts:
        place, process = server._life.place, server._life.process
        assert process is not None
        return TaskFacts(
            place.assignment.context,
            place.server_def,
            ProcessId.of(process.pid or 0),
            process.program,
            server.log.path.absolute(),
            self._deaths.get(server.task),
        )


def _failed(error: BaseException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _relay(answer: Future[Any], result: Future[Any]) -> None:
    """Answer as a task in a process of its own would."""
    error = result.exception()
    try:
        if error is None:
            answer.set_result(("returned", [], [], pickling.dumps_back(result.result())))
            return
    except Exception as unsent:
        error = unsent
    answer.set_result(("raised", [], [], *exceptions.dump_exception(error)))
