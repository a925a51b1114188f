"""The wire between a session and its target: one channel, replaced when it breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from .. import _channel
from .._clock import Deadline, grpc_timeout
from .._context import address_of
from .._proto.master_pb2_grpc import MasterServiceStub
from .._proto.worker_pb2 import RecvTensorRequest
from .._streams import Line
from ..errors import CancelledError, DataLossError, FailedPreconditionError, OpError
from .failure import from_call

if TYPE_CHECKING:
    from .._proto.graph_pb2 import ValueChunk
    from .._proto.master_pb2 import SendTensorRequest

__all__ = ["Connection"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both


class _Line(Line):
    """A channel and its calls; closed when it is given up and nobody is in a call any more."""

    def __init__(self, address: str, metadata: Any) -> None:
        channel = _channel.open_channel(address, keepalive=True)
        self.master: Any = MasterServiceStub(channel)  # type: ignore[no-untyped-call]
        super().__init__(channel, self.master, metadata, ["RunStep"])
        self.users = 0
        self.given_up = False


class Connection:
    """Calls a master, from any number of threads.

    Nothing is dialled before the first call. After a call that found the target unreachable the
    next one opens a new channel: a new channel tries at once, an old one may be waiting.

    Args:
        target: such as ``grpc://localhost:41234``.
        token: what each call carries; None is nothing.
    """

    def __init__(self, target: str, token: str | None) -> None:
        self.target = target
        self._address = address_of(target)
        self._metadata = _channel.token_metadata(token)
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._closed: str | None = None
        _channel.register(self._address, self)

    def check_open(self) -> None:
        """Raise FailedPreconditionError if this was closed."""
        if self._closed is not None:
            raise FailedPreconditionError(self._closed)

    @property
    def closed(self) -> bool:
        """Whether it was closed, by whomever."""
        return self._closed is not None

    def reconnect(self) -> None:
        """Open a new channel for the next call; calls under way go on with the old one."""
        with self._lock:
            line = self._line
            idle = line is not None and self._give_up(line)
        if line is not None and idle:
            line.close()

    def disconnect(self) -> None:
        """Close it because its task is stopped for good."""
        self.close(f"this session is closed: the cluster of {self.target} was stopped")

    def leave_to_parent(self) -> None:
        """In a fork: call over a channel of one's own from now on."""
        self._lock = threading.Lock()
        _channel.leave(self._line)
        self._line = None

    def close(self, why: str) -> None:
        """Close it; calls under way raise CancelledError, later ones say ``why``. Idempotent."""
        with self._lock:
            if self._closed is None:
                self._closed = why
            line, self._line = self._line, None
        if line is not None:
            line.close()
        _channel.unregister(self._address, self)

    def call(
        self,
        method: str,
        request: Any,
        deadline: Deadline,
        what: str,
        *,
        patience: float = 0.0,
    ) -> Any:
        """Call the master; its RunStep over a stream that stays open.

        Args:
            method: what to call.
            request: what with.
            deadline: by when it is to be done.
            what: what for, in words of errors.
            patience: the seconds to wait longer than that, for an answer that says why it was not.
        """
        left = deadline.remaining()
        timeout = None if left is None else left + patience
        with self._calling(deadline, what) as line:
            answer = line.call(method, request, timeout)
        return self._given(answer, what)

    def send(self, requests: Iterable[SendTensorRequest], deadline: Deadline, what: str) -> None:
        """Have the master store a value."""
        with self._calling(deadline, what) as line:
            answer = line.master.SendTensor(
                iter(requests),
                timeout=grpc_timeout(deadline.remaining()),
                metadata=self._metadata,
            )
        self._given(answer, what)

    def _given(self, answer: Any, what: str) -> Any:
        if answer is None:  # what gRPC makes of a call that ended well and brought no message
            raise DataLossError(f"{self.target} ended {what} without an answer: it is no master")
        return answer

    @contextmanager
    def receive(
        self, step_id: int, key: str, deadline: Deadline, what: str
    ) -> Iterator[Iterator[ValueChunk]]:
        """Give the stream of a value that the target's task stored."""
        request = RecvTensorRequest(step_id=step_id, key=key)
        with self._calling(deadline, what) as line:
            stream = line.receive(request, deadline.remaining())
            try:
                yield stream
            finally:
                stream.cancel()  # does nothing once all was read

    @contextmanager
    def _calling(self, deadline: Deadline, what: str) -> Iterator[_Line]:
        with self._lock:
            self.check_open()
            if self._line is None:
                self._line = _Line(self._address, self._metadata)
            line = self._line
            line.users += 1
        try:
            yield line
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                with self._lock:
                    self._give_up(line)
            raise self._failure(error, deadline, what) from None
        except ValueError as error:
            # What gRPC raises for a call on a channel that another thread has just closed.
            if self._closed is None:
                raise
            raise FailedPreconditionError(self._closed) from error
        finally:
            with self._lock:
                line.users -= 1
                last = line.given_up and not line.users
            if last:
                line.close()

    def _give_up(self, line: _Line) -> bool:
        """Let nobody else use a channel, and tell whether nobody does; needs the lock."""
        line.given_up = True
        if self._line is line:
            self._line = None
        return line.users == 0

    def _failure(self, error: grpc.RpcError, deadline: Deadline, what: str) -> OpError:
        if self._closed is not None and error.code() is grpc.StatusCode.CANCELLED:
            return CancelledError(f"{what} was cancelled: {self._closed}")
        return from_call(error, self.target, what, deadline.seconds)
