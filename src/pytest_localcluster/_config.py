"""What a cluster was asked to be: ClusterConfig, which refuses what cannot exist."""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ._spec import Task, job_name, whole_number
from .errors import SpecError

__all__ = ["LAUNCHERS", "RUNTIMES", "ClusterConfig"]

RUNTIMES = ("native", "tensorflow")
"""The short names that ``runtime=`` takes; each is a module in ``_runtimes``."""

LAUNCHERS = ("process", "thread", "ray")
"""The short names that ``launcher=`` takes; each is a module in ``_launch``."""


_PORT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class _Default(int):
    """A count nobody asked for: it gives way to the same job named in ``jobs``."""


_ONE = _Default(1)


@dataclass(frozen=True)
class ClusterConfig:
    """What to build. Frozen, checked when made; :meth:`replace` gives a changed copy.

    Attributes:
        workers: tasks of job ``worker``.
        ps: tasks of job ``ps``.
        jobs: further jobs, name to count, such as ``{"chief": 1}``.
        protocol: ``"grpc"``, the only one there is.
        worker_config: a ConfigProto (ours or TensorFlow's) for every worker.
        ps_config: a ConfigProto for every ps.
        runtime: what a task serves: ``"native"``, ``"tensorflow"``, a runtime, or a mapping from
            job to any of these.
        launcher: where a task runs: ``"process"``, ``"thread"``, ``"ray"``, or a launcher.
        start_timeout: seconds until all tasks must be ready; None is the runtime's own default, and
            at least 60 with ``preload``, or on other machines.
        stop_timeout: seconds after which nothing of the cluster may be left.
        env: environment variables for the tasks: a mapping, or a function of the Task that
            returns one. Fields such as ``{hosts[ps]}`` are filled in, as in a CommandRuntime.
        preload: modules to import once, before any task is forked, so that tasks get them free.
        links: whether tasks reach each other through links, which partition(), delay() and drop()
            of the cluster can hold, slow and cut.
        ports: names of further ports that each task gets, besides the one it serves at; or a
            mapping from job to such names.

    Raises:
        SpecError: something that cannot exist was asked for.
    """

    workers: int = _ONE
    ps: int = _ONE
    jobs: Mapping[str, int] = field(default_factory=dict)
    protocol: str = "grpc"
    worker_config: Any = None
    ps_config: Any = None
    runtime: Any = "native"
    launcher: Any = "process"
    start_timeout: float | None = None
    stop_timeout: float = 5.0
    env: Mapping[str, str] | Callable[[Task], Mapping[str, str]] = field(default_factory=dict)
    preload: Iterable[str] = ()
    links: bool = False
    ports: Iterable[str] | Mapping[str, Iterable[str]] = ()

    def __post_init__(self) -> None:
        self._check_jobs()
        if self.protocol is None:
            self._set("protocol", "grpc")
        if self.protocol != "grpc":
            raise SpecError(
                f"protocol={self.protocol!r} cannot be had", remedy="use 'grpc', the only one"
            )
        for name in ("worker_config", "ps_config"):
            self._set(name, _config_proto(name, getattr(self, name)))
        self._check_runtime()
        _choice("launcher", self.launcher, LAUNCHERS, "launch")
        if self.start_timeout is not None:
            self._set("start_timeout", _seconds("start_timeout", self.start_timeout))
        self._set("stop_timeout", _seconds("stop_timeout", self.stop_timeout))
        if not callable(self.env):
            self._set("env", _environment(self.env, "env"))
        if isinstance(self.preload, str) or not isinstance(self.preload, Iterable):
            raise SpecError(
                f"preload is a list of module names, not {self.preload!r}",
                remedy='write preload=["torch"]',
            )
        self._set("preload", tuple(self.preload))
        for module in self.preload:
            if not isinstance(module, str) or not all(map(str.isidentifier, module.split("."))):
                raise SpecError(
                    f"preload names modules to import; {module!r} is not the name of one"
                )
        self._set("ports", _ports(self.ports))
        if not isinstance(self.links, bool):
            raise SpecError(f"links={self.links!r} says nothing", remedy="use True or False")
        if self.links and self.is_networked():
            raise SpecError(
                "links=True cannot be had where tasks are on other machines: links are relays on "
                "this one",
                remedy="use launcher='process', or cut the network between the machines",
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_jobs(self) -> None:
        if not isinstance(self.jobs, Mapping):
            raise SpecError(
                f"jobs maps job names to counts, not {self.jobs!r}", remedy='write {"chief": 1}'
            )
        jobs = {job_name(job): _count(f"jobs[{job!r}]", count) for job, count in self.jobs.items()}
        for job, name in (("worker", "workers"), ("ps", "ps")):
            value = getattr(self, name)
            if job in jobs:
                if value is not _ONE:
                    raise SpecError(
                        f"job {job!r} is asked for twice: {name}={value!r} "
                        f"and jobs[{job!r}]={jobs[job]}",
                        remedy=f"keep one of the two, {name} for short",
                    )
                value = jobs.pop(job)
            self._set(name, value if value is _ONE else _count(name, value))
        self._set("jobs", jobs)

    def _check_runtime(self) -> None:
        if not isinstance(self.runtime, Mapping):
            _choice("runtime", self.runtime, RUNTIMES, "serve")
            return
        self._set("runtime", dict(self.runtime))
        counts = self.counts()
        for job, runtime in self.runtime.items():
            if job not in counts:
                raise SpecError(
                    f"runtime names job {job!r}, which this cluster has not: {', '.join(counts)}",
                    remedy=f"leave it out, or ask for jobs={{{job!r}: 1}}",
                )
            _choice(f"runtime[{job!r}]", runtime, RUNTIMES, "serve")
        missing = [job for job, count in counts.items() if count and job not in self.runtime]
        if missing:
            raise SpecError(
                f"runtime gives nothing for the tasks of job {', '.join(missing)}",
                remedy=f"add {missing[0]!r}: 'native' or another, or ask for no such tasks",
            )

    def counts(self) -> dict[str, int]:
        """Return how many tasks each job has, in order: worker, ps, the others as given."""
        return {"worker": int(self.workers), "ps": int(self.ps), **self.jobs}

    def tasks(self) -> list[Task]:
        """Return every task, in the order of :meth:`counts`."""
        return [Task(job, index) for job, count in self.counts().items() for index in range(count)]

    def port_names(self, job: str) -> tuple[str, ...]:
        """Return the names of the further ports of each task of a job."""
        names: Any = self.ports.get(job, ()) if isinstance(self.ports, Mapping) else self.ports
        return tuple(names)

    def is_networked(self) -> bool:
        """Tell whether calls to its tasks leave this machine."""
        return self.launcher == "ray" or bool(getattr(self.launcher, "networked", False))

    def environment(self, task: Task) -> dict[str, str]:
        """Return what ``env`` asks for ``task``."""
        if callable(self.env):
            try:
                given = self.env(task)
            except Exception as error:
                error.add_note(f"raised by env= of the cluster, for {task}")
                raise
            return _environment(given, f"what env returned for {task}")
        return dict(self.env)

    def replace(self, **changes: object) -> ClusterConfig:
        """Return a copy with some fields changed.

        Raises:
            SpecError: a keyword that is no field, or a value that cannot be.
        """
        self.check_names(changes)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for job, name in (("worker", "workers"), ("ps", "ps")):
            # The nearer wish wins: jobs={"worker": 3} puts aside a count that was here before.
            jobs = changes.get("jobs")
            if isinstance(jobs, Mapping) and job in jobs:
                values[name] = _ONE
        return ClusterConfig(**{**values, **changes})

    @classmethod
    def check_names(cls, names: Iterable[object]) -> None:
        """Raise SpecError if one of ``names`` is no field of a config."""
        valid = [f.name for f in fields(cls)]
        for name in names:
            if name not in valid:
                near = difflib.get_close_matches(str(name), valid, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise SpecError(
                    f"a cluster has no {name!r}",
                    remedy=f"{hint}the keywords are {', '.join(valid)}",
                )


def _count(name: str, value: object) -> int:
    count = whole_number(value)
    if count is None:
        raise SpecError(
            f"{name}={value!r} does not count tasks", remedy="use a whole number from 0 up"
        )
    if count < 0:
        raise SpecError(
            f"{name}={value!r}: there cannot be fewer than no tasks", remedy="use 0 or more"
        )
    return count


def _seconds(name: str, value: object) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and 0 < value < math.inf:  # type: ignore[operator]  # a number, as just seen
        return float(value)  # type: ignore[arg-type]
    raise SpecError(
        f"{name}={value!r} is no time to wait", remedy="use a number of seconds above 0"
    )


def _choice(name: str, value: object, names: tuple[str, ...], method: str) -> None:
    if isinstance(value, str):
        if value not in names:
            raise SpecError(
                f"unknown {name} {value!r}", remedy=f"use one of {', '.join(map(repr, names))}"
            )
    elif isinstance(value, type) and callable(getattr(value, method, None)):
        raise SpecError(
            f"{name}={value.__name__} is a class", remedy=f"write {name}={value.__name__}(...)"
        )
    elif isinstance(value, type) or not callable(getattr(value, method, None)):
        raise SpecError(
            f"{name}={value!r} has no method {method}()",
            remedy=f"use one of {', '.join(map(repr, names))}, or an object that has it",
        )


def _config_proto(name: str, value: Any) -> Any:
    if value is None:
        return None
    descriptor = getattr(value, "DESCRIPTOR", None)
    if isinstance(value, type) or getattr(descriptor, "name", None) != "ConfigProto":
        raise SpecError(
            f"{name} is a ConfigProto, not {value!r}",
            remedy="use pytest_localcluster.ConfigProto or tf.compat.v1.ConfigProto",
        )
    return copy.deepcopy(
        value
    )  # frozen means frozen, also when the caller goes on with the original


def _ports(value: object) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    if isinstance(value, Mapping):
        return {
            job_name(job): _port_names(names, f"ports[{job!r}]") for job, names in value.items()
        }
    return _port_names(value, "ports")


def _port_names(value: object, what: str) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise SpecError(
            f"{what} lists names of ports, not {value!r}", remedy='write ports=("admin",)'
        )
    names = tuple(value)
    for name in names:
        if not isinstance(name, str) or not _PORT_NAME.fullmatch(name):
            raise SpecError(
                f"{what} has {name!r}, which no port can be called",
                remedy="use a letter, then letters, digits, underscores and hyphens",
            )
    if len(set(names)) < len(names):
        raise SpecError(f"{what} names a port twice: {', '.join(names)}")
    return names


def _environment(value: object, what: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise SpecError(f"{what} maps names to strings, not {value!r}")
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise SpecError(f"{what} has {name!r}, which no environment variable can be called")
        if not isinstance(text, str) or "\0" in text:
            raise SpecError(f"{what}[{name!r}] is {text!r}", remedy="use a string")
    return dict(value)
