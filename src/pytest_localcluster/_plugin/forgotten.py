"""Whether anybody could still stop a cluster that runs: a question to the garbage collector.

It takes some milliseconds, and is asked only of clusters that a test has started by itself and that
run on when it ends. Whatever refers to the cluster and is not known for our own counts as somebody
who means to use it: when in doubt, nothing is forgotten.
"""

from __future__ import annotations

import gc
from collections import deque
from contextlib import ExitStack
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import TYPE_CHECKING

from .. import _exit
from ..errors import ClusterError

if TYPE_CHECKING:
    from .._cluster import LocalCluster

__all__ = ["is_forgotten", "stop_forgotten"]

_PACKAGE = __name__.partition(".")[0] + "."
_CONTAINERS = (dict, list, tuple, deque, CellType, MethodType, ExitStack, partial)


def is_forgotten(cluster: LocalCluster, aside: object = None) -> bool:
    """Tell whether nobody but us has the cluster, or one of its servers, any more.

    Args:
        cluster: a cluster that runs.
        aside: something that has it and does not count.

    The caller must have it in a variable only.
    """
    gc.collect()  # what only refers to itself is nobody
    # A tuple, which the call below takes as it is: Python 3.13 counts that as a referrer.
    things = (cluster, *cluster.servers)
    own = {*_inside(cluster), id(things), id(aside), id(_exit.running())}
    referrers = gc.get_referrers(*things)
    return all(id(referrer) in own or _is_ours(referrer) for referrer in referrers)


def _inside(cluster: LocalCluster) -> set[int]:
    """Return the identities of all that a cluster consists of."""
    found: set[int] = set()
    unseen: list[object] = [cluster]
    while unseen:
        thing = unseen.pop()
        if id(thing) in found:
            continue
        if isinstance(thing, FunctionType):
            found.add(id(thing))
            unseen.extend(thing.__closure__ or ())  # not its globals
        elif _is_ours(thing) or isinstance(thing, _CONTAINERS):
            found.add(id(thing))
            unseen.extend(gc.get_referents(thing))
    return found


def _is_ours(thing: object) -> bool:
    if type(thing).__name__ == "frame":
        name = getattr(thing, "f_globals", {}).get("__name__", "")
    else:
        name = type(thing).__module__
    return f"{name}.".startswith(_PACKAGE)


def stop_forgotten(cluster: LocalCluster) -> str:
    """Stop it, since nobody else can; return the report."""
    held, tasks = cluster._held, ", ".join(map(repr, cluster.servers))
    held.remedy = "stop() it, use it in a with statement, or take the fixture cluster_factory"
    report = held.report()
    try:
        cluster._clean_up()
        end = "it was stopped now"
    except ClusterError as error:
        end = str(error)
    return f"{report}\n  | nobody could stop it any more; {end}\n  | {tasks or 'it has no tasks'}"
