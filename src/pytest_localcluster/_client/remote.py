"""A session's other half: what the master of its target knows of it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _moments, _tensors
from .._clock import Deadline
from .._proto.graph_pb2 import GraphDef, NamedValue, Value
from .._proto.master_pb2 import (
    CloseSessionRequest,
    CreateSessionRequest,
    ExtendSessionRequest,
    RunStepRequest,
    SendTensorRequest,
)
from ..errors import DataLossError, DeadlineExceededError, OpError
from .failure import raise_status
from .nodes import Names, encode, stored_constant

if TYPE_CHECKING:
    from .._proto.config_pb2 import ConfigProto
    from .connection import Connection
    from .operation import Operation
    from .plan import Plan

__all__ = ["Feed", "Remote", "in_time", "say_goodbye"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

_GOODBYE = 1.0  # seconds that a close waits for a target that does not answer
_LAST_WORDS = 1.0  # and that a step is late, should its target not say what of it was not done

Feed = tuple[str, "np.ndarray[Any, Any]"]


@contextmanager
def in_time(lock: threading.Lock, deadline: Deadline, why_not: str) -> Iterator[None]:
    """Hold ``lock``; DeadlineExceededError with ``why_not`` if it is not to be had in time."""
    left = deadline.remaining()
    if not lock.acquire(timeout=-1 if left is None else left):
        raise DeadlineExceededError(f"{why_not} after {deadline.seconds} s")
    try:
        yield
    finally:
        lock.release()


class Remote:
    """One session at a master: its handle, and which nodes have been sent there.

    It lasts until the master forgets it (a restart, a reset); then the client makes another one.
    """

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._lock = threading.Lock()
        self._sent: set[str] = set()
        self._keys = itertools.count()
        self.handle = ""

    def create(self, config: ConfigProto | None, plan: Plan | None, deadline: Deadline) -> None:
        """Open the session at the master, with what ``plan`` needs if that fits into a message."""
        request = CreateSessionRequest(config=config)
        first = (
            [] if plan is None or any(map(stored_constant, plan.operations)) else plan.operations
        )
        request.graph_def.node.extend(encode(first, self._names))
        response = self._connection.call("CreateSession", request, deadline, "opening a session")
        self.handle = response.session_handle
        self._sent.update(map(self._names.of, first))

    def prepare(self, plan: Plan, deadline: Deadline) -> None:
        """Send the master what it does not have yet of what the plan needs."""
        if plan.ready_at is self:
            return
        with in_time(self._lock, deadline, "another thread was still sending its graph"):
            new = [op for op in plan.operations if plan.names[op] not in self._sent]
            if new:
                self._extend(new, deadline)
                self._sent.update(plan.names[op] for op in new)
            plan.ready_at = self

    def _extend(self, operations: Sequence[Operation], deadline: Deadline) -> None:
        for op in filter(stored_constant, operations):
            self._store(self._names.of(op), op.payload, keep=True, deadline=deadline)
        graph = GraphDef(node=encode(operations, self._names))
        request = ExtendSessionRequest(session_handle=self.handle, graph_def=graph)
        self._connection.call("ExtendSession", request, deadline, "sending a graph")

    def request(self, plan: Plan, feeds: Sequence[Feed], deadline: Deadline) -> RunStepRequest:
        """Return the request for one step, with large feeds sent ahead; nothing runs yet."""
        request = RunStepRequest(session_handle=self.handle)
        request.MergeFrom(plan.request)
        for name, array in feeds:
            if array.nbytes > _tensors.INLINE_LIMIT:
                key = f"feed/{next(self._keys)}"
                self._store(key, array, keep=False, deadline=deadline)
                value = Value(stored=key)
            else:
                value = _tensors.value_to_proto(array)
            request.feed.append(NamedValue(name=name, value=value))
        return request

    def step(self, plan: Plan, request: RunStepRequest, deadline: Deadline) -> list[Any]:
        """Run the plan once; return the values that it fetches.

        Raises:
            OpError: the kind that tells how it failed.
        """
        recorder = _moments.recorder()
        if recorder is None:
            return self._step(plan, request, deadline)[0]
        with recorder.stepping(self._connection.target, plan.what) as stepped:
            values, stepped.step_id = self._step(plan, request, deadline)
            return values

    def _step(
        self, plan: Plan, request: RunStepRequest, deadline: Deadline
    ) -> tuple[list[Any], int]:
        what = plan.what
        left = deadline.remaining()
        if left is not None:
            request.timeout_in_ms = max(1, int(left * 1000))
        response = self._connection.call("RunStep", request, deadline, what, patience=_LAST_WORDS)
        if response.status.code:
            raise_status(response.status, self._connection.target, what, deadline.seconds)
        if len(response.fetch) != len(plan.request.fetch):
            raise DataLossError(
                f"{self._connection.target} answered with {len(response.fetch)} values "
                f"for the {len(plan.request.fetch)} that were fetched"
            )
        number = response.step_id
        return [self._value(value, number, deadline, what) for value in response.fetch], number

    def _store(self, key: str, value: Any, *, keep: bool, deadline: Deadline) -> None:
        def requests() -> Iterator[SendTensorRequest]:
            first = SendTensorRequest(session_handle=self.handle, key=key, keep=keep)
            for chunk in _tensors.chunks_of(value):
                first.data.CopyFrom(chunk)
                yield first
                first = SendTensorRequest()

        self._connection.send(requests(), deadline, f"sending a tensor of {value.nbytes} bytes")

    def _value(self, proto: Value, step_id: int, deadline: Deadline, what: str) -> Any:
        if proto.WhichOneof("kind") != "stored":
            return _scalars(_tensors.value_from_proto(proto, writable=True))
        with self._connection.receive(step_id, proto.stored, deadline, what) as chunks:
            return _scalars(_tensors.value_from_chunks(chunks))


def say_goodbye(connection: Connection, remote: Remote | None) -> None:
    """Have the master forget its half, if it still can, and close the connection."""
    if remote is not None and not connection.closed:
        request = CloseSessionRequest(session_handle=remote.handle)
        with suppress(OpError):  # a target that is gone has nothing to forget
            connection.call("CloseSession", request, Deadline(_GOODBYE), "closing a session")
    connection.close("this session is closed")


def _scalars(value: Any) -> Any:
    """Return a value as users want it: an array without dimensions is a NumPy scalar."""
    if isinstance(value, np.ndarray):
        return value if value.ndim else value[()]
    if isinstance(value, (tuple, list)):
        return type(value)(map(_scalars, value))
    return value
