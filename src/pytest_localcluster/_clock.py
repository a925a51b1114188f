"""One clock: Deadline, Alarm, Timer and poll. The only file that may sleep.

It is the machine's clock, whatever a test makes of :mod:`time`. What replaces time in tests looks
for the functions of that module, in all modules, or changes them in place: so the functions here
are of another copy of the module, and none of those that are changed in place.
"""

from __future__ import annotations

import _imp
import functools
import os
import sys
import threading
from importlib.machinery import BuiltinImporter, ModuleSpec
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread as _Thread
else:
    # The class itself, whatever a test has put in its place: the main thread is always one.
    _Thread = {kind.__name__: kind for kind in type(threading.main_thread()).__mro__}["Thread"]

__all__ = [
    "Alarm",
    "Deadline",
    "Thread",
    "Timer",
    "grpc_timeout",
    "now",
    "now_ns",
    "poll",
    "real_time",
]

T = TypeVar("T")

_LIFETIME = 3e9


def _own_copy_of_time() -> Any:
    spec: Any = ModuleSpec("time", cast("Any", BuiltinImporter))
    module = _imp.create_builtin(spec)
    _imp.exec_builtin(module)
    return module


_time = _own_copy_of_time()
# The clock of time.monotonic, but not its function: time-machine is free to change that in place.
_CLOCK = _time.CLOCK_UPTIME_RAW if sys.platform == "darwin" else _time.CLOCK_MONOTONIC

now: Callable[[], float] = functools.partial(_time.clock_gettime, _CLOCK)
"""Seconds of the monotonic clock."""

now_ns: Callable[[], int] = functools.partial(_time.clock_gettime_ns, _CLOCK)
"""Nanoseconds of the monotonic clock, which all processes of a machine have in common."""


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
        self.renew()

    def renew(self) -> None:
        """Begin anew: a fork has no thread, and its alarms are the parent's."""
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
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_bell.renew)


class Thread(_Thread):
    """A thread of the interpreter's own class, also after gevent has patched :mod:`threading`."""

    def _bootstrap_inner(self) -> None:
        super()._bootstrap_inner()  # type: ignore[misc]
        # join() and is_alive() use this lock. The interpreter releases its own one at the end of a
        # thread; a lock of gevent in its place is released by gevent's own class alone.
        lock: Any = getattr(self, "_tstate_lock", None)
        if type(lock).__module__.partition(".")[0] == "gevent" and lock.locked():
            lock.release()


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
        _time.sleep(pause if left is None else min(pause, left))
        pause = min(pause * 1.5, interval * 10)


def grpc_timeout(seconds: float | None) -> float | None:
    """Return a timeout for a call of gRPC that does not depend on what the test's clock shows.

    gRPC adds it to what time.time() returns, and compares the sum with the machine's clock.
    """
    return None if seconds is None else _Timeout(seconds)


class _Timeout(float):
    __slots__ = ()

    def __radd__(self, now: float) -> float:
        return real_time() + float(self)


@functools.cache
def _real_time() -> Callable[[], float]:
    import ctypes  # where gRPC is, numpy has imported it

    class TimeSpec(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    library = ctypes.CDLL(None)

    def read() -> float:
        spec = TimeSpec()
        library.clock_gettime(_time.CLOCK_REALTIME, ctypes.byref(spec))
        return float(spec.seconds) + float(spec.nanoseconds) * 1e-9

    return read


def real_time() -> float:
    """Return the seconds since the epoch. Python's own functions may show the test's clock."""
    return _real_time()()
