"""The server of one task with services of the user's own: its life, and the log of its errors."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ... import _held
from ..._clock import Deadline
from ..._context import TaskContext, current_task
from ..._logs import TaskLog, current_log
from ...errors import SpecError, StopError
from .._grpc import (
    HEALTH,
    TokenInterceptor,
    bind_server,
    discard_server,
    make_server,
    start_server,
)
from .facade import Facade
from .interceptor import Calls, Pool, Running
from .registration import Adder, call_adder, name_of, wants_loop
from .settings import Settings, check_interceptors

if TYPE_CHECKING:
    from ..._spec import Task
    from .. import Assignment
    from .aio import Loop

__all__ = ["ServicerServer"]

T = TypeVar("T")

_REMEDY = (
    "open the channel with server.channel(), or send the metadata localcluster-token with what "
    "PYTEST_LOCALCLUSTER_TOKEN is in the environment that cluster.environ() gives, and every task"
)

# How long stop() waits for calls to end by themselves.
_GRACE = 0.2

# How long it then waits for their handlers: what runs in a thread cannot be ended from outside.
_PATIENCE = 1.0


class ServicerServer:
    """One task that serves: by grpc.aio if any of its services needs that, else by grpc.server.

    Args:
        assignment: who it is.
        adders: what registers its services.
        settings: what else its server is made with.
        health: whether to add the health service if they do not.
        token: whether to ask for the cluster's token.

    Raises:
        PortError: its address is taken.
        SpecError: an interceptor is of the other kind than the server.
        Exception: an adder raised it.
    """

    def __init__(
        self,
        assignment: Assignment,
        adders: Sequence[Adder],
        settings: Settings,
        *,
        health: bool,
        token: bool,
    ) -> None:
        context = assignment.context
        self._context = context
        self._task = context.task
        self._address = context.cluster_spec.task_address(self._task.job, self._task.index)
        self._settings = settings
        self._running = Running()
        self._threads: Pool | None = None
        self._loop: Loop | None = None
        self._server: Any = None
        asking = TokenInterceptor(assignment.token, self._address, _REMEDY)
        # A network has others on it.
        self._asking = asking if token or assignment.credentials is not None else None
        self._interceptors = _interceptors(settings)
        facade = Facade(self._task, self._address, _because(self._interceptors), self._make)
        try:
            self._register(facade, adders)
            if health and HEALTH not in facade.services:
                self._add_health(facade)
            self._in_loop(facade.deliver)
            self._start(assignment)
        except BaseException:
            self._discard()
            raise
        self._errors = _Errors(context, current_log())
        _GRPC_LOGGER.addHandler(self._errors)
        if _held.owner() is not None:  # not in a process of its own, with which everything ends
            assert self._threads is not None
            _held.hold(
                f"the threads of {self._task} at {self._address}",
                alive=self._threads.alive,
                says=lambda: "\n".join(f"{m}:\n{stack}" for m, stack in self._running.now()),
                remedy="have the method end, or use launcher='process', which can kill it",
            )

    def _register(self, facade: Facade, adders: Sequence[Adder]) -> None:
        for adder in adders:
            if facade.because or wants_loop(adder):
                self._begin_loop()
            result = self._in_loop(partial(call_adder, adder, facade, self._context))
            if inspect.isawaitable(result):
                facade.needs_asyncio(f"{name_of(adder)} returns a coroutine")
                self._begin_loop().call(_wait_for, result)
        if facade.because:
            self._begin_loop()

    def _begin_loop(self) -> Loop:
        from .aio import Loop  # only who needs asyncio pays for it

        if self._loop is None:
            self._loop = Loop(f"asyncio of {self._task} at {self._address}")
        return self._loop

    def _in_loop(self, function: Callable[[], T]) -> T:
        """Call a function where the server is made and used; nothing is awaited."""
        return function() if self._loop is None else self._loop.call(_plainly, function)

    def _make(self, because: str) -> Any:
        """Return the server; ``because`` is why it has to be one of grpc.aio."""
        for interceptor in self._interceptors:
            if is_for_asyncio(interceptor) != bool(because):
                raise _mismatch(interceptor, self._task, because)
        if because:
            from . import aio

            self._threads = aio.AsyncPool(self._context, self._address)
            ours: list[Any] = [aio.AsyncCalls(self._context, self._running)]
            if self._asking is not None:
                ours.insert(0, aio.AsyncToken(self._asking))
            make = partial(
                aio.make_async_server, self._threads, [*ours, *self._interceptors], self._settings
            )
            loop = self._begin_loop()
            here = threading.current_thread() is loop.thread
            self._server = make() if here else loop.call(_plainly, make)
            return self._server
        self._threads = Pool(self._context, self._address)
        calls = Calls(self._context, self._running)
        ours = [calls] if self._asking is None else [self._asking, calls]
        self._server = make_server(
            self._threads,
            [*ours, *self._interceptors],
            options=self._settings.options,
            compression=self._settings.compression,
            maximum_concurrent_rpcs=self._settings.maximum_concurrent_rpcs,
        )
        return self._server

    def _add_health(self, facade: Facade) -> None:
        services = sorted(facade.services)
        serving = health_pb2.HealthCheckResponse.SERVING

        def add() -> None:
            servicer = health.HealthServicer()
            for service in services:
                servicer.set(service, serving)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, facade)

        async def add_async() -> None:
            servicer = health.aio.HealthServicer()
            for service in services:
                await servicer.set(service, serving)
            health_pb2_grpc.add_HealthServicer_to_server(servicer, facade)

        if facade.because:
            self._begin_loop().call(add_async)
        else:
            add()

    def _start(self, assignment: Assignment) -> None:
        server, task, address = self._server, self._task, self._address

        async def start() -> None:
            bind_server(server, task, address, assignment.credentials)
            await server.start()

        if isinstance(server, grpc.aio.Server):
            self._begin_loop().call(start)
        else:
            start_server(server, task, address, assignment.credentials)

    def _discard(self) -> None:
        """Give back what there is of a server that did not come to be started."""
        server, self._server, threads = self._server, None, self._threads

        async def discard() -> None:
            await server.start()  # a server that never started would keep what it has bound
            await server.stop(None)

        if server is not None and threads is not None:
            if isinstance(server, grpc.aio.Server):
                with contextlib.suppress(FutureTimeout):
                    self._begin_loop().submit(discard()).result(_PATIENCE)
                threads.shutdown(wait=False)
            else:
                discard_server(server, threads)
        if self._loop is not None:
            self._loop.end(Deadline(_PATIENCE))

    def stop(self) -> None:
        """Stop serving; calls that are under way fail.

        Raises:
            StopError: a method does not end.
        """
        server, self._server, threads = self._server, None, self._threads
        assert threads is not None
        loop, ended = self._loop, True
        if isinstance(server, grpc.aio.Server):
            assert loop is not None
            with contextlib.suppress(FutureTimeout):
                loop.submit(_stop_async(server)).result(_GRACE + _PATIENCE)
        else:
            server.stop(_GRACE).wait(_PATIENCE)
        del server
        if loop is not None:
            ended = loop.end(Deadline(_PATIENCE))
        threads.shutdown(wait=False)
        ended = threads.join(Deadline(_PATIENCE)) and ended
        _GRPC_LOGGER.removeHandler(self._errors)
        self._errors.close()
        if not ended:
            running = self._running.now()
            methods = [method for method, _ in running]
            if not running and loop is not None:
                running = [("the event loop", loop.stack())]
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


async def _plainly(function: Callable[[], T]) -> T:
    return function()


async def _wait_for(given: Awaitable[T]) -> T:
    return await given


async def _stop_async(server: grpc.aio.Server) -> None:
    await server.stop(_GRACE)


def _interceptors(settings: Settings) -> tuple[Any, ...]:
    given = settings.interceptors
    if callable(given):
        return check_interceptors(given(), f"interceptors={name_of(given)}() returned a list that")
    return given


def is_for_asyncio(interceptor: Any) -> bool:
    """Return True if an interceptor is one for servers of grpc.aio."""
    return isinstance(interceptor, grpc.aio.ServerInterceptor) or inspect.iscoroutinefunction(
        interceptor.intercept_service
    )


def _because(interceptors: Sequence[Any]) -> str:
    names = [type(each).__name__ for each in interceptors if is_for_asyncio(each)]
    return f"{names[0]} is an interceptor of grpc.aio" if names else ""


def _mismatch(interceptor: Any, task: Task, because: str) -> SpecError:
    name = type(interceptor).__name__
    return SpecError(
        f"the interceptor {name} is one for grpc.server, and {task} serves by grpc.aio: {because}",
        task=str(task),
        remedy=f"derive {name} from grpc.aio.ServerInterceptor, with an async intercept_service(); "
        "if other jobs need it as it is, give each job a ServicerRuntime of its own",
    )


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
        error = record.exc_info[1] if record.exc_info else None
        if getattr(error, "_localcluster_task", None) is self._context:
            return True
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
