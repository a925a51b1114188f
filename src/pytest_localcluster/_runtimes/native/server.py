"""The server of one task: its gRPC server, which asks every call for the token, and its life."""

from __future__ import annotations

import functools
import os
import secrets
from typing import TYPE_CHECKING
from weakref import WeakSet

from grpc_health.v1 import health, health_pb2_grpc

from ... import _held
from ..._clock import Deadline
from ..._context import address_of
from ..._proto.master_pb2_grpc import add_MasterServiceServicer_to_server
from ..._proto.server_pb2 import ServerDef
from ..._proto.worker_pb2_grpc import add_WorkerServiceServicer_to_server
from ...errors import AbortedError, PortError, StopError, UnavailableError
from .._grpc import TokenInterceptor, discard_server, make_server, start_server
from .._threads import Threads
from .answers import Answers
from .devices import devices_of
from .executor import Site
from .master import Master
from .peers import Peers
from .rendezvous import Steps
from .statuses import status_of
from .worker import Worker

if TYPE_CHECKING:
    import grpc

    from ..._spec import Task
    from .. import Assignment

__all__ = ["NativeServer"]

_REMEDY = (
    "pass Session(..., token=...), or start the client with the environment that"
    " cluster.environ() gives"
)

# How long stop() waits for operations that run; a call in a thread cannot be ended from outside.
_PATIENCE = 1.0

# How long stop() waits for calls to end by themselves, as all do that no operation holds up.
_GRACE = 0.2

# The native servers of this process: with the thread launcher there are several.
_serving: WeakSet[NativeServer] = WeakSet()


class NativeServer:
    """One task that serves.

    Args:
        assignment: who it is.

    Raises:
        PortError: its address is taken.
    """

    def __init__(self, assignment: Assignment) -> None:
        context = assignment.context
        task, spec = context.task, context.cluster_spec
        config = ServerDef.FromString(assignment.server_def).default_session_config
        self._task = task
        self._address = address_of(context.target)
        self._steps = Steps()
        self._threads = Threads(f"{task} at {self._address}")
        limit = config.inter_op_parallelism_threads
        self._site = Site(context, self._steps, self._threads, limit if limit > 0 else _cores())
        worker, master = Worker, Master
        self._peers = Peers(spec, assignment.token)
        if assignment.record:
            from .recorded import RecordedMaster, RecordedPeers, RecordedWorker, scribe_at

            scribe = scribe_at(assignment.record, self._site.running, f"scribe of {task}")
            if scribe is not None:
                self._site.scribe = scribe
                worker, master = RecordedWorker, RecordedMaster
                self._peers = RecordedPeers(spec, assignment.token, scribe.ring)
        self._worker = worker(
            self._site,
            self._peers,
            devices_of(task, config),
            secrets.randbits(63),
            lambda key: self._master.stored(key),
        )
        self._master = master(
            task, spec, config, self._worker, self._peers, self._steps, self._threads
        )
        self._server = self._start(assignment)
        _serving.add(self)
        if _held.owner() is not None:  # not in a process of its own, with which everything ends
            _held.hold(
                f"the threads of {task} at {self._address}",
                alive=self._threads.alive,
                says=lambda: "still running: " + self._busy(),
                remedy="have the operation end, or use launcher='process', which can kill it",
            )

    def _start(self, given: Assignment) -> grpc.Server:
        asking = TokenInterceptor(given.token, self._address, _REMEDY)
        server = make_server(self._threads, [asking])
        answers = Answers(server)
        self._conversations = answers.conversations
        add_MasterServiceServicer_to_server(self._master, answers)  # type: ignore[no-untyped-call]
        add_WorkerServiceServicer_to_server(self._worker, answers)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), answers)
        try:
            start_server(server, self._task, self._address, given.credentials)
        except PortError:
            discard_server(server, self._threads)
            if self._site.scribe is not None:
                self._site.scribe.stop()
            raise
        return server

    def stop(self) -> None:
        """Stop serving, at once; calls that are under way fail.

        Raises:
            StopError: an operation does not end.
        """
        self._steps.end_all(status_of(UnavailableError(f"{self._task} is stopping")))
        _serving.discard(self)
        # A server that cuts a connection off makes the other end complain on stderr; one that says
        # goodbye waits milliseconds for the answer. So those of this process are closed at their
        # other end, which is quick, and what is left, or is not closed yet, is let go with grace.
        for server in list(_serving):
            server._peers.forget(self._address)
        self._peers.close()
        self._conversations.end()
        self._server.stop(_GRACE).wait(_PATIENCE)
        self._threads.shutdown(wait=False)
        if self._site.scribe is not None:
            self._site.scribe.stop()
        if not self._threads.join(Deadline(_PATIENCE)):
            raise StopError(
                f"{self._task} has stopped serving, but not everything of it ended",
                survivors=tuple(self._operations()),
                task=str(self._task),
                address=self._address,
                status="still running: " + self._busy(),
                remedy="have the operation end, or use launcher='process', which can kill it",
            )

    def _operations(self) -> list[str]:
        return [f"{operation.name} on {operation.device}" for operation in self._site.busy()]

    def _busy(self) -> str:
        return ", ".join(self._operations()) or "a thread that waits for another task"

    def reset(self) -> None:
        """Forget all sessions, graphs, steps and variables."""
        self._master.forget_all()  # first: a step that begins just now sees it, or is ended below
        self._steps.end_all(status_of(AbortedError(f"{self._task} was reset")))
        self._worker.clear()

    def forget(self, task: Task) -> None:
        """Drop the connection to a peer that was restarted, and what was registered there."""
        self._peers.forget(self._master.address_of(task))
        self._master.lost(task)
        self._worker.forget_master(str(task))


@functools.cache
def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
