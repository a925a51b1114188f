"""The server of one task with services of the user's own: its life, and the log of its errors."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ... import _held
from ..._clock import Deadline
from ..._context import TaskContext, current_task
from ..._logs import TaskLog, current_log
from ...errors import StopError
from .._grpc import HEALTH, TokenInterceptor, discard_server, make_server, start_server
from .adders import Adder, call_adder
from .calls import Calls, Pool
from .registry import Registry

if TYPE_CHECKING:
    from ..._spec import Task
    from .. import Assignment

__all__ = ["ServicerServer"]

_REMEDY = (
    "open the channel with server.channel(), or send the metadata localcluster-token with what "
    "PYTEST_LOCALCLUSTER_TOKEN is in the environment that cluster.environ() gives, and every task"
)

# How long stop() waits for calls to end by themselves.
_GRACE = 0.2

# How long it then waits for their handlers: what runs in a thread cannot be ended from outside.
_PATIENCE = 1.0


class ServicerServer:
    """One task that serves.

    Args:
        assignment: who it is.
        adders: what registers its services.
        health: whether to add the health service if they do not.
        token: whether to ask for the cluster's token.

    Raises:
        PortError: its address is taken.
        Exception: an adder raised it.
    """

    def __init__(
        self, assignment: Assignment, adders: Sequence[Adder], *, health: bool, token: bool
    ) -> None:
        context = assignment.context
        self._task = context.task
        self._address = context.cluster_spec.task_address(self._task.job, self._task.index)
        self._threads = Pool(context, self._address)
        self._calls = Calls(context)
        asking = TokenInterceptor(assignment.token, self._address, _REMEDY)
        asks = token or assignment.credentials is not None  # a network has others on it
        self._server = make_server(self._threads, [asking, self._calls] if asks else [self._calls])
        try:
            registry = Registry(self._server, self._task, self._address)
            for adder in adders:
                call_adder(adder, registry, context)
            if health and HEALTH not in registry.services:
                _add_health(registry)
            start_server(self._server, self._task, self._address, assignment.credentials)
        except BaseException:
            discard_server(self._server, self._threads)
            raise
        self._errors = _Errors(context, current_log())
        _GRPC_LOGGER.addHandler(self._errors)
        if _held.owner() is not None:  # not in a process of its own, with which everything ends
            _held.hold(
                f"the threads of {self._task} at {self._address}",
                alive=self._threads.alive,
                says=lambda: "\n".join(f"{m}:\n{stack}" for m, stack in self._calls.running()),
                remedy="have the method end, or use launcher='process', which can kill it",
            )

    def stop(self) -> None:
        """Stop serving; calls that are under way fail.

        Raises:
            StopError: a method does not end.
        """
        self._server.stop(_GRACE).wait(_PATIENCE)
        self._threads.shutdown(wait=False)
        ended = self._threads.join(Deadline(_PATIENCE))
        _GRPC_LOGGER.removeHandler(self._errors)
        self._errors.close()
        if not ended:
            running = self._calls.running()
            methods = [method for method, _ in running]
            raise StopError(
                f"{self._task} has stopped serving, but not everything of it ended",
                survivors=tuple(methods),
                task=str(self._task),
                address=self._address,
                status="still running: " + (", ".join(methods) or "a thread of its server"),
                evidence="\n".join(f"{method}:\n{stack}" for method, stack in running) or None,
                remedy="have the method end when its call does (context.add_callback, "
                "context.is_active), or use launcher='process', which can kill it",
            )

    def reset(self) -> None:
        """Nothing: what these services keep only a restart can reset."""

    def forget(self, task: Task) -> None:
        """Nothing: connections to peers are the user's own."""


def _add_health(server: Registry) -> None:
    servicer = health.HealthServicer()
    for service in server.services:
        servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


_GRPC_LOGGER = logging.getLogger("grpc")
"""Where gRPC tells of methods that raise; it mutes that, unless somebody has configured logging."""


class _Errors(logging.Handler):
    """Puts what gRPC tells of a task's errors into the task's log."""

    def __init__(self, context: TaskContext, log: TaskLog | None) -> None:
        super().__init__(logging.WARNING)
        self._context = context
        self._log = log

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether ``record`` is of this task: in the test's process there may be several."""
        try:
            return current_task() == self._context
        except RuntimeError:
            return False

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record``."""
        try:
            text = f"{self.format(record)}\n"
            if self._log is not None:
                with contextlib.suppress(FileNotFoundError):  # the cluster is gone, and its logs
                    self._log.write(text)
            elif not _is_shown(record):
                sys.stderr.write(text)
        except Exception:
            self.handleError(record)


def _is_shown(record: logging.LogRecord) -> bool:
    """Tell whether a handler of the user's own writes ``record`` where the log is."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        for handler in logger.handlers:
            stream = getattr(handler, "stream", None)
            if stream in (sys.stdout, sys.stderr) and record.levelno >= handler.level:
                return True
        logger = logger.parent if logger.propagate else None
    return False
