"""The other tasks of the cluster, as one task reaches them: channels that open when needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc

from ..._channel import open_channel, token_metadata
from ..._proto.worker_pb2 import RecvTensorRequest
from ..._proto.worker_pb2_grpc import WorkerServiceStub
from ..._streams import Line
from ..._tensors import value_from_chunks, value_from_proto
from ...errors import DataLossError, InvalidArgumentError, OpError, UnavailableError
from .statuses import StepFailed, error_of

if TYPE_CHECKING:
    from ..._spec import ClusterSpec

__all__ = ["Peers"]

_STREAMING = ("RunGraph", "PullTensor")


class Peers:
    """Calls to other tasks.

    Args:
        spec: the tasks and their addresses.
        token: what each call carries.

    Attributes:
        tasks: the names of all.
    """

    def __init__(self, spec: ClusterSpec, token: str) -> None:
        self._addresses = {
            str(task): spec.task_address(task.job, task.index) for task in spec.tasks
        }
        self.tasks = self._addresses.keys()
        self._names = {address: name for name, address in self._addresses.items()}
        self._metadata = token_metadata(token)
        self._lock = threading.Lock()
        self._open: dict[str, Line] = {}
        self._closed = False

    def call(self, address: str, method: str, request: Any, timeout: float | None = None) -> Any:
        """Call ``method`` of the worker service at ``address``; return its answer.

        Raises:
            OpError: the call failed; UnavailableError means that nobody answers there, and a new
                connection is made with the next call.
        """
        line = self._line(address)
        try:
            if method in _STREAMING and timeout is not None:
                request.wait_in_ms = max(1, int(timeout * 1000))
            answer = line.call(method, request, timeout)
        except (grpc.RpcError, ValueError) as error:
            raise self._failed(address, line, error) from None
        if answer is None:  # what gRPC makes of a call that ended well and brought no message
            raise DataLossError(f"{self.name(address)} ended {method} without an answer")
        return answer

    def pull(self, address: str, step_id: int, key: str, timeout: float | None = None) -> Any:
        """Return the value of a step that the task at ``address`` has, or will have.

        Raises:
            StepFailed: the step failed there.
            OpError: the call failed.
        """
        request = RecvTensorRequest(step_id=step_id, key=key)
        answer = self.call(address, "PullTensor", request, timeout)
        if answer.status.code:
            raise StepFailed(answer.status)
        if answer.value.WhichOneof("kind") == "stored":
            return self.receive(address, step_id, key, timeout)
        return value_from_proto(answer.value)

    def receive(self, address: str, step_id: int, key: str, timeout: float | None = None) -> Any:
        """Return a large value, read as a stream.

        Raises:
            OpError: the call failed.
        """
        line = self._line(address)
        request = RecvTensorRequest(step_id=step_id, key=key)
        try:
            return value_from_chunks(line.receive(request, timeout))
        except (grpc.RpcError, ValueError) as error:
            raise self._failed(address, line, error) from None

    def find(self, name: str) -> str:
        """Return the address of the task of that name, which each task may see at another one.

        Raises:
            InvalidArgumentError: there is no such task.
        """
        address = self._addresses.get(name)
        if address is None:
            raise InvalidArgumentError(f"there is no task {name!r} in this cluster")
        return address

    def name(self, address: str) -> str:
        """Return the task at ``address``, for messages."""
        return f"{self._names.get(address, 'the task')} at {address}"

    def forget(self, address: str) -> None:
        """Close the connection to ``address``; the next call makes a new one."""
        with self._lock:
            line = self._open.pop(address, None)
        if line is not None:
            line.close()

    def close(self) -> None:
        """Close all connections; calls that are under way fail."""
        with self._lock:
            self._closed = True
            lines = list(self._open.values())
            self._open.clear()
        for line in lines:
            line.close()

    def _line(self, address: str) -> Line:
        found = self._open.get(address)
        if found is None:
            with self._lock:
                if self._closed:
                    raise UnavailableError(
                        f"{self.name(address)} is not called: this task is stopping"
                    )
                found = self._open.get(address)
                if found is None:
                    channel = open_channel(address, keepalive=True)
                    stub: Any = WorkerServiceStub(channel)  # type: ignore[no-untyped-call]
                    found = Line(channel, stub, self._metadata, _STREAMING)
                    self._open[address] = found
        return found

    def _failed(self, address: str, line: Line, error: Any) -> OpError:
        failure = error_of(error, self.name(address))
        if isinstance(failure, UnavailableError):
            # A new channel has no back-off: the task is reached as soon as it is back.
            with self._lock:
                current = self._open.get(address) is line
                if current:
                    del self._open[address]
            if current:
                line.close()
        return failure
