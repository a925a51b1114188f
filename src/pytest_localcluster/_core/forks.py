"""Handles in a forked child of the process that owns them.

A fork has copies of its parent's handles: the same sockets, pipes and ports, without the threads
that read them. Used from both sides, a socket's messages interleave, and an answer goes to either.
So what a handle does is for its owner alone; the child may read what is known, and be a client.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..errors import UnsupportedError

__all__ = ["inherited", "owner_only", "refusal"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")


def inherited(handle: Any) -> bool:
    """Return True if ``handle``, whose owner's pid is ``handle._owner``, came here by a fork."""
    return bool(handle._owner != os.getpid())


def owner_only(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Make a method raise UnsupportedError in a fork, before it takes a lock or sends anything."""

    @functools.wraps(method)
    def checked(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if inherited(self):
            raise refusal(self, method.__name__)
        return method(self, *args, **kwargs)

    return checked


def refusal(handle: Any, verb: str) -> UnsupportedError:
    """Return the error for a verb of a handle that came here by a fork."""
    return UnsupportedError(
        f"{_name(handle)} belongs to process {handle._owner}, and {verb}() was called in a fork "
        f"of it, process {os.getpid()}",
        remedy="do it in the process that forked; what works in a fork is a Session, "
        "cluster.environ() for programs, and a LocalCluster started there",
    )


def _name(handle: Any) -> str:
    task = getattr(handle, "task", None)
    return str(task) if task is not None else repr(handle)
