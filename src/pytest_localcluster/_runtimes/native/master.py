"""The master service: the sessions of those who dialled this task, and their steps on all tasks."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from ..._clock import Deadline
from ..._proto.master_pb2 import (
    CloseSessionResponse,
    CreateSessionResponse,
    ExtendSessionResponse,
    ListDevicesResponse,
    ResetResponse,
    RunStepResponse,
    SendTensorResponse,
)
from ..._proto.master_pb2_grpc import MasterServiceServicer
from ..._proto.worker_pb2 import CleanupAllRequest, DeregisterGraphRequest, GetStatusRequest
from ..._tensors import read_only, value_from_chunks
from ...errors import (
    AbortedError,
    CancelledError,
    InvalidArgumentError,
    OpError,
    UnavailableError,
)
from .devices import Placer
from .registration import register
from .rendezvous import time_left
from .session import Session
from .statuses import StepFailed, status_of
from .stepping import Stepping

if TYPE_CHECKING:
    from ..._proto.config_pb2 import ConfigProto
    from ..._proto.graph_pb2 import Status, ValueChunk
    from ..._spec import ClusterSpec, Task
    from .._threads import Threads
    from .peers import Peers
    from .rendezvous import Steps
    from .worker import Worker

__all__ = ["Master"]

# A call that only tidies up on another task is not waited for longer than this.
_TIDY = 0.25

_CLOSED = "the session was closed"


class Master(MasterServiceServicer):
    """What sessions ask of the task that they dialled.

    Args:
        task: this task.
        spec: the cluster.
        config: how sessions behave that do not say.
        worker: this task's worker service, which is called directly.
        peers: the other tasks'.
        steps: this task's.
        threads: where steps run.
    """

    stepping_type: ClassVar[type[Stepping]] = Stepping

    def __init__(
        self,
        task: Task,
        spec: ClusterSpec,
        config: ConfigProto,
        worker: Worker,
        peers: Peers,
        steps: Steps,
        threads: Threads,
    ) -> None:
        self.task = task
        self.worker = worker
        self.peers = peers
        self.steps = steps
        self.threads = threads
        self._spec = spec
        self._config = config
        self._addresses = {t: spec.task_address(t.job, t.index) for t in spec.tasks}
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        # Two masters never choose the same number: they count from different places, far apart.
        self._step_ids = itertools.count(1 + secrets.randbits(62))

    def address_of(self, task: Task) -> str:
        """Return the address of a task."""
        return self._addresses[task]

    def CreateSession(self, request: Any, context: Any) -> CreateSessionResponse:  # noqa: N802
        """Begin a session."""
        config = request.config if request.HasField("config") else self._config
        placer = Placer(self.task, self._spec, config.device_filters)
        handle = secrets.token_hex(8)
        session = Session(handle, config, placer, str(self.task))
        session.extend(request.graph_def)
        with self._lock:
            self._sessions[handle] = session
        return CreateSessionResponse(session_handle=handle)

    def ExtendSession(self, request: Any, context: Any) -> ExtendSessionResponse:  # noqa: N802
        """Add to a session's graph."""
        self._session(request.session_handle).extend(request.graph_def)
        return ExtendSessionResponse()

    def SendTensor(self, request: Any, context: Any) -> SendTensorResponse:  # noqa: N802
        """Take a value that is too large for a message."""
        first = next(request, None)
        if first is None:
            raise InvalidArgumentError("SendTensor brought no message")
        session = self._session(first.session_handle)

        def data() -> Iterator[ValueChunk]:
            yield first.data
            for message in request:
                yield message.data

        session.store(first.key, read_only(value_from_chunks(data())), keep=first.keep)
        return SendTensorResponse()

    def RunStep(self, request: Any, context: Any) -> RunStepResponse:  # noqa: N802
        """Run a step."""
        session = self._session(request.session_handle)
        step_id = next(self._step_ids)
        try:
            fetches = self._run(session, request, step_id, context)
        except StepFailed as error:
            return RunStepResponse(status=error.status, step_id=step_id)
        except _UnknownSession:
            raise  # nothing ran: the client may begin anew
        except OpError as error:
            return RunStepResponse(status=status_of(error), step_id=step_id)
        return RunStepResponse(fetch=fetches, step_id=step_id)

    def _run(self, session: Session, request: Any, step_id: int, context: Any) -> Any:
        deadline = self._deadline(session, request, context)
        feeds = {}
        for feed in request.feed:
            stored = feed.value.WhichOneof("kind") == "stored"
            feeds[feed.name] = session.stored(feed.value.stored) if stored else feed.value
        plan = session.plan((tuple(sorted(feeds)), tuple(request.fetch), tuple(request.target)))
        for part in session.unused:
            self._tidy(part.task, DeregisterGraphRequest(graph_handle=str(part.handle)))
        session.unused.clear()
        handles = register(self, session, plan, deadline)
        step = self.steps.begin(step_id, "master")
        session.steps.add(step_id)
        try:
            if not self.has(session):  # ended meanwhile: nobody else would see it
                with self._lock:
                    raise CancelledError(_CLOSED) if session.closed else _UnknownSession(self.task)
            with self.stepping_type(self, plan, handles, step, feeds) as stepping:
                stepping.run(deadline, context)
                return stepping.fetches()
        finally:
            self.steps.finish(step)
            # Steps with results that nobody has read are ended with their session.
            for over in [s for s in list(session.steps) if s not in self.steps]:
                session.steps.discard(over)

    def _deadline(self, session: Session, request: Any, context: Any) -> Deadline:
        """Return when the step must have ended: in its own time, or else in the session's.

        Never later than its client waits.
        """
        limit = request.timeout_in_ms or session.config.operation_timeout_in_ms
        left = time_left(context)
        if limit > 0:
            left = limit / 1000 if left is None else min(limit / 1000, left)
        return Deadline(left)

    def CloseSession(self, request: Any, context: Any) -> CloseSessionResponse:  # noqa: N802
        """End a session: its steps, its graphs, the variables that only it could see."""
        with self._lock:
            session = self._sessions.pop(request.session_handle, None)
            if session is None:
                raise _UnknownSession(self.task)
            session.closed = True
        self._close(session, status_of(CancelledError(_CLOSED)))
        return CloseSessionResponse()

    def _close(self, session: Session, status: Status) -> None:
        for step_id in list(session.steps):
            self.steps.end(step_id, status)
        self._on_all(session.tasks(), lambda task: self.take_back(session, task))

    def has(self, session: Session) -> bool:
        """Tell whether a session has not ended."""
        return session.handle in self._sessions

    def take_back(self, session: Session, task: Task) -> None:
        """Take from a task what a session had registered there."""
        self._tidy(task, DeregisterGraphRequest(session_handle=session.handle))

    def ListDevices(self, request: Any, context: Any) -> ListDevicesResponse:  # noqa: N802
        """List the devices of all tasks, or of those that a session sees."""
        tasks = self._spec.tasks
        if request.session_handle:
            tasks = self._session(request.session_handle).placer.tasks
        others = [task for task in tasks if task != self.task]
        ask = GetStatusRequest()
        deadline = Deadline(time_left(context))
        futures = [
            self.threads.submit(
                self.peers.call, self._addresses[task], "GetStatus", ask, deadline.remaining()
            )
            for task in others
        ]
        here = self.worker.GetStatus(ask, context).device_attributes
        there = [d for future in futures for d in future.result().device_attributes]
        return ListDevicesResponse(local_device=here, remote_device=there)

    def Reset(self, request: Any, context: Any) -> ResetResponse:  # noqa: N802
        """End this master's sessions, clear the variables of all tasks."""
        self.clear("the target was reset")
        deadline = Deadline(time_left(context))

        def clear(task: Task) -> None:
            if task == self.task:
                self.worker.CleanupAll(CleanupAllRequest(), None)
                return
            with suppress(UnavailableError):  # a task that is dead holds no variables
                self.peers.call(
                    self._addresses[task], "CleanupAll", CleanupAllRequest(), deadline.remaining()
                )

        futures = [self.threads.submit(clear, task) for task in self._spec.tasks]
        for future in futures:
            future.result()
        return ResetResponse()

    def clear(self, why: str) -> None:
        """End all sessions."""
        with self._lock:
            sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            self._close(session, status_of(AbortedError(why)))

    def forget_all(self) -> None:
        """Drop all sessions, as their other tasks do by themselves; their steps go on."""
        with self._lock:
            sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            for task in session.tasks() - {self.task}:
                # What was on its way there may have come after that task's own reset.
                self.threads.run(self.take_back, session, task)

    def lost(self, task: Task) -> None:
        """Take everything that was registered on a task for gone."""
        for session in list(self._sessions.values()):
            session.forget(task)

    def stored(self, key: str) -> Any:
        """Return what a client sent ahead; the key is ``session/name``."""
        handle, _, name = key.partition("/")
        return self._session(handle).stored(name)

    def _session(self, handle: str) -> Session:
        session = self._sessions.get(handle)
        if session is None:
            raise _UnknownSession(self.task)
        return session

    def _tidy(self, task: Task, request: DeregisterGraphRequest) -> None:
        if task == self.task:
            self.worker.DeregisterGraph(request, None)
            return
        with suppress(OpError):  # it is dead, or was restarted: nothing is left there
            self.peers.call(self._addresses[task], "DeregisterGraph", request, 10 * _TIDY)

    def _on_all(self, tasks: Iterable[Task], action: Callable[[Task], None]) -> None:
        """Do something on several tasks at once; those that do not answer are not waited for."""
        asked = [self.threads.submit(action, task) for task in tasks]
        patience = Deadline(_TIDY)
        for future in asked:
            try:
                future.result(patience.remaining())
            except TimeoutError:
                return


class _UnknownSession(AbortedError):
    """A session that was closed, or is from before a reset or restart; nothing ran."""

    def __init__(self, task: Task) -> None:
        super().__init__(
            f"unknown session handle: {task} was reset or restarted since it was given"
        )
