"""What a task serves. A runtime is an object of a class derived from :class:`Runtime`.

The short name of a runtime is the module here that holds it, under ``RUNTIME``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .._core import library
from .._core.fields import Fields, Names
from .._ports import Binding
from ..errors import SpecError, UnsupportedError

if TYPE_CHECKING:
    from .._config import ClusterConfig
    from .._context import TaskContext
    from .._logs import TaskLog
    from .._spec import Task
    from .._tls import Credentials

__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both
__all__ = [
    "GRPC_MODULES",
    "Assignment",
    "Runtime",
    "Serving",
    "Started",
    "check_fields",
    "find_runtime",
    "find_runtimes",
    "name_of",
]


GRPC_MODULES = (
    "grpc",
    # grpc imports these when the first server, interceptor or channel is made, in every task anew.
    "grpc._server",
    "grpc._interceptor",
    "grpc._channel",
    "grpc_health.v1.health",
    "concurrent.futures.thread",
)
"""What a task with a gRPC server of ours imports anyway."""


@dataclass(frozen=True)
class Assignment:
    """All that one task is told: who it is, with whom, and the secret they share.

    Attributes:
        context: the task, its peers and its environment.
        server_def: a serialised ServerDef; its ``default_session_config`` is the task's config.
        token: what every call to a task of this cluster must carry.
        strangers: the jobs that runtimes of another kind serve.
        record: the file for what the task notes of what it does; "" if nobody wants to know.
        credentials: what it is to speak TLS with; None where calls do not leave the machine.
        fields: the values of the fields in :meth:`Runtime.texts`; None if the runtime has none.
    """

    context: TaskContext
    server_def: bytes
    token: str = field(repr=False)
    strangers: tuple[str, ...] = ()
    record: str = ""
    credentials: Credentials | None = None
    fields: Fields | None = None


class Serving(Protocol):
    """A task that serves: what :meth:`Runtime.serve` returns, in the task."""

    def stop(self) -> None:
        """Stop serving, so that the address is free again; StopError if something would not end."""

    def reset(self) -> None:
        """Go back to the state just after start."""

    def forget(self, task: Task) -> None:
        """Drop all connections to, and all knowledge of, a peer that was restarted."""


class Started(Protocol):
    """What :meth:`Runtime.ready` may look at: the handle of a task that was started."""

    @property
    def task(self) -> Task:
        """Which task it is."""

    @property
    def address(self) -> str:
        """Where it is to serve."""

    @property
    def log(self) -> TaskLog:
        """What it printed; ``log.begun`` is the mark of this start."""


class Runtime:
    """What a task serves: the base of all runtimes. Plain data, since it is pickled for the task.

    What is here suits a runtime that serves as soon as it was started and keeps nothing.

    Attributes:
        preload: the modules that a task imports anyway, so that a launcher can import them ahead.
        noting: the modules that it imports besides if it is to note what it does.
        boot_env: environment variables of the process that imports them, and of no task.
        start_timeout: how many seconds a start may take if the config does not say.
        forks_ahead: whether tasks are so dear to fork that some are kept in store: once a cluster
            is up, as many processes as it has tasks wait for the next one.
        resets_in_place: whether :meth:`Serving.reset` does it; otherwise a task is restarted.
        speaks_tls: whether its servers do so when they are given credentials.
        instead_of_session: what to use where no Session can dial these tasks; empty where one can.
    """

    preload: ClassVar[tuple[str, ...]] = ()
    noting: ClassVar[tuple[str, ...]] = ()
    boot_env: ClassVar[Mapping[str, str]] = MappingProxyType({})
    start_timeout: ClassVar[float] = 10.0
    forks_ahead: bool = False
    resets_in_place: bool = False
    speaks_tls: bool = False
    instead_of_session: str = ""

    def check(self, config: ClusterConfig, jobs: Collection[str]) -> None:
        """Raise SpecError if this runtime cannot serve these jobs of such a cluster.

        Args:
            config: what was asked for.
            jobs: the jobs that this runtime is to serve, and that have tasks.
        """

    def texts(self, job: str) -> Iterable[tuple[str, str]]:
        """Return the texts of the tasks of ``job`` that have fields, each after what it is.

        The names of the fields are checked when the cluster is described.
        """
        return ()

    def binding(self, job: str) -> Binding:
        """Return how servers of ``job`` bind their ports, as far as is known."""
        return Binding.REUSE

    def learn(self, job: str, binding: Binding) -> None:
        """Note how the servers of ``job`` bind their ports, as a start has shown."""

    def serve(self, assignment: Assignment) -> Serving:
        """Serve at the task's address; return when it accepts calls. Runs in the task.

        Returns:
            The server; or a Program, which the task's process then turns into.

        Raises:
            PortError: the address is taken.
        """
        raise NotImplementedError

    def entry(self, assignment: Assignment) -> Callable[[], Serving]:
        """Return what the task is to call; it goes there pickled, so it should hold little."""
        return partial(self.serve, assignment)

    def ready(self, server: Started) -> str:
        """Look, once and briefly, what a started task still lacks; "" if it can be used.

        Called in the test process, again and again, while the task lives.
        """
        return ""

    def target(self, address: str) -> str:
        """Return what a client dials to reach the task at ``address``."""
        return address

    def server_def(self, data: bytes) -> Any:
        """Return a task's ServerDef as the message that its clients know."""
        from .._proto.server_pb2 import ServerDef

        return ServerDef.FromString(data)

    def explain(self, error: BaseException, task: Task) -> str:
        """Return a note for an error that a function raised in ``task``; "" if there is none."""
        return ""

    def variables(self, address: str, token: str, timeout: float | None) -> Mapping[str, Any]:
        """Return a copy of the variables that the task at ``address`` holds.

        Raises:
            UnsupportedError: tasks of this runtime hold none, or none that could be read.
        """
        raise UnsupportedError(
            f"{type(self).__name__} serves the task at {address}, and shows no variables",
            address=address,
            remedy=self.instead_of_session or "read them the way your own clients do",
        )


def find_runtimes(config: ClusterConfig) -> dict[str, Runtime]:
    """Return the runtime of each job; SpecError if one of them cannot serve such a cluster."""
    wanted: Mapping[str, Any] = (
        config.runtime
        if isinstance(config.runtime, Mapping)
        else dict.fromkeys(config.counts(), config.runtime)
    )
    runtimes = {job: find_runtime(runtime) for job, runtime in wanted.items()}
    for runtime in {id(runtime): runtime for runtime in runtimes.values()}.values():
        runtime.check(
            config, [job for job, n in config.counts().items() if n and runtimes[job] is runtime]
        )
    counts = config.counts()
    for job in config.ports if isinstance(config.ports, Mapping) else ():
        if job not in counts:
            raise SpecError(
                f"ports names job {job!r}, which this cluster has not: {', '.join(counts)}",
                remedy=f"leave it out, or ask for jobs={{{job!r}: 1}}",
            )
    names = Names(counts, {job: config.port_names(job) for job in counts})
    check_fields(config, {job: runtimes[job] for job, count in counts.items() if count}, names)
    return runtimes


def check_fields(config: ClusterConfig, runtimes: Mapping[str, Runtime], names: Names) -> None:
    """Raise SpecError if a field in the texts for some jobs names something that does not exist.

    Args:
        config: what was asked for.
        runtimes: of the jobs whose texts are checked.
        names: what fields can name.
    """
    env = {} if callable(config.env) else config.env
    for job, runtime in runtimes.items():
        for where, text in runtime.texts(job):
            names.check(text, where, job)
        for name, text in env.items():
            names.check(text, f"env[{name!r}]", job)


def find_runtime(runtime: Any) -> Runtime:
    """Return the runtime of a short name, or ``runtime`` itself if it is one already.

    Raises:
        SpecError: it is none.
    """
    if isinstance(runtime, str):
        with library.first():
            found: Runtime = import_module(f"{__name__}.{runtime}").RUNTIME
        return found
    if not isinstance(runtime, Runtime):
        raise SpecError(
            f"runtime={runtime!r} is no runtime",
            remedy="use a short name, a ServicerRuntime or a CommandRuntime",
        )
    return runtime


def name_of(runtime: Runtime) -> str:
    """Return what to call a runtime: ``native``, ``tensorflow``, ``servicer``, ``command``, ..."""
    return type(runtime).__name__.removesuffix("Runtime").lower()
