"""A call of a Python function, pickled for the task that makes it."""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, ModuleType
from typing import Any

import numpy as np

from .. import _graph
from .._core import pickling, unpicklable

__all__ = ["Call", "name_of", "pickle_call"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

# What pickles the same everywhere, and is what most arguments of most operations are.
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), _graph.Input, np.dtype)


class Call:
    """The payload of a Function: see NodeDef in graph.proto.

    Attributes:
        function: the pickled callable.
        arguments: its pickled ``(args, kwargs)``.
    """

    __slots__ = ("arguments", "function")

    def __init__(self, function: bytes, arguments: bytes) -> None:
        self.function = function
        self.arguments = arguments


def pickle_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Call:
    """Return the call, its arguments as :func:`_graph.pack` left them.

    Raises:
        TransferError: something in it cannot be pickled.
    """
    what = f"function {name_of(function)}"
    try:
        # What NumPy and the interpreter define never changes; a user's closure may between calls.
        code = _pickle_fixed(function) if _is_fixed(function) else pickling.dumps(function)
        what = f"an argument of {name_of(function)}"
        arguments = (tuple(args), dict(kwargs))
        if _is_plain(arguments):
            return Call(code, pickle.dumps(arguments, pickle.HIGHEST_PROTOCOL))
        return Call(code, pickling.dumps(arguments))
    except Exception as error:
        roots = unpicklable.roots_of_call(function, args, kwargs)
        refused = pickling.refusal(f"{what} cannot be sent to a task", roots, error)
    raise refused


_pickle_fixed = functools.lru_cache(maxsize=512)(pickling.dumps)


def _is_fixed(function: Callable[..., Any]) -> bool:
    if isinstance(function, BuiltinFunctionType):
        return isinstance(function.__self__, ModuleType)
    module = getattr(function, "__module__", None) or ""
    return isinstance(function, np.ufunc) or module in (_graph.__name__, "_operator")


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is tuple or kind is list:
        return all(map(_is_plain, value))
    if kind is dict:
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if kind is slice:
        return _is_plain((value.start, value.stop, value.step))
    if kind is np.ndarray:
        return not value.dtype.hasobject
    return isinstance(value, (*_PLAIN, np.ufunc)) or (
        isinstance(value, np.generic) and not isinstance(value, np.object_)
    )


def name_of(function: Any) -> str:
    """Return what an operation that calls ``function`` is called."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None) or type(function).__name__
    return re.sub(r"[^A-Za-z0-9._]", "", name) or "function"
