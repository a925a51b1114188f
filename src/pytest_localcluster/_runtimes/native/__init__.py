"""The native runtime: tasks that keep variables and run the operations of graphs.

Nothing here imports gRPC or NumPy before a task serves::

    server      the gRPC server of one task, and its life; answers is around all of its methods
    master      sessions; session, plan (prune, place, cut), registration and stepping (one step)
                do its work; shortcuts finds what can travel with calls that are made anyway
    worker      parts of graphs; parts (compiled once), executor (each step) and giving_up (when
                the master does) do its work
    rendezvous  what a step's tasks ask each other for; peers is how they ask
    variables   state;  checks, devices, statuses   what their names say
    recorded    those of the above that note what they do, for a timeline
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import SpecError
from .. import GRPC_MODULES, Runtime

if TYPE_CHECKING:
    from ..._config import ClusterConfig
    from .. import Assignment, Serving

__all__ = ["RUNTIME", "NativeRuntime"]

_PACKAGE = "pytest_localcluster"
_OWN = (
    "answers",
    "checks",
    "devices",
    "executor",
    "giving_up",
    "graphs",
    "master",
    "parts",
    "peers",
    "plan",
    "registration",
    "rendezvous",
    "server",
    "session",
    "shortcuts",
    "statuses",
    "stepping",
    "variables",
    "worker",
)
_PRELOAD = (
    "numpy",
    *GRPC_MODULES,
    f"{_PACKAGE}._runtimes._grpc",
    f"{_PACKAGE}._runtimes._threads",
    *(f"{_PACKAGE}._runtimes.native.{name}" for name in _OWN),
)


@dataclass(frozen=True)
class NativeRuntime(Runtime):
    """The native runtime: each task a gRPC server that sessions can be opened to.

    Its operations are NumPy's functions and any function of yours; its variables outlast sessions.
    """

    preload: ClassVar[tuple[str, ...]] = _PRELOAD
    noting: ClassVar[tuple[str, ...]] = (
        f"{_PACKAGE}._ring",
        f"{_PACKAGE}._runtimes.native.recorded",
        f"{_PACKAGE}._runtimes.native.scribe",
    )
    resets_in_place = True
    speaks_tls = True

    def check(self, config: ClusterConfig, jobs: Collection[str]) -> None:
        """Raise SpecError if a task's config asks for what cannot be."""
        for job in {"worker", "ps"}.intersection(jobs):
            name = f"{job}_config"
            proto = getattr(config, name)
            counts = dict(proto.device_count) if proto is not None else {}
            for kind, count in counts.items():
                if count < 0 or not kind.isidentifier():
                    raise SpecError(
                        f"{name}.device_count[{kind!r}] is {count}: no task can have such devices",
                        remedy='use counts from 0 up, such as {"CPU": 2}',
                    )

    def serve(self, assignment: Assignment) -> Serving:
        """Serve at the task's address; return when it accepts calls.

        Raises:
            PortError: the address is taken.
        """
        from .server import NativeServer

        return NativeServer(assignment)

    def target(self, address: str) -> str:
        """Return what a session dials."""
        return f"grpc://{address}"

    def variables(self, address: str, token: str, timeout: float | None) -> Mapping[str, Any]:
        """Return a copy of the variables that the task at ``address`` holds, by name.

        Raises:
            OpError: the task could not be asked.
        """
        from .reading import read_variables

        return read_variables(address, token, timeout)


RUNTIME = NativeRuntime()
