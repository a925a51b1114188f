"""The verbs of a cluster that is disturbed: partition(), delay(), drop(), heal() and chaos()."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from ._chaos import BETWEEN_TASKS, KINDS, OF_TASKS, Chaos
from ._core.forks import owner_only
from ._links import Condition
from ._net import Fault, Links
from ._server import Server
from ._spec import DeviceSpec, Task
from .errors import SpecError, UnsupportedError

if TYPE_CHECKING:
    from ._cluster import LocalCluster
    from ._config import ClusterConfig

__all__ = ["Faults"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

Who = Server | Task | str | Iterable["Server | Task | str"]


class Faults:
    """The verbs of a cluster's network; LocalCluster has them."""

    config: ClusterConfig
    _owner: int
    servers: list[Server]
    _net: Links = Links(None, {})  # before a start

    @owner_only
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

    @owner_only
    def delay(self, a: Who, b: Who, seconds: float) -> Fault:
        """Have every byte between ``a`` and ``b`` arrive so much later, in either direction.

        A round trip takes twice that longer. Bytes keep their order, and do not wait for each
        other. Delays on one link add up. For ``a``, ``b`` and the rest see :meth:`partition`.
        """
        if not _is_number(seconds) or not 0 <= seconds < math.inf:
            raise SpecError(
                f"seconds={seconds!r}: no byte can come that much later",
                remedy="use a number of seconds from 0 up",
            )
        return self._inflict(f"delay of {seconds:g} s", a, b, Condition(delay=float(seconds)))

    @owner_only
    def drop(self, a: Who, b: Who) -> Fault:
        """Reset all connections between ``a`` and ``b``, and refuse new ones until it is healed.

        For ``a``, ``b`` and the rest see :meth:`partition`.
        """
        return self._inflict("drop", a, b, Condition(cut=True))

    @owner_only
    def heal(self) -> None:
        """Undo all faults between tasks; what was held or slowed goes on at once."""
        self._linked("heal").heal()

    @owner_only
    def chaos(
        self,
        seed: int | str,
        kinds: Iterable[str] | None = None,
        every: float = 0.5,
        tasks: Who | None = None,
    ) -> Chaos:
        """Return a context manager in whose block faults happen, on a schedule that ``seed`` fixes.

        One after the other, each undone before the next: a task is killed and started again, or
        suspended and resumed; a part of the cluster is cut off, or slowed, and healed. The same
        arguments give the same schedule, in the same order and with the same pauses; at which
        point of the test a fault comes also depends on how fast that runs. At the end of the block
        all is undone. A red test's report has the seed and what happened.

        Args:
            seed: a number or text to draw the schedule from.
            kinds: of ``"kill"``, ``"suspend"``, ``"partition"``, ``"drop"`` and ``"delay"``, those
                that may happen; None for all that this cluster can do.
            every: seconds from the end of one fault to the next, on average; each lasts for up to
                as long.
            tasks: whom they may hit, named as for :meth:`partition`; None for all tasks.

        Raises:
            UnsupportedError: this cluster cannot do one of ``kinds``, or none at all.
            SpecError: there is no such kind or task, or ``every`` or ``seed`` cannot be.
        """
        self._check_running("be disturbed")
        if isinstance(seed, bool) or not isinstance(seed, (int, str)):
            raise SpecError(f"seed={seed!r} gives no schedule", remedy="use a number, or text")
        if not _is_number(every) or not 0 < every < math.inf:
            raise SpecError(f"every={every!r} is no pause", remedy="use seconds, more than 0")
        hit = self.config.tasks() if tasks is None else self._find_all(tasks)
        chosen = self._can_do() if kinds is None else self._wanted(kinds)
        if not chosen:
            raise UnsupportedError(
                "nothing can be done to this cluster: it has no processes and no links",
                remedy="use launcher='process' with a task at least, or links=True with two",
            )
        return Chaos(cast("LocalCluster", self), seed, chosen, every, hit)

    def _can_do(self) -> list[str]:
        tasks = len(self.config.tasks())
        processes = self.config.launcher != "thread" and tasks
        links = self.config.links and tasks > 1
        return [*(OF_TASKS if processes else ()), *(BETWEEN_TASKS if links else ())]

    def _wanted(self, kinds: Iterable[str]) -> list[str]:
        wanted = [kinds] if isinstance(kinds, str) else list(kinds)
        for kind in wanted:
            if kind not in KINDS:
                raise SpecError(
                    f"{kind!r} is no kind of fault", remedy=f"the kinds are {', '.join(KINDS)}"
                )
            if kind not in self._can_do():
                raise UnsupportedError(
                    f"this cluster cannot do {kind!r}",
                    remedy="kill and suspend need launcher='process'; partition, drop and delay "
                    "need links=True and two tasks",
                )
        return wanted

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


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
