"""The servicer runtime: tasks that serve the user's own gRPC services.

Nothing here imports gRPC before a task serves::

    registration  the functions that register services: what passes for one, how it is called
    settings      what else a server is made with
    server        the gRPC server of one task, its life, and what its errors leave in the task's log
    facade        the server as functions that register services see it
    interceptor   the calls that it answers
    aio           a server of grpc.aio: its event loop and its calls
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..._spec import job_name
from ...errors import SpecError
from .. import GRPC_MODULES, Runtime
from .registration import Adder, adders_of, identity, is_adder, name_of
from .settings import OPTIONS, Settings, misspelt, settings

if TYPE_CHECKING:
    from ..._config import ClusterConfig
    from .. import Assignment, Serving

__all__ = ["ServicerRuntime"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_PACKAGE = "pytest_localcluster._runtimes"
_PRELOAD = (
    *GRPC_MODULES,
    f"{_PACKAGE}._grpc",
    f"{_PACKAGE}._threads",
    f"{_PACKAGE}.servicers.server",
)


@dataclass(frozen=True, init=False, repr=False, eq=False)
class ServicerRuntime(Runtime):
    """Your own gRPC services: each task a gRPC server that your functions register them on.

    A function ``add(server, task)`` is called in each task of its job: ``server`` is a grpc.Server,
    ``task`` what :func:`current_task` returns. One that takes the server alone does too, such as
    ``functools.partial(add_GreeterServicer_to_server, Greeter())``. With the process launcher it is
    pickled for the task, where it may be a closure, a lambda or defined in the test module.

    Handlers run in as many threads as there are calls. Where one of a task's methods, functions or
    interceptors is for asyncio, the task serves by grpc.aio, in an event loop of its own; there the
    functions are called in the loop, and plain methods in threads. A task is reset by a restart.

    Args:
        adders: the function, or a list of functions, for each job; jobs can be given by keyword.
        health: serve the standard health service too, unless a function registers one.
        token: refuse calls without the cluster's token, except health checks. Where calls leave the
            machine that is so anyway.
        interceptors: server interceptors of gRPC, in the order in which they see a call, after the
            token was looked at. Or a function without parameters that returns the list, which is
            called in each task.
        options: channel arguments, pairs of a name and a value. ``grpc.so_reuseport`` stays 0.
        compression: an element of ``grpc.Compression``.
        maximum_concurrent_rpcs: how many calls run at a time, health checks included; one more is
            ``RESOURCE_EXHAUSTED``.
        jobs: more of ``adders``.

    Raises:
        SpecError: no jobs, a job that is given twice, what is no such function, or an option that
            is not there or has a value that cannot be.
    """

    preload: ClassVar[tuple[str, ...]] = _PRELOAD
    speaks_tls = True
    instead_of_session = (
        "call its services: over server.channel(), or grpc.insecure_channel(server.target)"
    )

    adders: Mapping[str, tuple[Adder, ...]]
    health: bool
    token: bool
    settings: Settings

    def __init__(
        self,
        adders: Mapping[str, Adder | Sequence[Adder]] | None = None,
        /,
        *,
        health: bool = True,
        token: bool = False,
        interceptors: Sequence[Any] | Callable[[], Sequence[Any]] = (),
        options: Sequence[tuple[str, Any]] = (),
        compression: Any = None,
        maximum_concurrent_rpcs: int | None = None,
        **jobs: Adder | Sequence[Adder],
    ) -> None:
        if adders is None:
            adders = {}
        if not isinstance(adders, Mapping):
            raise SpecError(
                f"ServicerRuntime takes a mapping from job to functions, not {adders!r}",
                remedy="write ServicerRuntime(worker=...), or ServicerRuntime({'worker': ...})",
            )
        twice = [job for job in jobs if job in adders]
        if twice:
            raise SpecError(
                f"ServicerRuntime is given job {twice[0]!r} twice, in the mapping and by keyword",
                remedy="list its functions in one of the two",
            )
        for option, value in (("health", health), ("token", token)):
            if not isinstance(value, bool):
                raise SpecError(
                    f"{option} is True or False, not {value!r}",
                    remedy=f"put a job called {option!r} in the mapping: {{{option!r}: ...}}",
                )
            object.__setattr__(self, option, value)
        if not adders and not jobs:
            raise SpecError(
                "ServicerRuntime is given no job", remedy="write ServicerRuntime(worker=...)"
            )
        for name, functions in jobs.items():
            _check_meant(name, functions)
        given = settings(interceptors, options, compression, maximum_concurrent_rpcs)
        object.__setattr__(self, "settings", given)
        checked = {job_name(job): adders_of(job, it) for job, it in {**adders, **jobs}.items()}
        object.__setattr__(self, "adders", checked)

    def check(self, config: ClusterConfig, jobs: Collection[str]) -> None:
        """Raise SpecError if this runtime cannot serve these jobs of such a cluster."""
        for job in jobs:
            if job not in self.adders:
                near = difflib.get_close_matches(job, self.adders, n=1)
                raise SpecError(
                    f"ServicerRuntime has no function for the tasks of job {job!r}; "
                    f"it has some for {', '.join(map(repr, self.adders))}",
                    remedy=(f"is {near[0]!r} a slip? " if near else "")
                    + f"write ServicerRuntime({job}=...), ask for no tasks of that job, or give it "
                    f'another runtime: runtime={{"{job}": "native", ...}}',
                )
            if getattr(config, f"{job}_config", None) is not None:
                raise SpecError(
                    f"{job}_config is given, and nothing would read it: "
                    f"ServicerRuntime serves job {job!r}",
                    remedy="hand your functions what they need to know, or use env=",
                )
            if config.launcher == "process" or config.is_networked():
                self._check_pickles(job)

    def _check_pickles(self, job: str) -> None:
        from ..._core.pickling import dumps

        try:
            dumps(self.settings)
        except Exception as error:
            raise SpecError(
                "interceptors cannot go into a task: they do not pickle",
                evidence=f"{type(error).__name__}: {error}",
                remedy="make them in the task: interceptors=lambda: [MyInterceptor()]",
            ) from error
        for adder in self.adders[job]:
            try:
                dumps(adder)
            except Exception as error:
                raise SpecError(
                    f"{name_of(adder)}, for job {job!r}, cannot go into a task: it does not pickle",
                    evidence=f"{type(error).__name__}: {error}",
                    remedy="make the servicer in the task: "
                    "def add(server): add_GreeterServicer_to_server(Greeter(), server)",
                ) from error

    def entry(self, assignment: Assignment) -> Callable[[], Serving]:
        """Return what the task calls; the functions of other jobs stay here."""
        adders = self.adders[assignment.context.task.job]
        return partial(_serve, assignment, adders, self.settings, self.health, self.token)

    def serve(self, assignment: Assignment) -> Serving:
        """Serve at the task's address; return when it accepts calls.

        Raises:
            PortError: the address is taken.
            Exception: whatever a function of the user's raises.
        """
        return self.entry(assignment)()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ServicerRuntime):
            return NotImplemented
        return bool(self._identity() == other._identity())

    def __hash__(self) -> int:
        return hash((frozenset(self.adders), self.health, self.token, self.settings.options))

    def _identity(self) -> Any:
        adders = {job: [identity(adder) for adder in them] for job, them in self.adders.items()}
        given = self.settings
        interceptors: Any = given.interceptors
        if isinstance(interceptors, tuple):  # by identity: == of a user's objects may be anything
            interceptors = [*map(id, interceptors)]
        others = given.options, given.compression, given.maximum_concurrent_rpcs
        return adders, self.health, self.token, interceptors, others

    def __repr__(self) -> str:
        named = {job: _shown(adders) for job, adders in self.adders.items()}
        if named.keys().isdisjoint(OPTIONS):
            parts = [f"{job}={adders}" for job, adders in named.items()]
        else:
            parts = ["{" + ", ".join(f"{job!r}: {names}" for job, names in named.items()) + "}"]
        parts += [] if self.health else ["health=False"]
        parts += ["token=True"] if self.token else []
        parts += [f"{name}={_short(value)}" for name, value in self.settings.given().items()]
        return f"ServicerRuntime({', '.join(parts)})"


def _serve(
    assignment: Assignment,
    adders: tuple[Adder, ...],
    settings: Settings,
    health: bool,
    token: bool,
) -> Serving:
    from .server import ServicerServer

    return ServicerServer(assignment, adders, settings, health=health, token=token)


def _check_meant(name: str, value: object) -> None:
    """Raise SpecError for a keyword that is neither an option nor, by its value, a job."""
    option = misspelt(name)
    if is_adder(value) or not option:
        return
    raise SpecError(
        f"ServicerRuntime has no option {name!r}, and it is no job either: {value!r} is no "
        "function that registers services",
        remedy=f"is {option!r} meant? The options are {', '.join(OPTIONS)}",
    )


def _short(value: object) -> str:
    if callable(value) and not isinstance(value, type):
        return name_of(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_short, value))}]"
    if hasattr(value, "intercept_service"):
        return type(value).__name__
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    return repr(value)


def _shown(adders: tuple[Adder, ...]) -> str:
    names = ", ".join(map(name_of, adders))
    return names if len(adders) == 1 else f"[{names}]"
