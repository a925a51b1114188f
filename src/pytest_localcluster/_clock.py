"""One clock: Deadline, Alarm, Timer and poll. The only file that may sleep."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread
else:
    # The class itself, whatever a test has put in its place: the main thread is always one.
    Thread = {kind.__name__: kind for kind in type(threading.main_thread()).__mro__}["Thread"]

__all__ = ["Alarm", "Deadline", "Thread", "Timer", "now", "poll"]

T = TypeVar("T")

now = time.monotonic
_LIFETIME = 3e9


class Deadline:
    """A moment by which something must have happened; made once and handed down.

    Args:
        seconds: how long from now; None is never, and so is more than a lifetime, which is
            how gRPC tells that a call has no deadline.
    """

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and seconds > _LIFETIME:
            seconds = None
        self.seconds: float | None = seconds
        self._end = None if seconds is None else now() + seconds

    def remaining(self) -> float | None:
        """Return the seconds left, never below 0; None if there is no end."""
        return None if self._end is None else max(0.0, self._end - now())

    def expired(self) -> bool:
        """Tell whether the moment has passed."""
        return self._end is not None and now() >= self._end


class Alarm:
    """Has a function called, in another thread, unless a block ends in time.

    For what waits inside a library that knows no timeout, and can be ended from outside.

    Args:
        seconds: how long the block may take; None is without end.
        ring: what is called then; it must neither take its time nor raise.

    Attributes:
        rang: whether that was so.
    """

    __slots__ = ("rang", "ring", "when")

    def __init__(self, seconds: float | None, ring: Callable[[], object]) -> None:
        self.when = None if seconds is None else now() + seconds
        self.ring = ring
        self.rang = False

    def __enter__(self) -> Self:
        if self.when is not None:
            _bell.add(self, self.when)
        return self

    def __exit__(self, *error: object) -> None:
        if self.when is not None:
            _bell.pending.discard(self)


class _Bell:
    """The one thread that rings all alarms; it ends when none was set for a second."""

    def __init__(self) -> None:
        self.pending: set[Alarm] = set()
        self._changed = threading.Condition()
        self._looks: float | None = None  # when it looks again; None is that there is no thread

    def add(self, alarm: Alarm, when: float) -> None:
        with self._changed:
            self.pending.add(alarm)
            if self._looks is None:
                self._looks = now()
                Thread(target=self._run, name="alarms", daemon=True).start()
            elif when < self._looks:
                self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self.pending:
                times = [alarm.when for alarm in list(self.pending) if alarm.when is not None]
                self._looks = min(now() + 1.0, *times)
                self._changed.wait(max(0.0, self._looks - now()))
                for alarm in list(self.pending):
                    if alarm.when is not None and alarm.when <= now():
                        self.pending.discard(alarm)
                        alarm.rang = True
                        alarm.ring()
            self._looks = None


_bell = _Bell()


class Timer(Thread):
    """Calls a function after some seconds; :class:`threading.Timer`, but on the Thread above."""

    def __init__(self, seconds: float, ring: Callable[[], object], name: str) -> None:
        super().__init__(name=name)
        self._seconds = seconds
        self._ring = ring
        self._cancelled = threading.Event()

    def run(self) -> None:
        if not self._cancelled.wait(self._seconds):
            self._ring()

    def cancel(self) -> None:
        """Do not call it, unless it is being called."""
        self._cancelled.set()


def poll(check: Callable[[], T], deadline: Deadline, interval: float = 0.002) -> T:
    """Call ``check`` until its result is true or the deadline passes; return the last result.

    For what sends no event. The pause grows from ``interval`` to ten times that.
    """
    pause = interval
    while True:
        result = check()
        if result or deadline.expired():
            return result
        left = deadline.remaining()
        time.sleep(pause if left is None else min(pause, left))
        pause = min(pause * 1.5, interval * 10)
