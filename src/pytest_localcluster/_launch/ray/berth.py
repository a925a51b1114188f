"""One task's place on a node, seen from the test process: its launcher and its lease at once.

What is asked of the actor there goes by three queues: orders, which come in the order in which they
are given; what a task is told, which may have to wait until it listens; and news, which come when
there is something new.
"""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import wait
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from ..._core import pickling, test_files
from ..._core.settings import Settings
from ..._ports import Binding
from ...errors import ClusterError, StartError
from .. import reports
from ..surroundings import working_directory
from ..wire import AHEAD, DONE
from .node import Late, Package
from .process import NoTerminal, RemoteProcess
from .surroundings import environment

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from ..._logs import TaskLog
    from ..._spec import Task
    from .. import Entry

__all__ = ["GROUPS", "RayBerth", "ask"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

GROUPS = {"orders": 1, "input": 1, "news": 2}
"""How many threads an actor has for each queue."""

_QUEUE = {"send": "input", "news": "news"}

_ANSWER = 10.0
"""Seconds that an actor has for an order, which takes it milliseconds."""

_SHUT_DOWN = "Ray was shut down while the cluster ran"

_SLICE = 0.5
"""Seconds between two looks at whether anybody still waits for an answer."""


def ask(reference: Any, seconds: float | None) -> Any:
    """Return what an actor answers; what its code raises is raised as it is.

    Raises:
        TimeoutError: it does not answer in time, or cannot be reached at the moment.
        ray.exceptions.RayError: it is gone.
    """
    import ray

    return _unwrapped(partial(ray.get, reference, timeout=seconds))


def _unwrapped(get: Callable[[], Any]) -> Any:
    from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayTaskError

    try:
        return get()
    except (ActorUnavailableError, GetTimeoutError) as error:
        raise TimeoutError(str(error)) from None
    except RayTaskError as error:
        raise error.cause from None


class RayBerth:
    """What starts one task, again and again, and where it serves.

    Args:
        actor: on the node.
        address: where the task serves.
        task: whose berth it is.
    """

    def __init__(self, actor: Any, address: str, task: Task) -> None:
        self.actor = actor
        self.address = address
        self.descriptors: list[int] = []
        self._task = task
        self._numbers = count()
        self._binding = Binding.REUSE

    def prepare(self) -> None:
        """Do nothing: the actor has its forkserver started."""

    def fork_ahead(self, tasks: int) -> None:
        """Have the node's forkserver keep one process ready: there is one task here."""
        self.request(AHEAD, 1)

    def close(self) -> None:
        """Do nothing: the actor is there for the next cluster, too."""

    def hand_over(self, binding: Binding = Binding.REUSE) -> None:
        """Note how the next start binds the port, which is kept on the node."""
        self._binding = binding

    def take_back(self) -> None:
        """Do nothing: the node does that before the next start."""

    def release(self) -> None:
        """Do nothing: that is the reservation's to do."""

    def empty_folder(self) -> None:
        """Have the actor empty the task's own folder."""
        self._order("empty_folder")

    def launch(self, entry: Entry, log: TaskLog) -> RemoteProcess:
        """Have the actor start the task; it comes up while this process goes on."""
        settings = Settings()
        package = Package(
            *environment(entry.context.env),
            working_directory(),
            list(sys.path),
            pickling.dumps((entry.serve, entry.context, test_files.patterns)),
            settings.news(),
            NoTerminal.refusal,
        )
        number, seconds = next(self._numbers), entry.deadline.remaining()
        late = self._order("launch", number, package, seconds, self._binding)
        if late is not None:
            raise self._late(entry, late)
        return RemoteProcess(self, number, entry, log, settings)

    def _late(self, entry: Entry, late: Late) -> Exception:
        seconds, stacks = entry.deadline.seconds or 0.0, reports.with_source(late.stacks)
        return reports.start_timeout(entry.context, None, seconds, late.last, stacks)

    def request(self, kind: int, request: object, *, acknowledged: bool = False) -> bytes:
        """Send a request to the node's forkserver; return the answer, if one is wanted."""
        if acknowledged:
            answer: bytes = self._order("request", kind, request, True)
            return answer
        self.tell("request", kind, request, False)
        return DONE

    def said(self) -> str:
        """Return the last words of the node's forkserver."""
        return str(self._order("said"))

    def dump_stacks(self) -> str:
        """Return where the threads of the node's forkserver are."""
        return str(self._order("dump_stacks"))

    def abandon(self) -> None:
        """Kill the node's forkserver, and the task with it."""
        self.tell("abandon", False)

    def abandon_if_hung(self) -> None:
        """Kill it if it has stopped to answer."""
        self.tell("abandon", True)

    def tell(self, method: str, *args: object) -> None:
        """Have the actor do something; without a connection to Ray it is no more, and need not."""
        with contextlib.suppress(ConnectionError):
            self._send(method, *args)

    def _send(self, method: str, *args: object) -> Any:
        """Ask the actor for something; return the reference of the answer.

        Raises:
            ConnectionError: Ray was shut down; if it is used then, it begins anew by itself.
        """
        import ray

        if not ray.is_initialized():
            raise ConnectionError(_SHUT_DOWN)
        queue = _QUEUE.get(method, "orders")
        try:
            return getattr(self.actor, method).options(concurrency_group=queue).remote(*args)
        except Exception as error:  # Ray has no class for an actor of a connection that has ended
            raise ConnectionError(str(error)) from error

    def wait_for(self, method: str, *args: object, until: threading.Event) -> Any:
        """Return the actor's answer, or raise as :func:`ask` does; it waits ``until`` then."""
        import ray

        # Not ray.wait(): after a shutdown of Ray that would begin anew.
        future = self._send(method, *args).future()
        while not wait([future], timeout=_SLICE).done:
            if until.is_set():
                raise TimeoutError
            if not ray.is_initialized():
                raise ConnectionError(_SHUT_DOWN)
        return _unwrapped(future.result)

    def _order(self, method: str, *args: object) -> Any:
        """Return the answer to an order.

        Raises:
            StartError: a launch was ordered, and there is nobody to do it.
            ClusterError: there is no answer.
        """
        from ray.exceptions import RayError

        try:
            return ask(self._send(method, *args), _ANSWER)
        except TimeoutError as error:
            evidence = f"it has not answered within {_ANSWER:g} s; {error}"
        except (RayError, ConnectionError) as error:
            evidence = str(error).strip()
        kind = StartError if method == "launch" else ClusterError
        raise kind(
            f"the Ray actor of {self._task} cannot be asked to {method.replace('_', ' ')}",
            task=str(self._task),
            address=self.address,
            evidence=evidence,
            remedy="look whether its node is up, and its network; if it is gone, "
            "start the cluster again: it gets other nodes",
        )
