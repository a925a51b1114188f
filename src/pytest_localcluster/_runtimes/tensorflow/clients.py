"""Ends what the test process itself has open to TensorFlow servers, before these end.

A ``tf.compat.v1.Session`` whose server is gone hangs, for ever, in ``run``, in ``close``, in
``__del__`` and at the interpreter's exit: TensorFlow waits for the server to come back. Its own
test servers never end, so code written for them closes no session, and would hang with ours. A
``ClusterCoordinator`` that was at work when its workers went does the same in ``__del__``.

So each is noted when it is made, by weak reference, and those of a cluster are ended when it stops,
while its servers are still there. After that a session's ``run`` raises RuntimeError at once
("Attempted to use a closed Session"), and a new session to its address UnavailableError. What was
made before we began to note, since TensorFlow was imported after the cluster was started, is looked
for once, among all objects.

A coordinator that waits for a dead task cannot be stopped: TensorFlow calls the address of the task
until somebody answers. So somebody does for a moment, with an error.
"""

from __future__ import annotations

import functools
import gc
import socket
import sys
import threading
import warnings
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

import grpc

from ..._channel import dialled, register
from ..._clock import Deadline, Thread, poll
from ..._context import address_of
from ..._core import stopped
from ...errors import ClusterLeakWarning, SpecError
from .master import end_sessions

__all__ = ["dialled_addresses", "end_in_time"]

# How long a stop waits for a coordinator: milliseconds will do, unless one of its workers is dead.
_PATIENCE = 1.0

# How long it waits for one that is answered with errors; TensorFlow calls again each second.
_LAST_PATIENCE = 5.0

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
        stuck = [text for one in coordinators if (text := _stop(one))]
        open_ones = [one for one in sessions if not getattr(one, "_closed", True)]
        for session in open_ones:
            session._closed = True  # what run(), close() and __del__ go by
        if open_ones:
            end_sessions(self._address)  # and with them the steps that are under way
        for text in stuck:
            warnings.warn(ClusterLeakWarning(text), stacklevel=2)


def _stop(coordinator: Any) -> str:
    """Stop the threads of a coordinator, once; return what to warn of, "" if it just stops."""
    stop, coordinator.stop = coordinator.stop, _do_nothing
    stopping = Thread(target=stop, name="stop a coordinator", daemon=True)
    stopping.start()
    stopping.join(_PATIENCE)
    if not stopping.is_alive():
        return ""
    tasks = _tasks_of(coordinator)
    dead = {address: task for address, task in tasks.items() if _refuses(address)}
    owners = [coordinator.failure_handler, *coordinator.workers]
    threads = [stopping, *(one for one in threading.enumerate() if _target_of(one) in owners)]
    queue = coordinator.closure_queue
    queue.mark_failed = functools.partial(_mark_failed, queue)
    with _answering(dead):
        poll(lambda: _have_ended(threads, coordinator.failure_handler), Deadline(_LAST_PATIENCE))
    left = [thread.name for thread in threads if thread.is_alive()]
    names = ", ".join(f"{task} at {address}" for address, task in dead.items())
    ended = (
        f"these threads of it run on, and may spoil later tests: {', '.join(left)}"
        if left
        else "its threads were ended"
    )
    return (
        "a ClusterCoordinator was waiting for a task when its cluster was stopped; "
        f"dead: {names or 'none'}; {ended}\n"
        "  To fix this: restart() what is dead before the cluster stops, run the coordinator in a "
        'chief, or see "A coordinator whose tasks are dead" in the manual'
    )


def _mark_failed(queue: Any, error: BaseException) -> None:
    """Set a queue's error and wake who joins; TensorFlow's own fails if a closure was put back."""
    with queue._queue_lock:
        queue._error = queue._error or error
        queue._stop_waiting_condition.notify_all()


def _have_ended(threads: list[threading.Thread], handler: Any) -> bool:
    """Tell whether threads of a coordinator have ended; wake those that wait for a recovery."""
    lock, recovered = handler._cluster_update_lock, handler._worker_up_cond
    if lock.acquire(timeout=0.01):
        try:
            recovered.notify_all()
        finally:
            lock.release()
    return not any(thread.is_alive() for thread in threads)


def _tasks_of(coordinator: Any) -> dict[str, str]:
    """Return the tasks of a coordinator's cluster by address, but for its own."""
    server_def = coordinator.failure_handler._server_def
    return {
        address: f"/job:{job.name}/task:{index}"
        for job in server_def.cluster.job
        if job.name != server_def.job_name
        for index, address in job.tasks.items()
    }


def _target_of(thread: threading.Thread) -> object:
    return getattr(getattr(thread, "_target", None), "__self__", None)


def _refuses(address: str) -> bool:
    """Tell whether nobody listens at an address."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # whatever it is, somebody may be there
        return False
    return False


@contextmanager
def _answering(addresses: Collection[str]) -> Iterator[None]:
    """Answer every call to these addresses with an error, for a while."""

    def refuse(_: bytes, context: Any) -> None:
        # As if the worker had begun anew: the one end of a recovery after which threads just end.
        context.abort(grpc.StatusCode.ABORTED, "/job:worker belongs to a cluster that stops")

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
        def service(self, call: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    threads = ThreadPoolExecutor(1)
    server = grpc.server(threads, handlers=[Handler()], options=[("grpc.so_reuseport", 0)])
    for address in addresses:
        with suppress(RuntimeError):  # somebody else is there by now
            server.add_insecure_port(address)
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()
        threads.shutdown()


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


def _refuse_stopped(session: Any) -> None:
    """Raise UnavailableError for a session to a task that ended with an earlier test.

    It would wait for ever, and not even Ctrl-C would end that.
    """
    target = getattr(session, "_target", None)
    if not isinstance(target, bytes) or not target.startswith(b"grpc://"):
        return
    address = address_of(target.decode())
    task = stopped.at(address)
    if task is None or not _refuses(address):
        return
    session._closed = True
    errors = sys.modules["tensorflow.python.framework.errors_impl"]
    message = f"nobody is at {task}\n  To fix this: {stopped.REMEDY}"
    raise errors.UnavailableError(None, None, message)


def dialled_addresses() -> list[str]:
    """Return the addresses of the cluster that TensorFlow's context is connected to, or dials."""
    module = sys.modules.get("tensorflow.python.eager.context")
    server_def = getattr(getattr(module, "_context", None), "_server_def", None)
    jobs = server_def.cluster.job if server_def is not None else ()
    return [address for job in jobs for address in job.tasks.values()]


def _noting(made: Any, noted: WeakSet[Any]) -> Any:
    @functools.wraps(made)
    def note(one: Any, *args: Any, **kwargs: Any) -> None:
        made(one, *args, **kwargs)
        _refuse_stopped(one)
        with _lock:
            noted.add(one)

    return note
