"""The calls that a task answers: each runs as its task, and is known by name while it does."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import grpc

from ..._context import TaskContext, stay_as
from .._threads import Threads
from .registry import kind_of

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Calls", "Pool"]

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


class Calls(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Knows which methods run, in which threads; each call sees its task as the current one."""

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        self._running: dict[object, tuple[str, int]] = {}

    def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        # In the contextvars.Context that gRPC makes for each call, in which everything of the call
        # runs: the handler, the generator that it may be, and what gRPC itself logs of its errors.
        stay_as(self._context)
        handler = continuation(call)
        if handler is None:
            return None
        kind = kind_of(handler)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            self._watched(call.method, getattr(handler, kind), handler.response_streaming),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _watched(self, method: str, behaviour: Callable[..., Any], streams: bool) -> Any:
        @functools.wraps(behaviour)
        def watched(*args: Any) -> Any:
            with self.during(method):
                result = behaviour(*args)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError(f"{method} is a coroutine function: grpc.aio is not supported")
            return _Responses(self, method, result) if streams else result

        return watched

    @contextmanager
    def during(self, method: str) -> Iterator[None]:
        """Know that this thread is in a method."""
        key = object()
        self._running[key] = method, threading.get_ident()
        try:
            yield
        except Exception:
            raise
        except BaseException as error:
            # gRPC would never answer the call; pytest's own failures are of this kind too.
            raise RuntimeError(f"{type(error).__name__} in {method}: {error}") from error
        finally:
            del self._running[key]

    def running(self) -> list[tuple[str, str]]:
        """Return the methods that run, and where each is: the stack of its thread."""
        frames = sys._current_frames()
        return [
            (method, "".join(traceback.format_stack(frames[ident])) if ident in frames else "")
            for method, ident in list(self._running.values())
        ]


class _Responses:
    """The responses of a streaming method; what it returned need not be a generator."""

    def __init__(self, calls: Calls, method: str, responses: Any) -> None:
        self._calls = calls
        self._method = method
        self._responses = responses

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        # StopIteration must not pass through a generator, such as the context manager is.
        with self._calls.during(self._method):
            response = next(self._responses, self)
        if response is self:
            raise StopIteration
        return response
