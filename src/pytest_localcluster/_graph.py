"""How a call of a Python function travels in a graph: packed by the client, called by a task.

A call is its function and its arguments, each pickled, where an :class:`Input` stands for every
value that is only known when the step runs. Both sides are here, so that they cannot disagree; and
so is what either calls a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeVar

from ._core import stand_ins

__all__ = ["BadCall", "Input", "call_method", "compile_call", "in_short", "pack"]

T = TypeVar("T")
Values = Sequence[Any]


class Input:
    """Stands, in packed arguments, for the value of a node's data input number ``index``."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[type[Input], tuple[int]]:
        return Input, (self.index,)

    def __repr__(self) -> str:
        return f"Input({self.index})"


def pack(
    args: Sequence[Any], kwargs: Mapping[str, Any], find: Callable[[Any], T | None]
) -> tuple[tuple[Any, ...], dict[str, Any], list[T]]:
    """Replace what ``find`` recognises in the arguments, also in lists, tuples, dicts and slices.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        find: returns, for a value that a step has to fill in, the output that it is filled in from;
            None for any other value.

    Returns:
        The arguments with an :class:`Input` in each such place, and the outputs that they index,
        each once. What holds none of them is the very object that was given.
    """
    inputs: list[T] = []
    known: dict[int, Input] = {}

    def put(value: Any) -> Any:
        output = find(value)
        if output is None:
            return _map(value, put)
        if id(output) not in known:
            known[id(output)] = Input(len(inputs))
            inputs.append(output)
        return known[id(output)]

    return tuple(map(put, args)), {name: put(value) for name, value in kwargs.items()}, inputs


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the container ``value`` with ``change`` applied inside; itself if nothing changes."""
    kind = type(value)
    if kind is slice:
        parts = (value.start, value.stop, value.step)
        new = tuple(map(change, parts))
        return value if _same(parts, new) else slice(*new)
    if kind is list or kind is tuple or (isinstance(value, tuple) and hasattr(kind, "_make")):
        new = tuple(map(change, value))
        if _same(value, new):
            return value
        return kind._make(new) if hasattr(kind, "_make") else kind(new)
    if kind is dict:
        new = tuple(map(change, value.values()))
        return value if _same(tuple(value.values()), new) else dict(zip(value, new, strict=True))
    return value


def _same(old: Sequence[Any], new: Sequence[Any]) -> bool:
    return all(a is b for a, b in zip(old, new, strict=True))


class BadCall(ValueError):
    """What was unpickled is no call of a function with so many inputs."""


def compile_call(
    function: bytes, arguments: bytes, inputs: int | None = None
) -> Callable[[Values], Any]:
    """Return a function that makes the call, given the values of its inputs.

    Both are unpickled here, once: an argument without an input is the same object in every step,
    so that a generator of random numbers, say, goes on where it was.

    Args:
        function: the pickled callable.
        arguments: its pickled ``(args, kwargs)``, as :func:`pack` left them.
        inputs: how many there will be; None does not look.

    Raises:
        BadCall: they are pickles of something else.
        Exception: whatever unpickling raises.
    """
    call, packed = stand_ins.load_operation(function, arguments)
    if not callable(call):
        raise BadCall(f"a {type(call).__qualname__} cannot be called")
    if not (isinstance(packed, tuple) and list(map(type, packed)) == [tuple, dict]):
        raise BadCall("its arguments are no pair of a tuple and a dict")
    args, kwargs = packed
    if inputs is not None:
        most = max(_inputs_in(packed), default=-1)
        if most >= inputs:
            raise BadCall(f"its arguments stand for input {most}, and it has {inputs}")
    in_order = all(isinstance(arg, Input) and arg.index == i for i, arg in enumerate(args))
    if in_order and not any(map(_filler, kwargs.values())):
        if not kwargs:
            return lambda values: call(*values)
        return lambda values: call(*values, **kwargs)
    positions = [(i, fill) for i, arg in enumerate(args) if (fill := _filler(arg))]
    names = [(name, fill) for name, arg in kwargs.items() if (fill := _filler(arg))]

    def filled(values: Values) -> Any:
        here = list(args)
        for i, fill in positions:
            here[i] = fill(values)
        if not names:
            return call(*here, **kwargs)
        return call(*here, **{**kwargs, **{name: fill(values) for name, fill in names}})

    return filled


def _filler(value: Any) -> Callable[[Values], Any] | None:
    """Return what makes this argument from the values of the inputs; None if it holds none."""
    if isinstance(value, Input):
        return itemgetter(value.index)
    if not _inputs_in(value):
        return None

    def fill(values: Values) -> Any:
        def put(part: Any) -> Any:
            return values[part.index] if isinstance(part, Input) else _map(part, put)

        return put(value)

    return fill


def _inputs_in(value: Any) -> list[int]:
    found: list[int] = []

    def look(part: Any) -> Any:
        if isinstance(part, Input):
            found.append(part.index)
            return part
        return _map(part, look)

    look(value)
    return found


def call_method(value: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Call ``value.name(*args, **kwargs)``: how a method of an array or ufunc is an operation."""
    return getattr(value, name)(*args, **kwargs)


@lru_cache(1024)
def in_short(*wanted: str) -> str:
    """Name what a step is for, its fetches and targets, in a few words."""
    more = f" and {len(wanted) - 3} more" if len(wanted) > 3 else ""
    return ", ".join(wanted[:3]) + more
