"""Any Python function as an operation."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, overload

from .._core import coroutines
from .operation import check_name
from .tensor import call_function

__all__ = ["function"]

Function = Callable[..., Any]


@overload
def function(fn: Function, num_outputs: int = 1, name: str | None = None) -> Function: ...
@overload
def function(
    *, num_outputs: int = 1, name: str | None = None
) -> Callable[[Function], Function]: ...
def function(
    fn: Function | None = None, num_outputs: int = 1, name: str | None = None
) -> Function | Callable[[Function], Function]:
    """Return a function of Tensors that makes an operation of ``fn``, a function of arrays.

    Args:
        fn: any callable; lambdas, closures and functions of the test module too. It runs on the
            operation's task, where :func:`~pytest_localcluster.current_task` tells which that is.
            Arrays reach it read-only.
        num_outputs: how many values it returns; with more than one the call gives as many Tensors.
        name: what its operations are called; its own name if None.

    Returns:
        The function to call with Tensors, by themselves or in lists, tuples, dicts and slices, and
        with anything that can be pickled, which reaches ``fn`` unchanged. What ``fn`` returns has
        to be arrays, scalars, None, or tuples or lists of those. As a decorator, with or without
        arguments, it works as well.

    Example::

        with device("/job:worker/task:0"):
            pid = function(os.getpid)()
            mean, deviation = function(lambda a: (a.mean(), a.std()), num_outputs=2)(x)
    """
    if fn is None:
        return functools.partial(function, num_outputs=num_outputs, name=name)
    if not callable(fn):
        raise TypeError(f"function() takes a callable, not {fn!r}")
    coroutines.check(fn)
    if coroutines.is_coroutine_function(fn):
        raise TypeError(
            f"{fn!r} gives no value when it is called: function() takes plain functions, "
            "which may call asyncio.run"
        )
    outputs = 0 if isinstance(num_outputs, bool) else operator.index(num_outputs)
    if outputs < 1:
        raise ValueError(
            f"num_outputs={num_outputs!r}: every operation gives at least one value, if only None"
        )
    if name is not None:
        check_name(name, "a function's operation")

    @functools.wraps(fn, updated=())
    def make_operation(*args: Any, **kwargs: Any) -> Any:
        return call_function(fn, args, kwargs, num_outputs=outputs, name=name, inline=True)

    return make_operation
