"""What pickles call in a task: functions, classes and other objects of test modules are made here.

What they have in common is where they go: a :class:`StandIn` of their module. In the process that
has the module itself they make copies, which that module does not see.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import marshal
import pickle
import sys
import weakref
from collections.abc import Callable, Sequence
from types import CellType, CodeType, FunctionType
from typing import Any

from cloudpickle.cloudpickle import _DYNAMIC_CLASS_TRACKER_BY_ID, _class_setstate

from .identity import (
    ABSENT,
    Empty,
    content_of,
    find_path,
    interchangeable,
    own_origin,
    sent,
    tokens,
)
from .stand_ins import Contradiction, Mode, StandIn, calls, loading, named

__all__ = [
    "is_received",
    "make_again",
    "make_cached",
    "make_cell",
    "make_class",
    "make_function",
    "make_once",
    "sent_function",
    "set_again",
    "set_class",
    "set_function",
]

_received: weakref.WeakKeyDictionary[type, int] = weakref.WeakKeyDictionary()
"""The classes that were made here, and the call in which each was given its state."""


def is_received(kind: type) -> bool:
    """Return whether a class was made here of what has arrived."""
    return kind in _received


def make_cell() -> Any:
    """Return an empty cell of a closure."""
    return CellType()


def make_function(
    namespace: StandIn | dict[str, Any],
    home: StandIn | None,
    name: str | None,
    token: str,
    code: bytes | CodeType,
    closure: tuple[Any, ...] | None,
) -> FunctionType:
    """Return a function without its state.

    Args:
        namespace: its globals.
        home: the module that has the function; None if it is no global of its module.
        name: under this name.
        token: its identity.
        code: its code, marshalled if that can be.
        closure: its cells, still empty.
    """
    if type(code) is bytes:
        code = marshal.loads(code)
    assert isinstance(code, CodeType)
    if isinstance(namespace, dict):
        scope = namespace
        scope["__builtins__"] = builtins.__dict__
    else:
        scope = namespace.__dict__
    mode = loading.mode
    if name is not None and home is not None and (mode is Mode.FETCH or mode is Mode.JOIN):
        found = home.arrived(name)
        if (
            isinstance(found, FunctionType)
            and tokens.get(found) == token
            and found.__globals__ is scope
            and found.__code__ == code
        ):
            loading.known.add(id(found))
            return found
    function = FunctionType(code, scope, None, None, closure)
    tokens[function] = token
    if name is not None and home is not None:
        home._arrived[name] = weakref.ref(function)
    return function


def set_function(function: FunctionType, state: tuple[Any, ...]) -> None:
    """Give a function its state, unless it has one."""
    named, defaults, keywords, annotations, attributes, contents, used, _ = state
    known, mode = id(function) in loading.known, loading.mode
    if mode is Mode.JOIN:
        _check_agrees(function, defaults, keywords, contents, used, known)
    scope = function.__globals__
    if used:
        if mode is Mode.CALL:
            scope.update(used)
        else:
            for name, value in used.items():
                scope.setdefault(name, value)
    if known:
        return
    if defaults is not None:
        function.__defaults__ = defaults
    if keywords is not None:
        function.__kwdefaults__ = keywords
    if annotations is not None:
        function.__annotations__ = annotations
    if attributes is not None:
        function.__dict__.update(attributes)
    if contents is not None:
        assert function.__closure__ is not None
        for cell, content in zip(function.__closure__, contents, strict=True):
            if content is not Empty:
                cell.cell_contents = content
    if named is not None:
        for name, value in named.items():
            setattr(function, name, value)


def _check_agrees(
    function: FunctionType,
    defaults: Any,
    keywords: Any,
    contents: Sequence[Any] | None,
    used: dict[str, Any] | None,
    known: bool,
) -> None:
    """Raise a Contradiction if the state differs from what is there."""
    scope = function.__globals__
    pairs = [(scope.get(name, ABSENT), value) for name, value in (used or {}).items()]
    if known:
        pairs.append((function.__defaults__, defaults))
        pairs.append((function.__kwdefaults__, keywords))
        pairs.extend(zip(map(content_of, function.__closure__ or ()), contents or (), strict=True))
    if not all(old is ABSENT or interchangeable(old, new, set()) for old, new in pairs):
        raise Contradiction


def sent_function(token: str, module: str, name: str) -> Any:
    """Return the function that was sent from here, or what has its name now."""
    found = sent.get(token)
    if found is None:
        found = find_path(sys.modules.get(module), name)
    if found is None:
        raise pickle.UnpicklingError(f"function {module}.{name} is gone from this process")
    return found


def make_again(token: str, *args: Any) -> FunctionType:
    """Return the function that was sent from here if it still exists, else a copy."""
    found = sent.get(token)
    return make_function(*args) if found is None else found


def set_again(function: FunctionType, state: tuple[Any, ...]) -> None:
    """Give a copy its state."""
    if tokens.get(function) not in sent:
        set_function(function, state)


def make_class(
    sender: str,
    home: StandIn | None,
    qualname: str,
    make: Callable[..., type],
    args: tuple[Any, ...],
) -> type:
    """Return a class that has arrived before, or a new one without its state.

    Args:
        sender: the process that has pickled it.
        home: the module that has the class under its name; None if none has.
        qualname: its ``__qualname__``.
        make: cloudpickle's function for it.
        args: of that; the last but one tells the class from all others.
    """
    kind: type | None = _DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
    if kind is None:
        kind = make(*args)
        kind.__qualname__ = qualname
        _received[kind] = calls()
    elif loading.mode is Mode.FETCH and _received.get(kind) == calls():
        loading.known.add(id(kind))  # the task may have patched it since
    elif kind in _received:
        _received[kind] = calls()
    if home is not None:
        home._arrived[qualname] = weakref.ref(kind)
    return kind


def set_class(kind: type, state: tuple[Any, ...]) -> type:
    """Give a class its state, unless it was sent from here.

    Args:
        kind: the class.
        state: who sends it, the stand-in of its module with globals that only annotations name,
            its function in :mod:`copyreg`, and cloudpickle's state.
    """
    sender, module, named, reducer, rest = state
    if sender == own_origin():
        return kind
    for name, value in named.items() if named else ():
        if loading.mode is Mode.CALL:
            module.__dict__[name] = value
        else:
            module.__dict__.setdefault(name, value)
    if id(kind) in loading.known:
        return kind
    if reducer is not None:
        copyreg.pickle(kind, reducer)
    _class_setstate(kind, rest)
    return kind


def make_cached(
    home: StandIn | None,
    qualname: str,
    module: str,
    token: str,
    parameters: dict[str, Any],
    function: Any,
) -> Any:
    """Return a function with a cache: see :func:`functools.lru_cache`."""
    if token in sent:
        return sent[token]
    if home is not None and loading.mode is not Mode.CALL:
        found = home.arrived(qualname)
        if isinstance(found, functools._lru_cache_wrapper) and found.__wrapped__ is function:
            return found
    cached = functools.lru_cache(**parameters)(function)
    cached.__module__, cached.__qualname__ = module, qualname
    tokens[cached] = token
    if home is not None:
        home._arrived[qualname] = weakref.ref(cached)
    return cached


def make_once(
    home: StandIn | None,
    name: str,
    token: str,
    make: Callable[..., Any],
    args: tuple[Any, ...],
    attributes: dict[str, Any],
) -> Any:
    """Return what ``make`` makes for this token, the same object each time."""
    found = sent.get(token, named.get(token))
    if found is None:
        found = named[token] = make(*args)
        tokens[found] = token
        for attribute, value in attributes.items():
            setattr(found, attribute, value)
    if home is not None:
        home._arrived[name] = weakref.ref(found)
    return found
