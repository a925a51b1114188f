"""One clock: Deadline and poll. The only file that may sleep."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Deadline", "now", "poll"]

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
        self.seconds = seconds
        self._end = None if seconds is None else now() + seconds

    def remaining(self) -> float | None:
        """Return the seconds left, never below 0; None if there is no end."""
        return None if self._end is None else max(0.0, self._end - now())

    def expired(self) -> bool:
        """Tell whether the moment has passed."""
        return self._end is not None and now() >= self._end


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
