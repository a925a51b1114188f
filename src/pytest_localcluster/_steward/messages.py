"""What goes between a worker and the steward."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _coverage, _ports
from .._core import environment, exceptions
from .._launch.surroundings import adopt, working_directory
from ..errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._clusterfile import ProcessId
    from .._context import TaskContext
    from .._spec import ClusterSpec, Task
    from ..errors import ServerExited

__all__ = ["Facts", "Failure", "Surroundings", "TaskFacts", "Wish", "dump_failure", "load_failure"]

_OF_ONE_WORKER = ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER")


@dataclass(frozen=True)
class Surroundings:
    """What the start of a task depends on, in the process that asks for it.

    Attributes:
        environ: the environment for its tasks, without the names of the worker and of the test.
        directory: where it is; None if that is no more.
        path: where it imports from.
        measures: how its coverage is measured.
        ports: from which range ports are leased; None is any.
    """

    environ: Mapping[str, str]
    directory: str | None
    path: list[str]
    measures: dict[str, str]
    ports: tuple[int, int] | None

    @classmethod
    def here(cls, ports: tuple[int, int] | None) -> Surroundings:
        """Return those of this process."""
        environ = environment.for_tasks()
        for name in _OF_ONE_WORKER:
            environ.pop(name, None)
        return cls(environ, working_directory(), list(sys.path), _coverage.environment(), ports)

    def take_over(self) -> None:
        """Make them those of this process."""
        adopt(self.environ, self.directory, self.path)
        _coverage.measure_as(self.measures)
        _ports.configure(self.ports)


@dataclass(frozen=True)
class Wish:
    """A cluster that a worker wants to use.

    Attributes:
        key: equal for all who mean the same one.
        config: what it is, pickled.
        surroundings: of who asks.
        log_dir: where the logs of this run are kept; None if they go with the cluster.
        name: what to call the folder for those of this cluster.
    """

    key: str
    config: bytes
    surroundings: Surroundings
    log_dir: Path | None
    name: str


@dataclass(frozen=True)
class TaskFacts:
    """One task of a running cluster.

    Attributes:
        context: who it is, with its environment.
        server_def: its ServerDef, serialised.
        process: which process it is.
        program: the command line of that; "" if it is Python.
        log: what it prints.
        death: of the process before, if that died on its own.
    """

    context: TaskContext = field(repr=False)
    server_def: bytes = field(repr=False)
    process: ProcessId
    program: str
    log: Path
    death: ServerExited | None

    @property
    def task(self) -> Task:
        """Which it is."""
        return self.context.task


@dataclass(frozen=True)
class Facts:
    """A running cluster, as the one who has it knows it.

    Attributes:
        steward: who has it.
        spec: who exists, at which address.
        token: what calls to the tasks carry.
        log_dir: where the logs are kept; None if they go with the cluster.
        tasks: its tasks, in order of jobs.
        started: whether it was started for who asks.
        restarted: the tasks that were restarted for who asks.
    """

    steward: ProcessId
    spec: ClusterSpec
    token: str = field(repr=False)
    log_dir: Path | None
    tasks: tuple[TaskFacts, ...]
    started: bool
    restarted: tuple[Task, ...]


Failure = tuple[bytes, str]
"""An exception as it travels, and its traceback as text."""


def dump_failure(error: BaseException) -> Failure:
    """Return an exception as it travels; what caused it goes along."""
    return exceptions.dump_exception(error)


def load_failure(failure: Failure) -> BaseException:
    """Return the exception of :func:`dump_failure`, caused by what it was caused by there."""
    data, text = failure
    error = exceptions.load_exception(data, "")
    if error is None:
        return exceptions.unknown_exception(text)
    if not isinstance(error, ClusterError) and error.__cause__ is None:
        return exceptions.load_exception(data, text) or error
    return error  # where in the steward it was raised is no news
