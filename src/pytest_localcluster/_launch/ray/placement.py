"""Actors for the tasks of a cluster, one each, spread over the nodes by a placement group.

They outlast their cluster, as the forkservers of the process launcher do, and for the same reason:
an actor with a forkserver takes seconds to come up, and the next test may well ask for the same.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ... import _ports
from ...errors import StartError
from .. import Berth
from .berth import GROUPS, RayBerth, ask
from .node import TaskActor, own_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .. import Needs

__all__ = ["Placement", "Reserved", "key_of"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_ROOM = 30.0
"""Seconds that Ray has to find room for all actors."""

_UP = 60.0
"""Seconds that actors have to come up, which takes some where a node has to start a worker."""

_NAMED = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""The resources that an actor is asked for in a way of their own."""


def key_of(wanted: Sequence[Needs], resources: Mapping[str, float]) -> object:
    """Return what is equal for clusters whose tasks can take over each other's actors."""
    needs = tuple((each.preload, frozenset(each.boot_env.items())) for each in wanted)
    return needs, frozenset(resources.items())


class Placement:
    """The actors of one cluster after the other.

    Args:
        wanted: what each task needs.
        resources: what each takes of its node.

    Raises:
        StartError: there is no room for them.
    """

    def __init__(self, wanted: Sequence[Needs], resources: Mapping[str, float]) -> None:
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.key = key_of(wanted, resources)
        apart = len(wanted) <= sum(_has(node, resources) for node in ray.nodes())
        self._group = placement_group(
            [dict(resources)] * len(wanted), strategy="STRICT_SPREAD" if apart else "SPREAD"
        )
        self.actors: list[Any] = []
        try:
            if not self._group.wait(_ROOM):
                raise _no_room(len(wanted), resources)
            kind = ray.remote(concurrency_groups=GROUPS, max_restarts=0)(TaskActor)
            others = {name: n for name, n in resources.items() if name not in _NAMED}
            named = {_NAMED[name]: n for name, n in resources.items() if name in _NAMED}
            for index, needs in enumerate(wanted):
                place = PlacementGroupSchedulingStrategy(
                    self._group, placement_group_bundle_index=index
                )
                options = {"num_cpus": 0, **named, "resources": others}
                actor = kind.options(scheduling_strategy=place, **options).remote(
                    own_version(), list(sys.path), needs.preload, dict(needs.boot_env)
                )
                self.actors.append(actor)
        except BaseException:
            self.discard()
            raise

    def reserve(self, wanted: Sequence[Needs], give_back: Callable[[Placement], None]) -> Reserved:
        """Lease ports on the nodes; return the berths of a cluster.

        Raises:
            PortError: there is none.
            TimeoutError: an actor does not come up, or does not answer.
            ray.exceptions.RayError: an actor is gone.
        """
        bounds = None if _ports._range is None else (_ports._range.low, _ports._range.high)
        asked = []
        for index, (actor, needs) in enumerate(zip(self.actors, wanted, strict=True)):
            # The first task's node has one more, to meet at.
            count = 1 + len(needs.ports) + (index == 0)
            order = actor.lease.options(concurrency_group="orders")
            asked.append(order.remote(count, bounds, needs.folder))
        found = [ask(reference, _UP) for reference in asked]
        berths = []
        for (host, ports, folder), actor, needs in zip(found, self.actors, wanted, strict=True):
            shown = f"[{host}]" if ":" in host else host
            berth = RayBerth(actor, f"{shown}:{ports[0]}", needs.task)
            further = dict(zip(needs.ports, ports[1:], strict=False))
            berths.append(Berth(berth, berth, further, folder=folder))
        host, ports, _ = found[0]
        return Reserved(berths, (host, ports[-1]), lambda: give_back(self))

    def free(self) -> None:
        """Give the ports back, and do not wait for that."""
        for actor in self.actors:
            actor.release.options(concurrency_group="orders").remote()

    def discard(self) -> None:
        """End the actors, and all that they have started."""
        import ray
        from ray.util.placement_group import remove_placement_group

        for actor in self.actors:
            ray.kill(actor)
        remove_placement_group(self._group)


class Reserved:
    """The berths of one cluster.

    Attributes:
        berths: one for each task.
        meeting: a host and a port where the tasks may meet.
    """

    def __init__(
        self, berths: Sequence[Berth], meeting: tuple[str, int], give_back: Callable[[], None]
    ) -> None:
        self.berths = berths
        self.meeting = meeting
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        """Give them back. Idempotent."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


def _has(node: Mapping[str, Any], resources: Mapping[str, float]) -> bool:
    has = node["Resources"]
    return node["Alive"] and all(has.get(name, 0) >= n for name, n in resources.items())


def _no_room(tasks: int, resources: Mapping[str, float]) -> StartError:
    import ray

    nodes = [
        f"{node['NodeManagerAddress']} has {node['Resources']}"
        for node in ray.nodes()
        if node["Alive"]
    ]
    return StartError(
        f"Ray has found no room for {tasks} tasks in {_ROOM:g} s",
        status=f"each takes {dict(resources)} of a node; free in all: {ray.available_resources()}",
        evidence="\n".join(nodes),
        remedy="add nodes, end what takes up theirs, or ask for less: "
        "launcher=RayLauncher(resources={'CPU': ...})",
    )
