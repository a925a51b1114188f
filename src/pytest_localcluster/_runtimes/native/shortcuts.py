"""Values that travel with the calls of a step's master, and so need no call of their own.

Of most steps that touch two tasks the master's task is one: a worker that dials itself and works
with parameter servers. What another task gives to the master's part can come with the answer to
the master's call there, and what the master's part gives to it can go along with that call, which
then waits until all of it is there. Neither may hold up what could go on without it, let alone
what it depends on itself; where that might be, the value is pulled when it is needed, as between
any two tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .checks import source_of

if TYPE_CHECKING:
    from ..._proto.worker_pb2 import RegisterGraphRequest
    from ..._spec import Task
    from .plan import PartPlan

__all__ = ["take_shortcuts"]


def take_shortcuts(parts: Mapping[Task, PartPlan], master: Task) -> None:
    """Have what can travel with the master's calls do so, in a plan that is complete without.

    Args:
        parts: of the plan; changed.
        master: the master's task.
    """
    here = parts.get(master)
    if here is None:
        return
    for task, part in parts.items():
        if task != master:
            given = [key for key, there in part.request.recv.items() if there == str(master)]
            taken = [k for k, there in here.request.recv.items() if there == str(task)]
            if given and _all_wait_for(given, part.request):
                _hand(given, here, part)
            if taken and _nothing_else_in(part.request, taken):
                _return(taken, here, part)


def _hand(keys: list[str], here: PartPlan, part: PartPlan) -> None:
    _take_from(here.request, keys)
    here.hands.update(keys)
    for key in keys:
        del part.request.recv[key]
    part.request.feed.extend(keys)
    part.handed.update(keys)


def _return(keys: list[str], here: PartPlan, part: PartPlan) -> None:
    _take_from(part.request, keys)
    places = {key: place for place, key in enumerate(part.request.fetch)}
    for key in keys:
        here.request.recv[key] = ""  # the master brings it
        if key.startswith("^"):
            part.returned.append((key, None))
            continue
        if key not in places:
            places[key] = len(places)
            part.request.fetch.append(key)
        part.returned.append((key, places[key]))


def _take_from(request: RegisterGraphRequest, keys: list[str]) -> None:
    """Have keys be asked for once less."""
    times = Counter(request.send)
    times.subtract(keys)
    request.send[:] = times.elements()


def _all_wait_for(keys: list[str], request: RegisterGraphRequest) -> bool:
    """Tell whether nothing of a part that takes time, or that others need, can begin without."""
    everything = (1 << len(keys)) - 1
    waits = {key: 1 << i for i, key in enumerate(keys)}  # by input, in bits: for which keys
    sent, fed = {source_of(key) for key in request.send}, set(request.feed)
    for node in request.graph_def.node:
        mask = 0
        for key in node.input:
            if key not in fed:
                mask |= waits.get(key) or waits.get(source_of(key), 0)
        waits[node.name] = mask
        if mask != everything and (node.op == "Function" or node.name in sent):
            return False
    return True


def _nothing_else_in(request: RegisterGraphRequest, keys: list[str]) -> bool:
    """Tell whether a part, if it waits at all or takes time, does so for each of ``keys``."""
    everything = (1 << len(keys)) - 1
    needed: dict[str, int] = {}  # by operation, in bits: by which keys
    fed = set(request.feed)
    for i, key in enumerate(keys):
        needed[source_of(key)] = needed.get(source_of(key), 0) | 1 << i
    for node in reversed(request.graph_def.node):
        mask = needed.get(node.name, 0)
        for key in node.input:
            if key not in fed:
                needed[source_of(key)] = needed.get(source_of(key), 0) | mask
    waiting = set(request.recv)
    for node in request.graph_def.node:
        waits = any(
            key in waiting or (source_of(key) in waiting and key not in fed) for key in node.input
        )
        if waits:
            waiting.add(node.name)
        if (waits or node.op == "Function") and needed.get(node.name) != everything:
            return False
    return True
