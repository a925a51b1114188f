"""Ends what the test process itself has open to TensorFlow servers, before these end.

A ``tf.compat.v1.Session`` whose server is gone hangs, for ever, in ``run``, in ``close``, in
``__del__`` and at the interpreter's exit: TensorFlow waits for the server to come back. Its own
test servers never end, so code written for them closes no session, and would hang with ours. A
``ClusterCoordinator`` that was at work when its workers went does the same in ``__del__``.

So each is noted when it is made, by weak reference, and those of a cluster are ended when it stops,
while its servers are still there. After that a session's ``run`` raises RuntimeError at once
("Attempted to use a closed Session"). What was made before we began to note, since TensorFlow was
imported after the cluster was started, is looked for once, among all objects.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
from typing import Any
from weakref import WeakSet

from ..._channel import dialled, register
from ..._context import address_of
from ...errors import SpecError
from .master import end_sessions

__all__ = ["end_in_time"]

# How long a stop waits for a coordinator: milliseconds will do, unless one of its workers is dead.
_PATIENCE = 1.0

_SESSION = ("tensorflow.python.client.session", "BaseSession")
_COORDINATOR = ("tensorflow.python.distribute.coordinator.cluster_coordinator", "Cluster")

_lock = threading.Lock()
_noted: dict[tuple[str, str], WeakSet[Any]] = {}  # by class
_enders: dict[str, _Ender] = {}  # by address; the registry of channels keeps no reference


def end_in_time(address: str) -> None:
    """Have what this process has open to ``address`` ended when its cluster stops."""
    _begin_noting()
    with _lock:
        if address in _enders:
            return
        ender = _enders[address] = _Ender(address)
    register(address, ender)


class _Ender:
    """Ends the clients of one address: a member of what is told when a task goes."""

    def __init__(self, address: str) -> None:
        self._address = address

    def reconnect(self) -> None:
        """Do nothing: TensorFlow's clients find out by themselves that a server was restarted."""

    def leave_to_parent(self) -> None:
        """Do nothing: what TensorFlow has in a fork is its own matter."""

    def disconnect(self) -> None:
        """End the clients."""
        _begin_noting()
        with _lock:
            _enders.pop(self._address, None)
            sessions = [one for one in _noted.get(_SESSION, ()) if _leads_to(one, self._address)]
            coordinators = [
                one for one in _noted.get(_COORDINATOR, ()) if _works_with(one, self._address)
            ]
        for coordinator in coordinators:
            _stop(coordinator)
        open_ones = [one for one in sessions if not getattr(one, "_closed", True)]
        for session in open_ones:
            session._closed = True  # what run(), close() and __del__ go by
        if open_ones:
            end_sessions(self._address)  # and with them the steps that are under way


def _stop(coordinator: Any) -> None:
    """Stop the threads of a coordinator, once: it hangs if one waits for a worker that is dead."""
    stop, coordinator.stop = coordinator.stop, _do_nothing
    stopping = threading.Thread(target=stop, name="stop a coordinator", daemon=True)
    stopping.start()
    stopping.join(_PATIENCE)


def _do_nothing() -> None:
    """Stand in for the stop that was made already."""


def _leads_to(session: Any, address: str) -> bool:
    target = getattr(session, "_target", None)  # bytes; None for a session within its process
    if not target:
        return False
    try:
        return dialled(address_of(target.decode())) == dialled(address)
    except SpecError:  # some protocol that is none of ours
        return False


def _works_with(coordinator: Any, address: str) -> bool:
    handler = getattr(coordinator, "failure_handler", None)
    server_def = getattr(handler, "_server_def", None)
    jobs = server_def.cluster.job if server_def is not None else ()
    return coordinator.stop is not _do_nothing and any(
        address in job.tasks.values() for job in jobs
    )


def _begin_noting() -> None:
    """Note every client from now on, and those that there are; nothing happens without any."""
    classes = {
        kind: getattr(sys.modules[kind[0]], kind[1], None)
        for kind in (_SESSION, _COORDINATOR)
        if kind[0] in sys.modules
    }
    with _lock:
        new = {kind: cls for kind, cls in classes.items() if cls and kind not in _noted}
        for kind, cls in new.items():
            _noted[kind] = WeakSet()
            cls.__init__ = _noting(cls.__init__, _noted[kind])
        for one in gc.get_objects() if new else ():
            for kind, cls in new.items():
                if issubclass(type(one), cls):
                    _noted[kind].add(one)


def _noting(made: Any, noted: WeakSet[Any]) -> Any:
    @functools.wraps(made)
    def note(one: Any, *args: Any, **kwargs: Any) -> None:
        made(one, *args, **kwargs)
        with _lock:
            noted.add(one)

    return note
