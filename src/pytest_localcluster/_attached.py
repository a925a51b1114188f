"""AttachedCluster: a cluster that somebody else started and will end, used like one's own.

What any client may do can be done to it: sessions, variables, channels, a reset where it goes by
calls. What only the parent of a task can do (end it, stop it, run a function in its main thread) is
refused. It is a LocalCluster whose tasks are not launched, so all else is what it always is.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from . import _context, _held, _setup
from ._channel import close_all
from ._cluster import LocalCluster
from ._context import TaskContext
from ._foreign import Elsewhere, ForeignLog, ForeignServer, refusal
from ._net import Links
from ._observer import observer
from ._runtimes import Assignment, name_of
from ._setup import Place
from ._spec import ClusterSpec, Task
from .errors import OpError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._clusterfile import ClusterFile
    from ._config import ClusterConfig
    from ._life import Life
    from ._server import Server
    from .errors import UnsupportedError

__all__ = ["AttachedCluster"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_in_use: dict[Path, AttachedCluster] = {}


class AttachedCluster(LocalCluster):
    """The first tasks of each job of a running cluster, as many as ``config`` asks for.

    Starting it resets the whole cluster where all tasks are native, so that a test finds it as if
    it had just been started; where they are not, it is as the last one left it. Stopping it closes
    what was opened to the tasks, and lets them be.

    Args:
        file: what is known of the cluster.
        path: where that is written.
        config: what is asked for.

    Raises:
        SpecError: the cluster is not what is asked for.
    """

    def __init__(self, file: ClusterFile, path: Path, config: ClusterConfig) -> None:
        super().__init__(config)
        self._file = file
        self._path = path
        self._token = file.token
        self._resets = set(file.runtimes.values()) <= {"native"}
        self._check()

    def _check(self) -> None:
        config, have = self.config, self._file.spec
        wrong = []
        for job, count in config.counts().items():
            there = have.num_tasks(job) if job in have.jobs else 0
            if count > there:
                wrong.append(f"it asks for {count} {job}, and there are {there}")
            if count and there:
                asked, serves = name_of(self._runtimes[job]), self._file.runtimes[job]
                if asked != serves:
                    wrong.append(f"it asks for {job} tasks that serve {asked!r}, not {serves!r}")
        wrong += [
            f"it asks for {name}, and what runs already cannot be given any"
            for name in ("worker_config", "ps_config", "env", "links", "ports")
            if getattr(config, name)
        ]
        if wrong:
            counts = " and ".join(f"{len(have.job_tasks(job))} {job}" for job in have.jobs)
            raise SpecError(
                "this test cannot run on the cluster that pytest is attached to",
                status=f"attached to {self._path}: {counts}",
                evidence="\n".join(wrong),
                remedy="attach to a cluster that has what all tests ask for, such as one of "
                "`python -m pytest_localcluster up` with more tasks, or leave this test to a run "
                "without --cluster-attach",
            )

    def _start(self) -> None:
        other = _in_use.get(self._path)
        if other is not None:
            raise SpecError(
                "this test asks for a second cluster while it, or a fixture of a wider scope, has "
                "one already, and there is only one to attach to",
                status=f"attached to {self._path}: {other!r}",
                remedy="run this test without --cluster-attach, on a cluster of its own",
            )
        self._held = _held.hold(repr(self).replace(": not running", ""))
        with ExitStack() as undo, _held.owned_by(self._held):
            undo.callback(self._held.give_back)
            undo.callback(setattr, self, "_open", None)
            _in_use[self._path] = self
            undo.callback(_in_use.pop, self._path)
            self._spec = ClusterSpec(
                {job: self._addresses(job, n) for job, n in self.config.counts().items()}
            )
            self._net = Links(None, {})
            servers = [self._server(task, undo) for task in self._spec.tasks]
            self.servers = [*servers]
            if self._file.logs:
                self.log_dir = next(iter(self._file.logs.values())).parent
            watcher = observer()
            if watcher is not None:
                undo.callback(watcher.stopped, self)
            for server in servers:
                undo.callback(close_all, server.address)
                undo.callback(server.let_go)
            self._open = undo
            if watcher is not None:
                watcher.launched(self)
            self._check_alive()
            if self._resets:
                self.reset()
            self._open = undo.pop_all()

    def _addresses(self, job: str, count: int) -> list[str]:
        return self._file.spec.job_tasks(job)[:count] if count else []

    def _server(self, task: Task, undo: ExitStack) -> ForeignServer:
        assert self._spec is not None
        address, runtime = self._spec.task_address(task.job, task.index), self._runtimes[task.job]
        _context.register_token(address, self._token)
        undo.callback(_context.forget_token, address)
        env = _setup.client_environment(self._spec, self._token, task)
        context = TaskContext(task, self._spec, runtime.target(address), env)
        server_def = _setup.server_def(self.config, self._spec, task)
        place = Place(
            Assignment(context, server_def, self._token),
            runtime,
            cast("Any", None),  # nothing is launched
            cast("Any", Elsewhere(address)),
            server_def,
        )
        log = ForeignLog(self._file.logs.get(task, Path(os.devnull)))
        process = self._file.processes.get(task)
        return ForeignServer(self, place, log, process, f"attached to {self._path}")

    def _lives(self) -> list[Life]:
        return []  # none that is ours to end

    def _check_alive(self) -> None:
        for server in self.servers:
            if (death := server.unexpected_death()) is not None:
                raise death

    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse it: functions are run by who started the tasks."""
        raise self._refusal("run a function in its tasks")

    def reset(self) -> None:
        """Bring all tasks of the cluster, also those beyond the view, to the state after start.

        Raises:
            UnsupportedError: not all of them are native.
        """
        from ._client import Session

        with self._lock:
            self._check_running("reset")
            if not self._resets:
                kinds = ", ".join(sorted(set(self._file.runtimes.values()) - {"native"}))
                raise self._refusal(
                    "be reset: the tasks of some jobs are not native, and nothing is known of "
                    f"how to reset {kinds}",
                    "clear what your test has left with the tasks' own clients",
                )
            for task in self._file.spec.tasks:
                address = self._file.spec.task_address(task.job, task.index)
                try:
                    Session.reset(f"grpc://{address}", token=self._token)
                except OpError as error:
                    error.add_note(f"while the cluster of {self._path} was reset")
                    raise

    def restart_dead(self) -> list[Server]:
        """Return none; nobody here can start a task again.

        Raises:
            ServerExited: one of them is dead.
        """
        self._check_alive()
        return []

    def chaos(self, *_: object, **__: object) -> NoReturn:
        """Refuse it: most of it is what an attached cluster cannot suffer."""
        raise self._refusal("be disturbed")

    def _linked(self, verb: str) -> NoReturn:
        raise self._refusal(verb)

    def _refusal(self, verb: str, remedy: str = "") -> UnsupportedError:
        return refusal("the cluster", verb, status=f"attached to {self._path}", remedy=remedy)

    def __repr__(self) -> str:
        return super().__repr__().replace("<LocalCluster", "<AttachedCluster")
