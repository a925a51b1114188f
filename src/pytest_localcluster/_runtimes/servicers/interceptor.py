"""The calls that a task answers: each runs as its task, and is known by name while it does."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import grpc

from ... import _held
from ..._context import TaskContext, stay_as
from .._threads import Threads
from .facade import kind_of

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Calls", "Pool", "Running", "replaced", "watched"]

P = ParamSpec("P")
T = TypeVar("T")


class Pool(Threads):
    """The threads of a task's handlers, which gRPC gives their work in a thread of its own."""

    def __init__(self, context: TaskContext, address: str) -> None:
        super().__init__(f"{context.task} at {address}")
        self._context = context

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn`` in a thread, at once."""
        # This is gRPC's thread, which also decodes the requests of this server, and calls what was
        # to be called at the end of its calls.
        stay_as(self._context)
        return super().submit(fn, *args, **kwargs)


class Running:
    """The methods that run in a task, and where each of them is."""

    def __init__(self) -> None:
        self._running: dict[object, tuple[str, Callable[[], str]]] = {}

    @contextmanager
    def during(self, method: str, stack: Callable[[], str] | None = None) -> Iterator[None]:
        """Know that this thread, or what ``stack`` shows, is in a method."""
        key = object()
        self._running[key] = method, stack or partial(_held.stack_of, threading.get_ident())
        try:
            yield
        except (Exception, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            # gRPC would never answer the call; pytest's own failures are of this kind too.
            raise RuntimeError(f"{type(error).__name__} in {method}: {error}") from error
        finally:
            del self._running[key]

    def now(self) -> list[tuple[str, str]]:
        """Return the methods that run, and where each is: its stack."""
        return [(method, stack()) for method, stack in list(self._running.values())]


class Calls(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Notes the methods that run; each call sees its task as the current one."""

    def __init__(self, context: TaskContext, running: Running) -> None:
        self._context = context
        self._running = running

    def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        # In the contextvars.Context that gRPC makes for each call, in which everything of the call
        # runs: the handler, the generator that it may be, and what gRPC itself logs of its errors.
        stay_as(self._context)
        try:
            handler = continuation(call)
        except Exception as error:
            # An interceptor of the user's: gRPC logs it outside of that context.
            with suppress(AttributeError):
                error._localcluster_task = self._context  # type: ignore[attr-defined]
            raise
        return replaced(handler, partial(watched, self._running, call.method))


def replaced(handler: Any, wrap: Callable[[Any, bool], Any]) -> Any:
    """Return a handler like this one whose function is ``wrap(function, streams responses)``."""
    if handler is None:
        return None
    kind = kind_of(handler)
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        wrap(getattr(handler, kind), handler.response_streaming),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def watched(running: Running, method: str, function: Callable[..., Any], streams: bool) -> Any:
    """Return a plain function of a method, during which it is noted as running."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with running.during(method):
            result = function(*args)
            if inspect.iscoroutine(result) or inspect.isasyncgen(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise TypeError(
                    f"{method} returned {type(result).__name__!r}, and nothing shows beforehand "
                    "that it is to run under asyncio: make what is registered an async def"
                )
        return _Responses(running, method, result) if streams else result

    vars(call).pop("__wrapped__", None)  # it is this function that is to be called
    return call


class _Responses:
    """The responses of a streaming method; what it returned need not be a generator."""

    def __init__(self, running: Running, method: str, responses: Any) -> None:
        self._running = running
        self._method = method
        self._responses = responses

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        # StopIteration must not pass through a generator, such as the context manager is.
        with self._running.during(self._method):
            response = next(self._responses, self)
        if response is self:
            raise StopIteration
        return response
