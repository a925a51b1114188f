"""Runs where the relays run: what all their connections share."""

from __future__ import annotations

import heapq
import selectors
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from .._clock import now

if TYPE_CHECKING:
    from .flow import Flow

__all__ = ["BUFFER", "TOTAL", "UNTROUBLED", "Condition", "Loop"]

BUFFER = 1 << 20
TOTAL = 256 << 20
"""How many bytes may wait in all flows; beyond that each reads a little at a time."""


class Condition(NamedTuple):
    """How a link is.

    Attributes:
        cut: connections are reset, and new ones refused.
        held: nothing passes.
        delay: how many seconds later each byte arrives.
    """

    cut: bool = False
    held: bool = False
    delay: float = 0.0


UNTROUBLED = Condition()


class Loop:
    """What the connections of a process share: a selector, a buffer, alarms and a budget."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.buffer = memoryview(bytearray(BUFFER))
        self.waiting = 0  # bytes in all queues
        self.starved: set[Flow] = set()  # that do not read until others have sent
        self._alarms: list[tuple[float, int, Flow]] = []
        self._numbers = count()

    def turn(self) -> None:
        """Wait for what comes first, and deal with it."""
        timeout = max(0.0, self._alarms[0][0] - now()) if self._alarms else None
        for key, events in self.selector.select(timeout):
            key.data(events)
        while self._alarms and self._alarms[0][0] <= now():
            heapq.heappop(self._alarms)[2].ring()

    def set_alarm(self, when: float, flow: Flow) -> None:
        """Have a flow look again at ``when``."""
        heapq.heappush(self._alarms, (when, next(self._numbers), flow))

    def release(self, size: int) -> None:
        """Say that ``size`` bytes of a queue are gone."""
        self.waiting -= size
        if self.starved and self.waiting < TOTAL:
            starved, self.starved = self.starved, set()
            for flow in starved:
                flow.source.watch()
