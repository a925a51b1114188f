"""The network between the tasks of a cluster: its links, and the faults in force on them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

from . import _links, _moments
from ._channel import close_all
from ._context import TaskContext
from ._core.forks import inherited, owner_only
from ._launch import find_launcher
from ._links import UNTROUBLED, Condition
from ._logs import TaskLog
from ._runtimes import Assignment, Runtime
from ._server import Server
from ._setup import Pair, Place
from ._spec import ClusterSpec, Task

if TYPE_CHECKING:
    from contextlib import ExitStack
    from types import TracebackType

    from ._cluster import LocalCluster
    from ._launch import Serving
    from ._ports import PortLease

__all__ = ["Fault", "Links", "lay_links"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


@dataclass(eq=False)
class Fault:
    """A fault that is in force between tasks; as a context manager it is healed with the block.

    Attributes:
        what: in words, such as ``partition between /job:worker/task:0 and /job:ps/task:0``.
    """

    what: str
    _pairs: frozenset[Pair] = field(repr=False)
    _condition: Condition = field(repr=False)
    _links: Links = field(repr=False)
    _owner: int = field(default_factory=os.getpid, repr=False)

    @owner_only
    def heal(self) -> None:
        """Undo this fault, and no other. Idempotent."""
        self._links.heal([self])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        if not inherited(self):
            self.heal()

    def __repr__(self) -> str:
        state = "in force" if self in self._links.in_force else "healed"
        return f"<Fault: {self.what}: {state}>"


class Links:
    """The links of a running cluster, and the faults that are in force on them.

    Args:
        server: the handle of the process that runs them; None if there are none.
        leases: of each link, as that process counts them.
    """

    def __init__(self, server: Server | None, leases: Mapping[Pair, PortLease]) -> None:
        self.servers = [] if server is None else [server]
        self.in_force: list[Fault] = []
        self._leases = leases
        self._numbers = {pair: number for number, pair in enumerate(leases)}
        self._lock = threading.Lock()

    def leading_to(self, task: Task) -> list[str]:
        """Return the addresses at which others see a task."""
        return [lease.address for (_, to), lease in self._leases.items() if to == task]

    @property
    def leases(self) -> list[PortLease]:
        """The leases of all links."""
        return list(self._leases.values())

    def inflict(self, what: str, pairs: frozenset[Pair], condition: Condition) -> Fault:
        """Put links under one more condition; return when they are."""
        fault = Fault(what, pairs, condition, self)
        with self._lock:
            self.in_force.append(fault)
            try:
                self._tell(pairs)
            except BaseException:
                self.in_force.remove(fault)
                raise
        if (recorder := _moments.recorder()) is not None:
            recorder.inflicted(self.servers[0].cluster, fault, {task for task, _ in pairs})
        return fault

    def heal(self, faults: Collection[Fault] | None = None) -> None:
        """Undo faults, all of them if None; those that are undone already do not matter."""
        with self._lock:
            over = [f for f in self.in_force if faults is None or f in faults]
            self.in_force = [fault for fault in self.in_force if fault not in over]
            self._tell(frozenset().union(*(fault._pairs for fault in over)))
        if (recorder := _moments.recorder()) is not None:
            recorder.healed(over)

    def end(self) -> None:
        """Take all faults for undone: the links are gone."""
        self.in_force = []

    def _tell(self, pairs: frozenset[Pair]) -> None:
        conditions = {self._numbers[pair]: self._condition(pair) for pair in pairs}
        for server in self.servers if conditions else ():
            timeout = server.cluster._start_deadline().seconds
            server.run(_links.set_conditions, conditions, timeout=timeout)

    def _condition(self, pair: Pair) -> Condition:
        """Return what all faults on a link come to: delays add up, and a cut goes before all."""
        found = UNTROUBLED
        for fault in self.in_force:
            if pair in fault._pairs:
                cut, held, delay = fault._condition
                found = Condition(found.cut or cut, found.held or held, found.delay + delay)
        return found


@dataclass(frozen=True)
class _LinksRuntime(Runtime):
    """What the process of the links serves: its links."""

    ports: tuple[tuple[int, int], ...]

    preload = (_links.__name__,)

    def entry(self, assignment: Assignment) -> Callable[[], Serving]:
        """Return what that process calls."""
        return partial(_links.serve, self.ports)


def lay_links(
    cluster: LocalCluster,
    leases: Mapping[Pair, PortLease],
    spec: ClusterSpec,
    logs: Sequence[TaskLog],
    undo: ExitStack,
) -> Links:
    """Make ready what runs the links of a cluster; its ``servers`` are started with the tasks.

    It is handled like a task: launched by the process launcher, whatever runs the tasks, so that
    a busy test does not slow it; and dead when pytest is.
    """
    if not leases:
        return Links(None, {})
    first = next(iter(leases.values()))
    ports = []
    for (_, dialled), lease in leases.items():
        target = spec.task_address(dialled.job, dialled.index)
        ports.append((lease.port, int(target.rpartition(":")[2])))
        lease.hand_over()
        undo.callback(close_all, lease.address)  # of tasks that are threads here
    own = ClusterSpec({"links": [first.address]})
    runtime = _LinksRuntime(tuple(ports))
    launcher = find_launcher("process", runtime.preload, runtime.boot_env)
    launcher.prepare()
    assignment = Assignment(TaskContext(Task("links", 0), own, first.address, {}), b"", "")
    log = TaskLog(logs[0].path.with_name("links.log"), kept=logs[0].kept)
    if not log.kept:
        undo.callback(log.discard)
    place = Place(assignment, runtime, launcher, first, b"")
    links = Links(Server(cluster, place, log), leases)
    undo.callback(links.end)
    return links
