"""Closes the test process's own TensorFlow sessions before the servers that they lead to end.

A ``tf.compat.v1.Session`` whose server is gone hangs, for ever, in ``run``, in ``close``, in
``__del__`` and at the interpreter's exit: TensorFlow waits for the server to come back. Its own
test servers never end, so code written for them closes no session, and would hang with ours.

So every session is noted when it is made, by weak reference, and those to a cluster are closed when
it stops, while its servers are still there. After that ``run`` raises RuntimeError at once
("Attempted to use a closed Session"). Sessions that were made before we began to note them, because
TensorFlow was imported after the cluster was started, are looked for once, among all objects.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import threading
from typing import Any
from weakref import WeakSet

import grpc

from ..._channel import dialled, register
from ..._context import address_of
from ...errors import SpecError
from .master import reset

__all__ = ["close_in_time"]

# How long a stop waits for a server to end what its sessions do: it takes milliseconds, unless the
# server is suspended, and then it is not to be waited for.
_PATIENCE = 0.5
_NOBODY = "/job:nobody"  # no task needs to be cleared: all of them are about to end

_HOME = "tensorflow.python.client.session"

_lock = threading.Lock()
_sessions: WeakSet[Any] = WeakSet()
_closers: dict[str, _Closer] = {}  # by address; the registry of channels keeps no reference
_noting = False


def close_in_time(address: str) -> None:
    """Have the sessions of this process to ``address`` closed when its cluster stops."""
    _begin_noting()
    with _lock:
        if address in _closers:
            return
        closer = _closers[address] = _Closer(address)
    register(address, closer)


class _Closer:
    """Closes the sessions to one address: a member of what is told when a task goes."""

    def __init__(self, address: str) -> None:
        self._address = address

    def reconnect(self) -> None:
        """Do nothing: TensorFlow has a session to a restarted server raise AbortedError."""

    def disconnect(self) -> None:
        """Close the sessions."""
        _begin_noting()
        with _lock:
            _closers.pop(self._address, None)
            found = [session for session in _sessions if _leads_to(session, self._address)]
            _sessions.difference_update(found)
        if not found:
            return
        for session in found:
            session._closed = True  # what run(), close() and __del__ go by
        # Steps that are under way end with their session. A server that is dead, or suspended, has
        # none that could be ended.
        with contextlib.suppress(grpc.RpcError):
            reset(self._address, _NOBODY, _PATIENCE)


def _leads_to(session: Any, address: str) -> bool:
    target = getattr(session, "_target", None)  # bytes; None for a session within its process
    if not target:
        return False
    try:
        return dialled(address_of(target.decode())) == dialled(address)
    except SpecError:  # some protocol that is none of ours
        return False


def _begin_noting() -> None:
    """Note every session from now on, and those that there are; nothing happens without any."""
    global _noting
    module: Any = sys.modules.get(_HOME)
    base = getattr(module, "BaseSession", None)  # None while it is being imported
    with _lock:
        if _noting or base is None:
            return
        _noting = True
        made = base.__init__

        @functools.wraps(made)
        def note(session: Any, *args: Any, **kwargs: Any) -> None:
            made(session, *args, **kwargs)
            with _lock:
                _sessions.add(session)

        base.__init__ = note
        _sessions.update(one for one in gc.get_objects() if issubclass(type(one), base))
