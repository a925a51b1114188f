"""Streams on which one caller sends its requests, each after the answer to the one before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..._clock import Deadline
from .._grpc import time_remaining

if TYPE_CHECKING:
    import grpc

__all__ = ["Conversation", "Conversations"]


class Conversation:
    """One stream; to what serves a request it is the caller, as a gRPC context would be.

    Args:
        context: of the stream.

    Attributes:
        is_busy: whether an answer is due.
    """

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._deadline = Deadline(None)
        self._ending = False
        self.is_busy = False
        # gRPC keeps a callback as long as the stream is open: one for all requests.
        self._active: bool = context.add_callback(self._hung_up)

    def answers(
        self, requests: Iterator[Any], behave: Callable[[Any, Conversation], Any]
    ) -> Iterator[Any]:
        """Yield what ``behave`` gives to each request."""
        for request in requests:
            self.is_busy = True
            wait = getattr(request, "wait_in_ms", 0)
            self._deadline = Deadline(wait / 1000 if wait > 0 else None)
            answer = behave(request, self)
            del request  # the next one may be long in coming
            with self._lock:
                self._callbacks.clear()
            yield answer
            del answer
            self.is_busy = False
            if self._ending:
                return

    def end(self) -> None:
        """End it: at once if it is idle, and otherwise with the answer that is due."""
        self._ending = True
        if not self.is_busy:
            self._context.cancel()

    def is_active(self) -> bool:
        """Tell whether the caller still wants an answer."""
        return self._active

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have ``callback`` called when the caller hangs up; False if it has."""
        with self._lock:
            if self._active:
                self._callbacks.append(callback)
            return self._active

    def time_remaining(self) -> float | None:
        """Return the seconds that the caller will still wait: for this answer, or at all."""
        left, whole = self._deadline.remaining(), time_remaining(self._context)
        return whole if left is None else left if whole is None else min(left, whole)

    def _hung_up(self) -> None:
        with self._lock:
            self._active = False
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Conversations:
    """Those of one server that are open."""

    def __init__(self) -> None:
        self._open: set[Conversation] = set()

    def hold(
        self,
        context: grpc.ServicerContext,
        requests: Iterator[Any],
        behave: Callable[[Any, Conversation], Any],
    ) -> Iterator[Any]:
        """Yield what ``behave`` gives to each request of a stream."""
        conversation = Conversation(context)
        self._open.add(conversation)
        try:
            yield from conversation.answers(requests, behave)
        finally:
            self._open.discard(conversation)

    def idle(self) -> int:
        """Return how many wait for their next request."""
        return sum(not conversation.is_busy for conversation in list(self._open))

    def end(self) -> None:
        """Have all of them end."""
        for conversation in list(self._open):
            conversation.end()
