"""Who writes down, beside a native task's steps, which operations it ran and which it is running.

To write an operation down takes as long as a small one does. So the thread that runs one only
leaves word of it, and the scribe, a thread of its own, writes ten milliseconds later. It also looks
which operations are running: one that runs when its task is killed, or at the end of the test, is
known by that. What is noted once a step, or for a tensor, is written at once, by whoever does it.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Mapping
from time import monotonic_ns
from typing import TYPE_CHECKING

from ... import _held

if TYPE_CHECKING:
    from ..._ring import Ring
    from .parts import Operation

__all__ = ["Done", "Scribe"]

_PAUSE = 0.01

_MOST = 1 << 14
"""How many words can wait: as many as the ring holds."""

Done = tuple[int, int, "Operation", int, bool]
"""Begin and end, the operation, the step, and whether it failed."""


class Scribe:
    """Writes into a ring for one task, until it is stopped.

    Args:
        ring: where it is written.
        running: by thread, the step and operation whose function runs.
        name: of the thread.
    """

    def __init__(self, ring: Ring, running: Mapping[int, tuple[int, Operation]], name: str) -> None:
        self.ring = ring
        self._running = running
        self._done: deque[Done] = deque(maxlen=_MOST)
        self.note = self._done.append
        self._seen: dict[int, tuple[tuple[int, Operation], int]] = {}  # and its number in the ring
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write, name=name, daemon=True)
        self._thread.start()
        if _held.owner() is not None:
            _held.hold_thread(self._thread)

        atexit.register(self.stop)  # a task that ends in peace does no more than that

    def stop(self) -> None:
        """Write the last words. Idempotent."""
        self._over.set()
        self._thread.join()
        atexit.unregister(self.stop)

    def _write(self) -> None:
        over = False
        while not over:
            over = self._over.wait(_PAUSE)
            now = monotonic_ns()
            self._write_done()
            if self._running or self._seen:
                self._look()
            self.ring.is_complete(now)

    def _write_done(self) -> None:
        next_one = self._done.popleft
        self.ring.add_all(
            (begin, end, step_id, operation.code or self._code(operation), failed)
            for begin, end, operation, step_id, failed in [
                next_one() for _ in range(len(self._done))
            ]
        )

    def _look(self) -> None:
        """Write down what runs, and what has ceased to."""
        ring = self.ring
        running = dict(self._running)
        for thread, (entry, number) in list(self._seen.items()):
            if running.get(thread) is not entry:
                ring.end(number)
                del self._seen[thread]
        for thread, entry in running.items():
            if thread not in self._seen:
                step_id, operation = entry
                code = ring.code("runs", operation.name, operation.device)
                self._seen[thread] = entry, ring.begin(code, step_id)

    def _code(self, operation: Operation) -> int:
        operation.code = self.ring.code("op", operation.name, operation.device)
        return operation.code

    def leave_out(self, count: int, step_id: int) -> None:
        """Write down that a step has so many more operations, of which no word will be left."""
        now = monotonic_ns()
        self.ring.add(self.ring.code("more", "", ""), now, now, step_id, count)
