"""A task whose services run under asyncio: its loop, and what grpc.aio needs otherwise than gRPC.

The loop has a thread of its own, since the task's main thread is for functions of ``run()``. All of
the server is made, used and ended in it. Plain functions among the methods run in the pool that
all servers of tasks have. An event that wakes the loop of another task in this process is passed on
by grpc.aio; then it may find nothing, and what it logs of that is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import grpc

from ... import _held
from ..._clock import Thread
from ..._context import TaskContext, stay_as
from .._grpc import TokenInterceptor, check_threads, server_options
from .interceptor import Pool, Running, replaced, watched
from .registration import is_async

if TYPE_CHECKING:
    from ..._clock import Deadline
    from .settings import Settings

__all__ = ["AsyncPool", "Loop", "make_async_server"]

P = ParamSpec("P")
T = TypeVar("T")


class Loop:
    """An event loop that runs in a thread of its own, as the task that has made it.

    Args:
        name: the name of the thread.
    """

    def __init__(self, name: str) -> None:
        check_threads()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_drop_noise)
        run = partial(contextvars.copy_context().run, self._run)
        self.thread = Thread(target=run, name=name, daemon=True)
        self.thread.start()
        if _held.owner() is not None:  # not in a process of its own, with which everything ends
            _held.hold_thread(self.thread)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a coroutine function in the loop; return what it returns."""

        async def call() -> tuple[T | None, BaseException | None]:
            try:
                return await function(*args, **kwargs), None
            except BaseException as error:  # some would end the loop, and not reach who asks
                return None, error

        result, error = self.submit(call()).result()
        if error is not None:
            raise error
        return cast("T", result)

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the loop; return the future of its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def end(self, deadline: Deadline) -> bool:
        """Cancel what still runs, and end; return True if the thread has ended by the deadline."""
        if self.thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just been closed
                asyncio.run_coroutine_threadsafe(self._end(), self._loop)
            self.thread.join(deadline.remaining())
        return not self.thread.is_alive()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)  # whoever has us end has a deadline
        await self._loop.shutdown_asyncgens()
        self._loop.stop()

    def stack(self) -> str:
        """Return where the thread is."""
        return _held.stack_of(self.thread.ident)


def _drop_noise(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # The loops of a process read one socket of grpc.aio's: what wakes one may be another's, that
    # has taken it already, or is closed.
    if "PollerCompletionQueue._handle_events" not in str(context.get("message")):
        loop.default_exception_handler(context)


class AsyncPool(Pool):
    """The threads of the plain functions among a task's methods; they run as their call does."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` in a thread, at once."""
        return super().submit(contextvars.copy_context().run, fn, *args, **kwargs)  # type: ignore[arg-type]


def make_async_server(
    pool: Pool, interceptors: list[grpc.aio.ServerInterceptor], settings: Settings
) -> grpc.aio.Server:
    """Return a server of grpc.aio that listens nowhere yet; to be called in its loop."""
    return grpc.aio.server(
        pool,
        interceptors=interceptors,
        options=server_options(settings.options),
        compression=settings.compression,
        maximum_concurrent_rpcs=settings.maximum_concurrent_rpcs,
    )


class AsyncToken(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Asks for the cluster's token, as ``asking`` does on other servers."""

    def __init__(self, asking: TokenInterceptor) -> None:
        self._asking = asking

    async def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        refusal = self._asking.refusal(call)
        if refusal is None:
            return await continuation(call)

        async def refuse(_requests: Any, context: grpc.aio.ServicerContext) -> None:
            await context.abort(*refusal)

        # Streaming, so that nothing of the request is read; it suits calls of every kind.
        return grpc.stream_stream_rpc_method_handler(refuse)


class AsyncCalls(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Notes the methods that run; each call sees its task as the current one."""

    def __init__(self, context: TaskContext, running: Running) -> None:
        self._context = context
        self._running = running

    async def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        stay_as(self._context)
        return replaced(await continuation(call), partial(self._watched, call.method))

    def _watched(self, method: str, function: Callable[..., Any], streams: bool) -> Any:
        if not is_async(function):
            return watched(self._running, method, function, streams)
        if streams and _gives_generator(function):

            async def respond(*args: Any) -> Any:
                responses = function(*args)
                with self._running.during(method, partial(_stack_of, responses)):
                    async with contextlib.aclosing(responses):
                        async for response in responses:
                            yield response

            return respond

        async def answer(*args: Any) -> Any:
            result = function(*args)
            with self._running.during(method, partial(_stack_of, result)):
                return await result

        return answer


def _gives_generator(function: Any) -> bool:
    """Return True if calls of an asynchronous function give a generator, and no coroutine."""
    while True:
        inner = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        if inspect.isasyncgenfunction(function):
            return True
        if inner is None or inspect.iscoroutinefunction(function):
            break
        function = inner
    return inspect.isasyncgenfunction(getattr(type(function), "__call__", None))  # noqa: B004


def _stack_of(waits: Any) -> str:
    """Return where a coroutine, or an asynchronous generator, is, and what it waits for."""
    frames = []
    while waits is not None:
        frame = getattr(waits, "cr_frame", None) or getattr(waits, "ag_frame", None)
        if frame is not None:
            frames += traceback.format_stack(frame, 1)
        waits = getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None)
    return "".join(frames)
