"""Where a task's steps leave what others will ask for: by step and key, until it is asked for.

Whoever asks may come before the value, and before the step has begun here: it waits. Every wait
ends: with the value, with the failure that ended the step, when the step is over without such a
value, or when the one who asked has hung up. A step that is over is forgotten but for its number,
so that who comes late fails at once instead of waiting for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..._tensors import size_of
from ...errors import AbortedError, CancelledError, NotFoundError
from .._grpc import time_remaining
from .statuses import StepFailed, passed_on, status_of

if TYPE_CHECKING:
    from ..._proto.graph_pb2 import Status

__all__ = ["Caller", "Step", "Steps", "time_left"]

_REMEMBERED = 4096  # steps that are over, and that somebody may still ask for
_BYTES = 1 << 25  # that the reasons of those may take, with the exceptions that they hold
_LARGE = 1 << 20  # bytes of a reason of which only the words are remembered


class Caller(Protocol):
    """Who asks for a value: a gRPC context, or what acts like one."""

    def is_active(self) -> bool:
        """Tell whether it still wants an answer."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have ``callback`` called when it no longer does; False if that has been so already."""

    def time_remaining(self) -> float | None:
        """Return the seconds that it will still wait; None or a huge number if there is no end."""


def time_left(caller: Caller) -> float | None:
    """Return the seconds that a caller will still wait; None if there is no end."""
    left = time_remaining(caller)
    # gRPC's word for "no deadline" has been None, infinity and the year 2262.
    return None if left is None or left > threading.TIMEOUT_MAX else left


class Step:
    """One step on one task.

    ``status`` says why it ended, once it failed; ``changed`` is notified of that, and holds the
    lock that guards it. Who waits for a value waits for that one alone: a step can have thousands.
    """

    __slots__ = ("arrivals", "changed", "owners", "parts", "status", "step_id", "values", "waiters")

    def __init__(self, step_id: int, lock: threading.Lock) -> None:
        self.step_id = step_id
        self.changed = threading.Condition(lock)
        self.status: Status | None = None
        self.values: dict[str, list[Any]] = {}  # key to value, how many will ask for it, its size
        self.arrivals: dict[str, threading.Condition] = {}  # of what was asked for before it came
        self.parts: set[str] = set()
        self.owners = 0
        self.waiters = 0

    def wake(self) -> None:
        """Have everyone look again who waits for something of this step; needs the lock."""
        self.changed.notify_all()
        for arrival in self.arrivals.values():
            arrival.notify_all()


class Steps:
    """All steps of one task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[int, Step] = {}
        self._over: dict[int, Status] = {}
        self._over_bytes = 0

    def begin(self, step_id: int, part: str) -> Step:
        """Say that ``part`` of a step runs here from now on; :meth:`finish` says that it is done.

        Raises:
            StepFailed: the step is over, or that part has run already.
        """
        with self._lock:
            step = self._step(step_id)
            if part in step.parts:
                raise StepFailed(_status(AbortedError, f"step {step_id} runs here already"))
            step.parts.add(part)
            step.owners += 1
            return step

    def finish(self, step: Step) -> None:
        """Say that a part of a step is done; its values stay until they have been asked for."""
        with self._lock:
            step.owners -= 1
            self._forget_if_over(step)
            step.wake()

    def put(self, step: Step, key: str, value: Any, times: int = 1) -> None:
        """Leave a value that will be asked for so many times. A step that failed takes none."""
        size = size_of(value)
        with self._lock:
            if step.status is None:
                step.values[key] = [value, times, size]
                if key in step.arrivals:
                    step.arrivals[key].notify_all()

    def take(self, step_id: int, key: str, caller: Caller, limit: int | None = None) -> Any:
        """Wait for a value and return it; what is larger than ``limit`` bytes stays.

        Returns:
            The value and True, or None and False if it is too large.

        Raises:
            StepFailed: the step failed, or is over.
            NotFoundError: it ended without such a value.
            CancelledError: the caller has hung up.
        """
        with self._lock:
            step = self._step(step_id)
            step.waiters += 1
            try:
                if key not in step.values:
                    self._wait(step, key, caller)
                entry = step.values[key]
                if limit is not None and entry[2] > limit:
                    return None, False
                entry[1] -= 1
                if not entry[1]:
                    del step.values[key]
                return entry[0], True
            finally:
                step.waiters -= 1
                self._forget_if_over(step)

    def _wait(self, step: Step, key: str, caller: Caller) -> None:
        arrival = step.arrivals.get(key)
        if arrival is None:
            arrival = step.arrivals[key] = threading.Condition(self._lock)

        def hung_up() -> None:
            with self._lock:
                arrival.notify_all()

        caller.add_callback(hung_up)
        while key not in step.values:
            if step.status is not None:
                raise StepFailed(step.status)
            if step.parts and not step.owners:
                raise NotFoundError(f"step {step.step_id} has ended and gave no {key!r} to send")
            if not caller.is_active():
                raise CancelledError(f"nobody waits for {key!r} of step {step.step_id} any more")
            arrival.wait()

    def end(self, step_id: int, status: Status) -> None:
        """End a step because of a failure, and wake all who wait for something of it."""
        with self._lock:
            if step_id not in self._over:
                self._end(self._step(step_id), status)

    def end_all(self, status: Status) -> None:
        """End every step."""
        with self._lock:
            for step in list(self._steps.values()):
                self._end(step, status)

    def __len__(self) -> int:
        return len(self._steps)

    def __contains__(self, step_id: int) -> bool:
        return step_id in self._steps

    def _step(self, step_id: int) -> Step:
        if step_id in self._over:
            raise StepFailed(self._over[step_id])
        step = self._steps.get(step_id)
        if step is None:
            step = self._steps[step_id] = Step(step_id, self._lock)
        return step

    def _end(self, step: Step, status: Status) -> None:
        step.status = status
        step.values.clear()
        self._forget(step, status)
        step.wake()

    def _forget_if_over(self, step: Step) -> None:
        if step.owners or step.waiters or step.values or step.status is not None:
            return
        if step.parts:
            self._forget(step, _status(AbortedError, f"step {step.step_id} is over"))
        else:  # it was only asked about; it may yet begin
            self._steps.pop(step.step_id, None)

    def _forget(self, step: Step, status: Status) -> None:
        if self._steps.pop(step.step_id, None) is not None:
            size = status.ByteSize()
            if size > _LARGE:
                status = passed_on(status)
                size = status.ByteSize()
            self._over[step.step_id] = status
            self._over_bytes += size
            while len(self._over) > _REMEMBERED or self._over_bytes > _BYTES:
                self._over_bytes -= self._over.pop(next(iter(self._over))).ByteSize()


def _status(kind: type[AbortedError], message: str) -> Status:
    return status_of(kind(message))
