"""Where a task runs. A launcher is any object with the methods of :class:`Launcher`.

The short name of a launcher is the module here that holds it, under ``launcher()``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .._core import library

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from .._clock import Deadline
    from .._context import TaskContext
    from .._logs import TaskLog
    from .._ports import Binding
    from .._spec import Task
    from ..errors import StartTimeout

__all__ = [
    "Berth",
    "Entry",
    "Launcher",
    "Lease",
    "Needs",
    "Process",
    "Reservation",
    "Serving",
    "Spreading",
    "Terminal",
    "find_launcher",
]


class Serving(Protocol):
    """The half of a runtime's server that a launcher uses."""

    def stop(self) -> None:
        """Stop serving."""

    def reset(self) -> None:
        """Go back to the state just after start."""

    def forget(self, task: Task) -> None:
        """Drop what is known of a peer that was restarted."""


class Terminal(Protocol):
    """What tasks with breakpoints share; those who ask are told apart by identity.

    Attributes:
        refusal: why no task gets it; "" if tasks do.
    """

    refusal: str

    def ask(self, who: object, grant: Callable[[str], None]) -> None:
        """Have ``grant`` called with what to open when it is ``who``'s turn."""

    def leave(self, who: object, how: str) -> None:
        """Learn that ``who`` runs again: by a ``"step"``, ``"continue"`` or ``"quit"``."""

    def gone(self, who: object) -> None:
        """Learn that ``who`` will not come back. Idempotent."""


@dataclass(frozen=True)
class Entry:
    """What a launcher is asked to run.

    Attributes:
        serve: brings the task's server up and returns it; picklable, and called in the task.
        context: who the task is; its ``env`` goes on top of the launching process's environment.
        deadline: by when it is to serve.
        terminal: where its breakpoints lead to.
    """

    serve: Callable[[], Serving]
    context: TaskContext
    deadline: Deadline
    terminal: Terminal


class Process(Protocol):
    """One running task, seen from the test process."""

    @property
    def pid(self) -> int | None:
        """Its process id; that of the test process if the task is a thread of it."""

    @property
    def exitcode(self) -> int | None:
        """None while it runs; afterwards as in :mod:`subprocess`, negative for a signal."""

    @property
    def elsewhere(self) -> bool:
        """Whether it is on another machine, where its pid says nothing here."""

    def news(self) -> list[int]:
        """Return descriptors that become readable when it comes up or ends; none if it has none."""

    def await_start(self, seconds: float | None) -> None:
        """Wait, no longer than that, until :meth:`come_up` is worth another look.

        Only for a process without :meth:`news`.
        """

    def come_up(self) -> bool:
        """Look, without waiting, whether the task serves.

        Raises:
            StartError: its start raised, and the exception is the ``__cause__``; or it died, and
                that is a ServerExited.
        """

    def late(self, deadline: Deadline) -> StartTimeout:
        """Return the error for a task that is alive, but did not serve by the deadline."""

    def wait(self, deadline: Deadline) -> int | None:
        """Wait until it has ended; return its exit code, None if it still runs."""

    def signal(self, signal: int) -> None:
        """Send a signal to the task."""

    @property
    def busy(self) -> bool:
        """Whether a function given to :meth:`call` is running or waiting to."""

    def call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Future[Any]:
        """Run a function in the task's main thread, after those asked before it."""

    def reset(self) -> Future[None]:
        """Have the task go back to the state just after start."""

    def forget(self, task: Task) -> Future[None]:
        """Have the task drop what it knows of a restarted peer."""

    def attend(self) -> Future[None]:
        """Have the task go by the settings of this process, and send what it warned and logged.

        A task that has ended sends nothing new; what it sent before is here when that is done.
        """

    @property
    def program(self) -> str:
        """The command line of what it runs; empty if that is Python, which can be asked things."""

    def ask_to_stop(self) -> int | None:
        """Ask the task to end; :meth:`wait` tells when it has.

        Returns:
            The signal that it was asked with; None if it was told otherwise, and ends with 0.
        """

    def out_of_memory(self) -> str:
        """Return what tells of a kill for want of memory since it started; "" if nothing does."""

    def force(self) -> None:
        """Kill it if it still runs and can be killed, without waiting for that."""

    def leave(self) -> None:
        """Give back what this handle holds of a task that another process keeps."""

    def close(self, deadline: Deadline) -> None:
        """Give back what this handle holds, killing the task if it still runs. Idempotent."""


class Launcher(Protocol):
    """Starts tasks of one kind."""

    def prepare(self) -> None:
        """Start what the launcher itself runs, if anything, and do not wait for it."""

    def launch(self, entry: Entry, log: TaskLog) -> Process:
        """Start a task and return at once; several starts run side by side."""

    def fork_ahead(self, tasks: int) -> None:
        """Make ready what so many further tasks will need: those that were launched are up."""

    def close(self) -> None:
        """End all that the launcher itself runs. Idempotent."""


class Lease(Protocol):
    """A port that is kept for one task, through all its starts: a PortLease, or one elsewhere."""

    @property
    def address(self) -> str:
        """Where the task serves, ``host:port``, as others dial it."""

    @property
    def descriptors(self) -> list[int]:
        """What holds the port in this process, if anything does."""

    def hand_over(self, binding: Binding = ..., /) -> None:
        """Make way for the server, which is about to bind the port.

        Where it does so with SO_REUSEADDR, as nearly all do, nothing is passed.
        """

    def take_back(self) -> None:
        """Keep the port again, now that the server is gone."""

    def release(self) -> None:
        """Give the port back. Idempotent."""


class Berth(NamedTuple):
    """Where one task will be, through all its starts.

    Attributes:
        launcher: starts it there.
        lease: its address.
        ports: its further ports there, name to number.
        others: the leases of ports that it may bind besides, where this process has them.
        folder: a folder of its own there, if it needs one and is on another machine.
    """

    launcher: Launcher
    lease: Lease
    ports: Mapping[str, int] = MappingProxyType({})
    others: Sequence[Lease] = ()
    folder: Path | None = None


class Needs(NamedTuple):
    """What one task needs wherever it will be.

    Attributes:
        task: which task it is.
        preload: the modules to import once, before it is started.
        boot_env: what the process that imports them has in its environment, and no task.
        ports: the names of its further ports.
        folder: whether it needs a folder of its own.
    """

    task: Task
    preload: tuple[str, ...]
    boot_env: Mapping[str, str]
    ports: tuple[str, ...] = ()
    folder: bool = False


class Reservation(Protocol):
    """Berths that are reserved for the tasks of one cluster.

    Attributes:
        berths: one for each task, in order.
        meeting: a host and a port that the tasks may meet at, on the first one's machine.
    """

    berths: Sequence[Berth]
    meeting: tuple[str, int]

    def release(self) -> None:
        """Give all of it back. Idempotent."""


class Spreading(Protocol):
    """A launcher that has other machines than this one, and chooses one for each task.

    Attributes:
        networked: whether calls to its tasks leave the machine, so that they are to speak TLS.
    """

    networked: bool

    def check(self) -> None:
        """Raise SpecError if what it needs is not installed."""

    def reserve(self, wanted: Sequence[Needs]) -> Reservation:
        """Find a place for each task of a cluster."""


def find_launcher(
    launcher: Any, preload: tuple[str, ...], boot_env: Mapping[str, str], run: str = ""
) -> Launcher:
    """Return this process's launcher of a short name, or ``launcher`` itself if it is one already.

    Args:
        launcher: the name, or the launcher.
        preload: modules to import once for all tasks, if the launcher can do that.
        boot_env: what the process that imports them has in its environment, and no task.
        run: what processes have in common that may share it; "" if there is no other.
    """
    if isinstance(launcher, str):
        with library.first():
            module = import_module(f"{__name__}.{launcher}")
        found: Launcher = module.launcher(preload, boot_env, run)
        return found
    return launcher  # type: ignore[no-any-return]  # ClusterConfig has checked that it launches
