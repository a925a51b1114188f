"""One clock: Deadline and poll. The only file that may sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Deadline", "now", "poll"]

T = TypeVar("T")

now = time.monotonic


class Deadline:
    """A moment by which something must have happened; made once and handed down.

    Args:
        seconds: how long from now; None is never.
    """

    __slots__ = ("_end", "_start", "seconds")

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._start = now()
        self._end = None if seconds is None else self._start + seconds

    def remaining(self) -> float | None:
        """Return the seconds left, never below 0; None if there is no end."""
        return None if self._end is None else max(0.0, self._end - now())

    def expired(self) -> bool:
        """Tell whether the moment has passed."""
        return self._end is not None and now() >= self._end

    def elapsed(self) -> float:
        """Return the seconds since this deadline was made."""
        return now() - self._start

    def sooner(self, seconds: float) -> Deadline:
        """Return a deadline ``seconds`` from now, or this one's end if that comes first."""
        left = self.remaining()
        return Deadline(seconds if left is None else min(seconds, left))


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
