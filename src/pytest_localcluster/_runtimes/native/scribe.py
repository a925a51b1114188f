"""Who writes down, beside a native task's steps, which operations it ran and which it is running.

To write an operation down takes as long as a small one does. So the thread that runs one only
leaves word of it, and the scribe, a thread of its own, writes thirty milliseconds later. It also
looks which operations are running: one that runs when its task is killed, or at the end of the
test, is known by that. What is noted once a step, or for a tensor, is written at once, by whoever
does it.

When nothing happens the scribe sleeps: looks by each of many tasks, all the time, are felt by those
that do something. So whatever has operations run says so before and after.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from ... import _held
from ..._clock import Thread, now_ns
from ..._ring import FOREVER

if TYPE_CHECKING:
    from ..._ring import Ring
    from .parts import Operation

__all__ = ["Done", "Scribe"]

_PAUSE = 0.03

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
        self._under_way: set[int] = set()  # numbers of what has operations run
        self._asleep = False
        self._turning = threading.Lock()  # in or out of sleep
        self._bell: SimpleQueue[bool] = SimpleQueue()  # which wakes it; whether it is to stop
        self._thread = Thread(target=self._write, name=name, daemon=True)
        self._thread.start()
        if _held.owner() is not None:
            _held.hold_thread(self._thread)

        atexit.register(self.stop)  # a task that ends in peace does no more than that

    def begin(self, code: int, step_id: int) -> int:
        """Write down that something begins that has operations run; return its number."""
        number = self.ring.begin(code, step_id)
        self._under_way.add(number)
        if self._asleep:
            self._wake()
        return number

    def close(self, number: int, *, failed: bool) -> None:
        """Write down that it has ended."""
        self._under_way.discard(number)
        self.ring.close(number, failed=failed)

    def stop(self) -> None:
        """Write the last words. Idempotent."""
        self._bell.put(True)
        self._thread.join()
        atexit.unregister(self.stop)

    def _write(self) -> None:
        over = False
        while not over:
            over = self._wait()
            now = now_ns()
            wrote = self._write_done()
            if self._running or self._seen:
                self._look()
            if wrote or not self._fall_asleep():
                self.ring.is_complete(now)

    def _wait(self) -> bool:
        try:
            return self._bell.get(timeout=None if self._asleep else _PAUSE)
        except Empty:
            return False

    def _fall_asleep(self) -> bool:
        """Do so if nothing is under way; tell whether that is so."""
        with self._turning:
            self._asleep = True  # first: whoever begins something after we have looked will ring
            self._asleep = not (self._under_way or self._done or self._running or self._seen)
            if self._asleep:
                self.ring.is_complete(FOREVER)
            return self._asleep

    def _wake(self) -> None:
        with self._turning:
            if self._asleep:
                self._asleep = False
                self.ring.is_complete(now_ns())
                self._bell.put(False)

    def _write_done(self) -> bool:
        """Write down what was done; tell whether there was anything."""
        next_one = self._done.popleft
        done = [next_one() for _ in range(len(self._done))]
        self.ring.add_all(
            (begin, end, step_id, operation.code or self._code(operation), failed)
            for begin, end, operation, step_id, failed in done
        )
        return bool(done)

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
        now = now_ns()
        self.ring.add(self.ring.code("more", "", ""), now, now, step_id, count)
