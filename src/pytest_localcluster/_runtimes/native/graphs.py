"""The parts of graphs that are registered on a task, by the handles that their masters know."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .parts import Part

__all__ = ["Graphs"]


class Graphs:
    """What is registered on a task.

    Args:
        incarnation: a number that tells this start of the task from others.
    """

    def __init__(self, incarnation: int) -> None:
        self._lock = threading.Lock()
        self._parts: dict[str, Part] = {}
        # With the incarnation, so that no handle from before a restart can be another graph's.
        self._handles = (f"{incarnation:x}.{n}" for n in itertools.count())

    def add(self, part: Part) -> str:
        """Keep a part; return its handle."""
        with self._lock:
            handle = next(self._handles)
            self._parts[handle] = part
        return handle

    def get(self, handle: str) -> Part | None:
        """Return a part, if it is (still) known."""
        return self._parts.get(handle)

    def remove(self, handle: str) -> None:
        """Forget one part, if there is such a one."""
        with self._lock:
            self._parts.pop(handle, None)

    def remove_session(self, session: str) -> None:
        """Forget all parts of a session."""
        with self._lock:
            self._parts = {h: part for h, part in self._parts.items() if part.session != session}

    def remove_master(self, task: str) -> None:
        """Forget what masters of a task registered that was restarted more than once since.

        What came before this restart and what came since cannot be told apart, at first.
        """
        with self._lock:
            gone = [h for h, part in self._parts.items() if part.master == task and part.outlived]
            for handle in gone:
                del self._parts[handle]
            for part in self._parts.values():
                part.outlived |= part.master == task

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._parts = {}

    def masters(self) -> list[str]:
        """Return whose masters the parts are of, the oldest first."""
        return [part.master for part in self._parts.values()]

    def __len__(self) -> int:
        return len(self._parts)
