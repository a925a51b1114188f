"""What a task serves. A runtime is any object with the methods of :class:`Runtime`.

The short name of a runtime is the module here that holds it, under ``RUNTIME``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .._config import ClusterConfig
    from .._context import TaskContext
    from .._spec import Task

__all__ = ["Assignment", "Runtime", "Serving", "find_runtime"]


@dataclass(frozen=True)
class Assignment:
    """All that one task is told: who it is, with whom, and the secret they share.

    Attributes:
        context: the task, its peers and its environment.
        server_def: a serialised ServerDef; its ``default_session_config`` is the task's config.
        token: what every call to a task of this cluster must carry.
    """

    context: TaskContext
    server_def: bytes
    token: str = field(repr=False)


class Serving(Protocol):
    """A task that serves: what :meth:`Runtime.serve` returns, in the task."""

    def stop(self) -> None:
        """Stop serving, so that the address is free again; StopError if something would not end."""

    def reset(self) -> None:
        """Go back to the state just after start."""

    def forget(self, task: Task) -> None:
        """Drop all connections to, and all knowledge of, a peer that was restarted."""


class Runtime(Protocol):
    """What a task serves. Plain data, since it is pickled on its way to the task."""

    @property
    def preload(self) -> tuple[str, ...]:
        """The modules that a task imports anyway, so that a launcher can import them ahead."""

    @property
    def start_timeout(self) -> float:
        """How many seconds a start may take if the config does not say."""

    @property
    def resets_in_place(self) -> bool:
        """Whether :meth:`Serving.reset` does it; otherwise a task is restarted instead."""

    def check(self, config: ClusterConfig) -> None:
        """Raise SpecError if this runtime cannot serve such a cluster."""

    def serve(self, assignment: Assignment) -> Serving:
        """Serve at the task's address; return when it accepts calls. Runs in the task.

        Raises:
            PortError: the address is taken.
        """

    def target(self, address: str) -> str:
        """Return what a client dials to reach the task at ``address``."""

    def variables(self, address: str, token: str, timeout: float | None) -> Mapping[str, Any]:
        """Return a copy of the variables that the task at ``address`` holds.

        Raises:
            UnsupportedError: tasks of this runtime hold none, or none that could be read.
        """


def find_runtime(runtime: Any) -> Runtime:
    """Return the runtime of a short name, or ``runtime`` itself if it is one already."""
    if isinstance(runtime, str):
        found: Runtime = import_module(f"{__name__}.{runtime}").RUNTIME
        return found
    return runtime  # type: ignore[no-any-return]  # ClusterConfig has checked that it serves
