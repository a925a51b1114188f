"""Functions that are coroutines or generators, and clusters that a coroutine starts.

A call in a task awaits a coroutine there, by ``asyncio.run``. A generator is refused: its values
come one at a time, and a call has one result.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import types
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from .._clock import Thread
from ..errors import SpecError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

__all__ = ["GeneratorError", "call", "check", "in_thread", "is_coroutine_function"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

T = TypeVar("T")


class GeneratorError(SpecError, TypeError):
    """A generator where one result is due."""


def is_coroutine_function(function: object) -> bool:
    """Return True if calls of ``function`` give a coroutine, as far as that shows beforehand."""
    return any(map(inspect.iscoroutinefunction, _layers(function)))


def check(function: Callable[..., object]) -> None:
    """Refuse a generator function.

    Raises:
        GeneratorError: a call of it runs nothing.
    """
    for layer in _layers(function):
        flags = getattr(getattr(layer, "__code__", None), "co_flags", 0)
        if inspect.isasyncgenfunction(layer):
            kind, values = "an async generator", "[x async for x in ...]"
        elif inspect.isgeneratorfunction(layer) and not flags & inspect.CO_ITERABLE_COROUTINE:
            kind, values = "a generator", "list(...)"
        else:
            continue
        raise GeneratorError(
            f"{_name(function)} is {kind} function, of which a call runs nothing",
            remedy=f"collect its values in the task, in a function that returns {values} of it",
        )


def _layers(function: object) -> tuple[object, ...]:
    """Return a callable and the ``__call__`` of its class, both without partials."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or isinstance(function, type):
        return (function,)
    return function, getattr(type(function), "__call__", None)  # noqa: B004  # what it is


def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call a function; return its result, or the result of the coroutine that it returns.

    Raises:
        GeneratorError: the result is a generator.
    """
    result = function(*args, **kwargs)
    if _is_coroutine(result):
        result = _await(result)
    if inspect.isasyncgen(result):
        kind, values = "an async generator", "[x async for x in ...]"
    elif inspect.isgenerator(result):
        kind, values = "a generator", "list(...)"
    else:
        return result
    raise GeneratorError(
        f"{_name(function)} returned {kind}, which stays in its process",
        remedy=f"collect its values in the task: return {values}",
    )


def _is_coroutine(result: object) -> bool:
    """Return True for a coroutine; other awaitable objects, as futures of Dask, are values."""
    if isinstance(result, types.GeneratorType):
        return bool(result.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    return isinstance(result, Coroutine)


def _await(coroutine: Any) -> Any:
    import asyncio  # costs a plain function nothing

    async def main() -> Any:
        return await coroutine

    try:
        return asyncio.run(main())
    except BaseException as error:
        frames = error.__traceback__
        while frames is not None and _is_machinery(frames):
            frames = frames.tb_next
        error.__traceback__ = frames or error.__traceback__
        raise


def _is_machinery(frames: TracebackType) -> bool:
    module = str(frames.tb_frame.f_globals.get("__name__"))
    return module == __name__ or module.partition(".")[0] == "asyncio"


def _name(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


async def in_thread(function: Callable[[], T]) -> T:
    """Run ``function`` in a thread while the event loop goes on; return its result.

    A cancellation waits for the end of the thread: nothing runs on behind the caller's back.

    Raises:
        UnsupportedError: the event loop is not asyncio's.
    """
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise UnsupportedError(
            "only asyncio can run `async with` of a cluster",
            remedy="run its start() and stop() in a thread of your library, such as "
            "trio.to_thread.run_sync(cluster.start)",
        ) from None
    future: Future[T] = Future()

    def settle() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    # Not asyncio.to_thread: its few threads may all be waiting for this cluster.
    thread = Thread(
        target=contextvars.copy_context().run, args=(settle,), name=_name(function), daemon=True
    )
    thread.start()
    ended, cancelled = asyncio.wrap_future(future), None
    while not ended.done():
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError as error:
            cancelled = error
    thread.join()
    if cancelled is not None:
        ended.exception()
        raise cancelled
    return ended.result()
