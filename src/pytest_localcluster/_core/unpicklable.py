"""Finds the object that cannot be pickled, and names it by its path from what was to go.

After a failed dump the parts of the object are dumped by themselves, then the parts of the first
one that fails, until one has no part that fails: that is the culprit. This is bounded in time and
depth, and raises nothing.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import (
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

from .._clock import Deadline
from ..errors import TransferError
from . import reducers
from .reducers import StaysHere

__all__ = ["Part", "explain", "reason", "roots_of_call"]

Dump = Callable[[Any], object]
Part = tuple[str, Any]

_SECONDS = 1.0
_DEPTH = 40


@dataclass
class _Culprit:
    """An object that cannot be pickled, its path, and the error."""

    path: str
    value: Any
    error: BaseException

    def __str__(self) -> str:
        return f"{self.path or 'the function'} is {_a(type(self.value))}"


def roots_of_call(
    function: object, args: Iterable[object], kwargs: Mapping[str, object]
) -> list[Part]:
    """Return the parts of a call by their names."""
    return [
        ("", function),
        *((f"args[{index}]", arg) for index, arg in enumerate(args)),
        *((f"kwargs[{name!r}]", value) for name, value in kwargs.items()),
    ]


def explain(what: str, roots: Iterable[Part], error: BaseException, dump: Dump) -> TransferError:
    """Return the error for what could not be pickled.

    Args:
        what: the beginning of the message, such as ``"f cannot be sent to a task"``.
        roots: the parts of the call by name; "" is the function.
        error: the error of the dump.
        dump: pickles an object, or raises.
    """
    found = _find(roots, error, dump)
    said = _in_a_line(error if found is None else found.error)
    if found is None:
        return TransferError(f"{what}: {said}", reason=said, remedy=_ANY)
    why = f", which {found.error}" if _stays(found) else f" ({said})"
    return TransferError(
        f"{what}: {found}{why}",
        path=found.path,
        reason=said,
        remedy=_remedy(found),
    )


def reason(name: str, value: object, error: BaseException, dump: Dump) -> str:
    """Return why an attribute of an exception cannot go, in a line."""
    found = _find([(f"error.{name}", value)], error, dump)
    if found is None:
        return _in_a_line(error)
    return f"{found} ({_in_a_line(found.error)})"


def _in_a_line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__qualname__}: {text}".partition("\n")[0]


def _a(kind: type) -> str:
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "pytest_localcluster"):
        name = f"{kind.__module__}.{name}"
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


def _find(roots: Iterable[Part], error: BaseException, dump: Dump) -> _Culprit | None:
    deadline, seen = Deadline(_SECONDS), set[int]()
    found: _Culprit | None = None
    parts: Iterable[Part] = roots
    try:
        for _ in range(_DEPTH):
            failing = _first_failing(parts, dump, deadline, seen)
            if failing is None:
                break
            found = failing
            if _stays(found) or _is_too_deep(found.error) or _known_remedy(found.value):
                break  # its own parts say nothing more, such as the lock of an Event
            parts = _parts(found.path, found.value)
    except Exception:  # code of the user's may raise; the path so far is right
        pass
    return found


def _first_failing(
    parts: Iterable[Part], dump: Dump, deadline: Deadline, seen: set[int]
) -> _Culprit | None:
    for path, value in parts:
        if deadline.expired():
            return None
        if id(value) in seen:
            continue
        seen.add(id(value))
        try:
            dump(value)
        except Exception as error:
            return _Culprit(path, value, error)
    return None


def _stays(found: _Culprit) -> bool:
    return isinstance(found.error, StaysHere) and found.error.value is found.value


def _is_too_deep(error: BaseException) -> bool:
    return isinstance(error, RecursionError) or "recursion" in str(error)


def _parts(path: str, value: Any) -> Iterator[Part]:
    """Yield the objects that pickling an object takes along."""
    base = path or "function"
    if reducers.reduce(value) is not None:
        yield from _parts_of_instance(base, value)
    elif isinstance(value, FunctionType):
        yield from _parts_of_function(path, value)
    elif isinstance(value, MethodType):
        yield ("self" if not path else f"{path}.__self__"), value.__self__
        yield path, value.__func__
    elif isinstance(value, functools.partial):
        yield path, value.func
        name = path or "partial"
        yield from ((f"{name}.args[{i}]", arg) for i, arg in enumerate(value.args))
        yield from ((f"{name}.keywords[{key!r}]", arg) for key, arg in value.keywords.items())
        yield from _attributes(name, vars(value))
    elif isinstance(value, (staticmethod, classmethod)):
        yield path, value.__func__
    elif isinstance(value, property):
        yield from ((path, part) for part in (value.fget, value.fset, value.fdel) if part)
    elif isinstance(value, CellType):
        yield path, value.cell_contents
    elif isinstance(value, ModuleType):
        yield from _attributes(base, vars(value))
    elif isinstance(value, type):
        yield from ((f"{base}.__bases__[{i}]", each) for i, each in enumerate(value.__bases__))
        yield from _attributes(base, vars(value))
    elif isinstance(value, (dict, MappingProxyType)) and _is_plain(value):
        yield from _items(base, value)
    elif isinstance(value, (list, tuple)) and _is_plain(value):
        yield from ((f"{base}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, (set, frozenset)) and _is_plain(value):
        yield from ((f"{{{_short(item)}}} of {base}", item) for item in value)
    else:
        yield from _parts_of_instance(base, value)


def _is_plain(value: Any) -> bool:
    """Return whether a container has no means of its own to be pickled, nor attributes."""
    kind: Any = type(value)
    return kind.__reduce_ex__ is object.__reduce_ex__ and not getattr(value, "__dict__", 0)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _attributes(base: str, attributes: Mapping[Any, Any]) -> Iterator[Part]:
    for name, value in list(attributes.items()):
        if name not in ("__dict__", "__weakref__", "__builtins__"):
            yield f"{base}.{name}", value


def _items(base: str, items: Mapping[Any, Any]) -> Iterator[Part]:
    for key, value in list(items.items()):
        yield f"{base}[{_short(key)}]", value
    for key in list(items):
        yield f"key {_short(key)} of {base}", key


def _parts_of_function(path: str, function: FunctionType) -> Iterator[Part]:
    before = f"{path}() -> " if path else ""
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield f"{before}global {name}", function.__globals__[name]
    cells = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=False):
        try:
            yield f"{before}closure variable {name}", cell.cell_contents
        except ValueError:
            continue
    defaults = function.__defaults__ or ()
    taken = function.__code__.co_varnames[: function.__code__.co_argcount]
    for name, value in zip(taken[len(taken) - len(defaults) :], defaults, strict=False):
        yield f"{before}default argument {name}", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"{before}default argument {name}", value
    yield from _attributes(path or function.__name__, vars(function))
    for name, value in getattr(function, "__annotations__", {}).items():
        yield f"{before}annotation of {name}", value


def _global_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _global_names(part)


def _parts_of_instance(base: str, value: Any) -> Iterator[Part]:
    reduced = reducers.reduce(value) or value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if not isinstance(reduced, tuple):
        return
    make, args, state, items, pairs = (*reduced, None, None, None, None)[:5]
    names = {id(part): name for name, part in getattr(value, "__dict__", {}).items()}
    states = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    if all(each is None or isinstance(each, dict) for each in states):
        for each in states:
            yield from _attributes(base, each or {})
    else:
        yield f"{base}.__getstate__()", state
    yield from ((f"{base}[{index}]", item) for index, item in enumerate(items or ()))
    for key, item in pairs or ():
        yield f"{base}[{_short(key)}]", item
    kind = type(value)
    for index, part in enumerate(args or ()):
        if part is kind:
            continue
        name = names.get(id(part))
        yield (f"{base}.{name}" if name else f"{base}.__reduce__()[1][{index}]"), part
    yield f"{base}.__reduce__()[0]", make
    yield f"{base} -> class {kind.__qualname__}", kind


_ANY = "make it in the function, or pass what it is made from: a path, an address, numbers"

_REMEDIES: tuple[tuple[str, str], ...] = (
    ("socket.", "connect in the function, and pass the address"),
    ("_socket.", "connect in the function, and pass the address"),
    ("ssl.", "make it in the function, from the paths of the certificates"),
    ("_ssl.", "make it in the function, from the paths of the certificates"),
    ("_io.", "open the file in the function, and pass its path or its content"),
    ("tempfile.", "open the file in the function, and pass its path or its content"),
    ("mmap.", "map the file in the function, and pass its path"),
    ("sqlite3.", "connect in the function, and pass the path"),
    ("grpc.", "dial in the function, and pass the address: server.address or server.target"),
    ("_thread.", "make it in the function, or in a module that the function imports"),
    ("_asyncio.", "make it in the function, where another event loop runs"),
    ("asyncio.", "make it in the function, where another event loop runs"),
    ("threading.", "make it in the function, or in a module that the function imports"),
    ("queue.", "make it in the function; results come back by return"),
    ("_queue.", "make it in the function; results come back by return"),
    ("concurrent.", "wait for it in the test, and pass its result"),
    ("_weakref", "pass the object itself"),
    ("weakref.", "pass the objects themselves"),
    ("_contextvars.", "define it in a module that the function imports, or pass its value"),
    ("contextvars.", "define it in a module that the function imports, or pass its value"),
    ("subprocess.", "start it in the function, or pass its pid"),
    ("unittest.mock.", "patch in the function, or pass a plain object"),
    ("absl.flags.", "read the flags in the test, and pass their values"),
    ("logging.", "configure logging in the function; loggers go by their names"),
    ("pytest_localcluster.PortLease", "pass its port or address"),
    ("pytest_localcluster._ports.", "pass its port or address"),
    ("pytest_localcluster._client.", "build the graph in the function, or fetch its value first"),
    ("pytest_localcluster.", "use it in the test"),
    ("generator", "pass list(...) of it, or make it in the function"),
    ("coroutine", "await it in the test, or pass the coroutine function"),
    ("async_generator", "make it in the function"),
    ("itertools.", "pass list(...) of it, or make it in the function"),
    ("frame", "pass traceback.format_exception() of the error"),
    ("traceback", "pass traceback.format_exception() of the error"),
)


def _remedy(found: _Culprit) -> str:
    if isinstance(found.error, StaysHere) and _stays(found):
        return found.error.remedy
    if _is_too_deep(found.error):
        return "nest it less deeply, or pass it as text or bytes"
    return _known_remedy(found.value) or _ANY


def _known_remedy(value: object) -> str:
    for kind in type(value).__mro__[:-1]:
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        for beginning, remedy in _REMEDIES:
            if name.startswith(beginning):
                return remedy
    return ""
