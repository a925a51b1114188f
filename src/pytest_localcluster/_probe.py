"""Whether the tasks that a cluster file describes are there, and are who it says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import grpc

from ._channel import open_channel
from ._clock import Deadline, grpc_timeout
from ._proto.worker_pb2 import GetStatusRequest
from ._proto.worker_pb2_grpc import WorkerServiceStub
from ._spec import DeviceSpec

if TYPE_CHECKING:
    from ._clusterfile import ClusterFile
    from ._spec import Task

__all__ = ["absent"]

_SECONDS = 3.0
"""For all tasks together to say that they are there; it takes them milliseconds."""


def absent(file: ClusterFile, seconds: float = _SECONDS) -> Iterator[tuple[Task, str]]:
    """Yield the tasks that are not there, and what is there instead; all are asked at once.

    A native task is asked who it is, and takes the token; whether others are more than somebody
    who listens at their addresses, only their own clients can tell.
    """
    deadline = Deadline(seconds)
    dead = file.dead()
    with ExitStack() as stack:
        asked: list[tuple[Task, str, Any]] = []
        for task in file.spec.tasks:
            address = file.spec.task_address(task.job, task.index)
            call = None
            if file.runtimes[task.job] == "native" and task not in dead:
                channel = stack.enter_context(open_channel(address, file.token))
                stub: Any = WorkerServiceStub(channel)  # type: ignore[no-untyped-call]
                call = stub.GetStatus.future(GetStatusRequest(), timeout=grpc_timeout(seconds))
            asked.append((task, address, call))
        for task, address, call in asked:
            if task in dead:
                yield task, f"its process, pid {file.processes[task].pid}, has ended"
            elif found := _listens(address, deadline) if call is None else _is(task, call):
                yield task, found


def _is(task: Task, call: Any) -> str:
    """Return who a native task turns out to be instead; "" if it is this one."""
    try:
        devices = call.result().device_attributes
    except grpc.RpcError as error:
        return {
            grpc.StatusCode.UNAVAILABLE: "nobody serves there",
            grpc.StatusCode.DEADLINE_EXCEEDED: "it does not answer: it may be suspended",
            grpc.StatusCode.UNAUTHENTICATED: "who serves there has another token",
        }.get(error.code(), f"who serves there is no native task: {error.details()}")
    names = {DeviceSpec.from_string(device.name) for device in devices}
    if any((name.job, name.task) != (task.job, task.index) for name in names):
        return f"it says that it is {devices[0].name}"
    return ""


def _listens(address: str, deadline: Deadline) -> str:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), deadline.remaining() or 0.1).close()
    except OSError as error:
        return f"nobody listens there: {error.strerror or error}"
    return ""
