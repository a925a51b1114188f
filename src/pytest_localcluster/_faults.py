"""Network faults: what partition(), delay() and drop() of a cluster do, and how it is undone."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

from . import _links
from ._channel import close_all
from ._context import TaskContext
from ._launch import find_launcher
from ._links import UNTROUBLED, Condition
from ._logs import TaskLog
from ._runtimes import Assignment, Runtime
from ._server import Server
from ._setup import Pair, Place
from ._spec import ClusterSpec, DeviceSpec, Task
from .errors import SpecError, UnsupportedError

if TYPE_CHECKING:
    from contextlib import ExitStack
    from types import TracebackType

    from ._cluster import LocalCluster
    from ._config import ClusterConfig
    from ._launch import Serving
    from ._ports import PortLease

__all__ = ["Fault", "Faults", "Links", "lay_links"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

Who = Server | Task | str | Iterable["Server | Task | str"]


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
        return fault

    def heal(self, faults: Collection[Fault] | None = None) -> None:
        """Undo faults, all of them if None; those that are undone already do not matter."""
        with self._lock:
            over = [f for f in self.in_force if faults is None or f in faults]
            self.in_force = [fault for fault in self.in_force if fault not in over]
            self._tell(frozenset().union(*(fault._pairs for fault in over)))

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


class Faults:
    """The verbs of a cluster's network; LocalCluster has them."""

    config: ClusterConfig
    servers: list[Server]
    _net: Links = Links(None, {})  # before a start

    def partition(self, a: Who, b: Who) -> Fault:
        """Let nothing pass between ``a`` and ``b``, in either direction, until it is healed.

        Connections stay open and new ones come up, as with a network that loses every packet: what
        is sent over them, their ends and resets arrive when it is healed. Each of ``a`` and ``b``
        is a Server, a Task, a device string, the name of a job, or a list of these.

        Returns:
            The fault: ``with cluster.partition(a, b): ...`` heals it at the end of the block.

        Raises:
            UnsupportedError: the cluster was not started with ``links=True``.
            SpecError: there are no such tasks, or a task is on both sides.
        """
        return self._inflict("partition", a, b, Condition(held=True))

    def delay(self, a: Who, b: Who, seconds: float) -> Fault:
        """Have every byte between ``a`` and ``b`` arrive so much later, in either direction.

        A round trip takes twice that longer. Bytes keep their order, and do not wait for each
        other. Delays on one link add up. For ``a``, ``b`` and the rest see :meth:`partition`.
        """
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not number or not 0 <= seconds < math.inf:
            raise SpecError(
                f"seconds={seconds!r}: no byte can come that much later",
                remedy="use a number of seconds from 0 up",
            )
        return self._inflict(f"delay of {seconds:g} s", a, b, Condition(delay=float(seconds)))

    def drop(self, a: Who, b: Who) -> Fault:
        """Reset all connections between ``a`` and ``b``, and refuse new ones until it is healed.

        For ``a``, ``b`` and the rest see :meth:`partition`.
        """
        return self._inflict("drop", a, b, Condition(cut=True))

    def heal(self) -> None:
        """Undo all faults between tasks; what was held or slowed goes on at once."""
        self._linked("heal").heal()

    def _inflict(self, what: str, a: Who, b: Who, condition: Condition) -> Fault:
        links = self._linked(what.partition(" ")[0])
        ones, others = self._find_all(a), self._find_all(b)
        for task in ones:
            if task in others:
                raise SpecError(
                    f"{task} is on both sides of a {what}: nothing is between it and itself",
                    remedy="name two tasks, or two lists that have no task in common",
                )
        pairs = itertools.chain(itertools.product(ones, others), itertools.product(others, ones))
        between = f"{what} between {_names(ones)} and {_names(others)}"
        return links.inflict(between, frozenset(pairs), condition)

    def _linked(self, verb: str) -> Links:
        self._check_running(verb)
        if not self.config.links:
            raise UnsupportedError(
                f"this cluster cannot {verb}: its tasks reach each other directly",
                remedy="start it with links=True, as in @pytest.mark.cluster(links=True)",
            )
        return self._net

    def _check_running(self, verb: str) -> object:
        raise NotImplementedError

    def _find(self, task: str | Task | Server) -> Server:
        self._check_running("look up a task")
        wanted = Task.parse(task) if isinstance(task, str) else task
        for server in self.servers:
            if wanted in (server, server.task):
                return server
        names = _names(server.task for server in self.servers)
        raise SpecError(f"this cluster has no task {wanted}", remedy=f"its tasks are {names}")

    def _find_all(self, who: Who) -> list[Task]:
        """Return the tasks that are meant, each once."""
        if isinstance(who, (Server, Task)):
            return [self._find(who).task]
        if isinstance(who, str):
            return self._named(who)
        if not isinstance(who, Iterable):
            raise SpecError(
                f"{who!r} is no task", remedy="use a Server, a Task, a name such as /job:ps/task:0"
            )
        found = dict.fromkeys(task for one in who for task in self._find_all(one))
        if not found:
            raise SpecError(f"{who!r} names no task", remedy="name one at least")
        return list(found)

    def _named(self, name: str) -> list[Task]:
        counts = self.config.counts()
        place = DeviceSpec.from_string(name) if "/" in name else DeviceSpec(job=name)
        if place.job not in counts:
            raise SpecError(
                f"this cluster has no job {place.job or name!r}",
                remedy=f"its jobs are {', '.join(counts)}; name a task as /job:ps/task:0",
            )
        if place.task is not None:
            return [self._find(Task(place.job, place.task)).task]
        if not counts[place.job]:
            raise SpecError(f"job {place.job!r} of this cluster has no tasks")
        return [task for task in self.config.tasks() if task.job == place.job]


def _names(tasks: Iterable[Task]) -> str:
    return ", ".join(map(str, tasks)) or "none"


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
        undo.callback(log.remove)
    place = Place(assignment, runtime, launcher, first, b"")
    links = Links(Server(cluster, place, log), leases)
    undo.callback(links.end)
    return links
