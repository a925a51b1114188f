"""Modules that stand for test modules, in tasks and their children; all that a pickle calls there.

A test module is never imported in a task. Each pickle that brings functions or classes of one brings
a :class:`StandIn` for it: its ``__dict__`` holds the globals that they use, and ``sys.modules`` has
it under the module's name. So whatever is pickled by reference in the task is found there. A name
that has not arrived is fetched, when it is asked for, from the process that has the module itself.

Guarantees:

- Each call has stand-ins of its own: it sees the globals as the test has them now, and a thread of
  an earlier call keeps those that it began with.
- A class is the same class in every call. A function of a module is one function in one call.
- What is fetched adds to a stand-in, and never replaces: what the task has set or patched stays.
- The process that has the module itself gets no stand-in in ``sys.modules``, and its classes are
  not touched by copies of themselves.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import marshal
import os
import pickle
import secrets
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from importlib.machinery import ModuleSpec
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from cloudpickle.cloudpickle import (
    _DYNAMIC_CLASS_TRACKER_BY_ID,
    _PICKLE_BY_VALUE_MODULES,
    _class_setstate,
    _extract_code_globals,
)

from . import test_files

__all__ = [
    "Answer",
    "Home",
    "Question",
    "StandIn",
    "announce",
    "ask",
    "asks_back",
    "await_announcement",
    "host",
    "hosts",
    "load_call",
    "load_operation",
    "own_origin",
    "present",
    "token_of",
]

Answer = tuple[str, Any]
"""``value``: a pickle; ``named``: a token and a pickle of type and state, for an object that pickles
by its own name; ``module``, ``package``: what the stand-in is made of; ``missing``; ``refused``: why."""


class Question(NamedTuple):
    """A question about a test module, for the process that has it.

    Attributes:
        origin: that process; "" for the one whose call runs.
        kind: ``attribute``, ``module`` or ``package``.
        module: the module's name.
        file: its source; None where any will do.
        name: of the attribute.
    """

    origin: str
    kind: str
    module: str
    file: str | None = None
    name: str = ""


class Home(NamedTuple):
    """What a stand-in is made of.

    Attributes:
        origin: the process that has the module itself.
        name: the module's name.
        file: its source.
        package: its ``__package__``.
        path: its ``__path__``; None if it is no package.
        attached: whether ``sys.modules`` has it there.
    """

    origin: str
    name: str
    file: str | None
    package: str | None
    path: list[str] | None
    attached: bool


class _Mode(Enum):
    PLAIN = auto()  # a pickle with stand-ins of its own
    CALL = auto()  # the present stand-ins, which were made for it, get what arrives
    FETCH = auto()  # they get what they lack
    JOIN = auto()  # the same, and a contradiction ends it


class _Loading(threading.local):
    """What this thread unpickles."""

    def __init__(self) -> None:
        self.mode = _Mode.PLAIN
        self.into: StandIn | None = None  # what is fetched goes there
        self.known: set[int] = set()  # ids of objects that were there, and stay as they are
        self.asking: set[tuple[str, str]] = set()


class _Contradiction(Exception):
    """A global that arrives differs from the one of the present stand-in."""


_loading = _Loading()
_ABSENT: Any = object()

_present: dict[tuple[str, str | None], StandIn] = {}
"""The stand-ins in ``sys.modules``, by name and file."""
_specs: dict[tuple[Any, ...], ModuleSpec] = {}
_received: weakref.WeakSet[type] = weakref.WeakSet()
_named: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_tokens: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_sent: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_ask: Callable[[Question], Answer | None] | None = None
_latest_origin = ""


class StandIn(ModuleType):
    """A module that stands for a test module of another process."""

    __slots__ = ("_arrived", "_former", "_missing", "_size", "home")
    home: Home
    _arrived: dict[str, weakref.ref[Any]]  # strong ones would be cycles
    _former: dict[str, weakref.ref[Any]]  # functions of the stand-in before this one
    _missing: set[str]
    _size: int  # of its __dict__ when it was empty

    def arrived(self, name: str) -> Any:
        """Return a function or class that arrived under this name, None if there is none."""
        found = self.__dict__.get(name)
        return self._arrived.get(name, _nothing)() if found is None else found

    def __getattr__(self, name: str) -> Any:
        if name in StandIn.__slots__ or name in _NEVER_ASKED:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        arrived = self._arrived.get(name, _nothing)()
        if arrived is not None:
            return arrived
        submodule = sys.modules.get(f"{self.__name__}.{name}")
        if submodule is not None:
            return submodule
        return _fetch(self, name)


_NEVER_ASKED = frozenset(
    ("__path__", "__spec__", "__loader__", "__file__", "__cached__", "__getattr__", "__wrapped__")
)


def _nothing() -> None:
    return None


# This process


_origin: tuple[int, str] = (0, "")


def own_origin() -> str:
    """Return the name of this process, unlike that of any other one."""
    global _origin
    if _origin[0] != os.getpid():
        _origin = os.getpid(), f"{os.getpid()}-{secrets.token_hex(6)}"
    return _origin[1]


_numbers = iter(range(sys.maxsize))


def token_of(obj: Any) -> str:
    """Return the identity by which a function or other object is known again: it may come back."""
    token = _tokens.get(obj)
    if token is None:
        token = _tokens[obj] = f"{own_origin()}:{next(_numbers)}"
        _sent[token] = obj
    return token


def received_token(function: FunctionType) -> str | None:
    """Return the identity of a function that this process has received, None of any other one."""
    token = _tokens.get(function)
    return None if token is None or token in _sent else token


def is_received(kind: type) -> bool:
    """Return whether a class was made here of what has arrived."""
    return kind in _received


def host(asker: Callable[[Question], Answer | None]) -> None:
    """Let this process have stand-ins in ``sys.modules``; ``asker`` gets answers for them."""
    global _ask
    _ask = asker


def hosts() -> bool:
    """Return whether this process is a task, or a child of one."""
    return _ask is not None


def ask(question: Question) -> Answer | None:
    """Return the answer of the process that has the module; None if there is none."""
    return None if _ask is None else _ask(question)


def latest_origin() -> str:
    """Return the process that has sent the latest stand-in, "" if there was none."""
    return _latest_origin


def present(name: str) -> StandIn | None:
    """Return the stand-in that belongs in ``sys.modules`` under this name."""
    found = sys.modules.get(name)
    if isinstance(found, StandIn):
        return found
    return next((module for key, module in list(_present.items()) if key[0] == name), None)


def arrange(home: Sequence[Any]) -> StandIn:
    """Return the stand-in of a module of which nothing has arrived; ``sys.modules`` has it."""
    with _loading_as(_Mode.FETCH):
        return stand_in(*home)


def has_below(package: str) -> bool:
    """Return whether there is a stand-in of a module of this package."""
    prefix = f"{package}."
    return any(name.startswith(prefix) for name, _ in list(_present))


def attach_below(package: ModuleType) -> None:
    """Let a package that was imported after them have the stand-ins of its modules."""
    for name, _ in list(_present):
        parent, _, tail = name.rpartition(".")
        if parent == package.__name__ and name in sys.modules:
            setattr(package, tail, sys.modules[name])


def everything_present() -> list[StandIn]:
    """Return all stand-ins of ``sys.modules``."""
    return list(_present.values())


# Who answers has to listen, which nobody does for tasks that are not called.

_awaiting: set[Callable[[], None]] = set()


def asks_back(data: bytes) -> bool:
    """Return whether a task that unpickles this may ask questions."""
    return _MARK in data


_MARK = __name__.encode()


def await_announcement(begin: Callable[[], None]) -> None:
    """Have ``begin`` called, once, when an operation is sent that may ask questions."""
    _awaiting.add(begin)


def cancel_announcement(begin: Callable[[], None]) -> None:
    """Take :func:`await_announcement` back."""
    _awaiting.discard(begin)


def announce() -> None:
    """Call whoever awaits that an operation is sent that may ask questions."""
    while _awaiting:
        try:
            begin = _awaiting.pop()
        except KeyError:
            break
        begin()


# Unpickling


@contextmanager
def _loading_as(mode: _Mode, into: StandIn | None = None) -> Iterator[None]:
    before = _loading.mode, _loading.into, _loading.known
    _loading.mode, _loading.into, _loading.known = mode, into, set()
    try:
        yield
    finally:
        _loading.mode, _loading.into, _loading.known = before


def load_call(data: bytes) -> Any:
    """Unpickle a call, which begins with new stand-ins."""
    if _present:
        _renew()
    _loading.mode = _Mode.CALL  # not _loading_as(), which takes longer: calls do not nest
    try:
        return pickle.loads(data)
    finally:
        _loading.mode = _Mode.PLAIN


def load_operation(*parts: bytes) -> list[Any]:
    """Unpickle the parts of an operation.

    They share the present stand-ins, unless a global differs from what is there: then the operation
    keeps its own, as the test had it when the operation was made.
    """
    if _ask is not None and any(map(asks_back, parts)):
        try:
            with _loading_as(_Mode.JOIN):
                return [pickle.loads(part) for part in parts]
        except _Contradiction:
            pass
    return [pickle.loads(part) for part in parts]


def _renew() -> None:
    """Put an empty stand-in in the place of each one that is not empty."""
    for key, old in list(_present.items()):
        if not old._arrived and len(old.__dict__) == old._size and not old._missing:
            continue
        new = _present[key] = _make(old.home)
        new._former = old._arrived
        if old._former:
            living = {name: ref for name, ref in old._former.items() if ref() is not None}
            new._former = {**living, **old._arrived}
        if sys.modules.get(key[0]) is old:
            _attach(new)


def stand_in(*args: Any) -> StandIn:
    """Return the stand-in of a module."""
    global _latest_origin
    home = Home(*args)
    mode, key = _loading.mode, (home.name, home.file)
    if home.origin == own_origin():
        return _make(
            home
        )  # the module itself is here, and a copy of its functions is what is asked
    if mode is _Mode.CALL:
        _latest_origin = home.origin
    if mode is not _Mode.PLAIN and home.attached:
        into = _loading.into
        if into is not None and (into.__name__, into.__file__) == key:
            return into
        found = _present.get(key)
        if found is not None and found.home.origin == home.origin:
            if mode is _Mode.CALL and sys.modules.get(home.name) is not found:
                _attach(found)
            return found
    module = _make(home)
    if _ask is not None:
        there = sys.modules.get(home.name)
        if not isinstance(there, StandIn) or (home.attached and mode is not _Mode.PLAIN):
            _present[key] = module
            _attach(module)
            _latest_origin = _latest_origin or home.origin
    return module


def _make(home: Home) -> StandIn:
    module = StandIn(home.name)
    module.home = home
    module._arrived, module._former, module._missing = {}, {}, set()
    namespace = module.__dict__
    namespace["__file__"], namespace["__package__"] = home.file, home.package
    namespace["__builtins__"] = builtins.__dict__
    if home.path is not None:
        namespace["__path__"] = home.path
    spec = _specs.get(home[:3])
    if spec is None:
        test_files.note_stand_in(home.name)
        loader: Any = Loader(home)
        spec = _specs[home[:3]] = ModuleSpec(home.name, loader, origin=home.file)
        spec.submodule_search_locations = home.path
    namespace["__loader__"] = spec.loader
    if home.name != "__main__":
        namespace["__spec__"] = spec
    module._size = len(namespace)
    return module


def home_of(scope: dict[str, Any]) -> Home | None:
    """Return the home of the stand-in with these globals, None if they are of no stand-in."""
    loader = scope.get("__loader__")
    return loader.home if isinstance(loader, Loader) else None


class Loader:
    """Loads a stand-in, of which nothing has to be executed."""

    def __init__(self, home: Home | None = None) -> None:
        self.home = home

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return it."""
        return present(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing."""


_replaced_main: list[ModuleType] = []  # its code may still run


def _attach(module: StandIn) -> None:
    """Let ``sys.modules`` and the parent package have a stand-in."""
    name = module.__name__
    if name == "__main__" and not isinstance(sys.modules["__main__"], StandIn):
        _replaced_main.append(sys.modules["__main__"])
    sys.modules[name] = module
    _PICKLE_BY_VALUE_MODULES.add(name)  # joblib's and Ray's processes know no stand-in
    parent, _, tail = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], tail, module)


def _fetch(module: StandIn, name: str) -> Any:
    """Return a global of the module that has not arrived yet."""
    absent = f"module {module.__name__!r} has no attribute {name!r}"
    key = module.__name__, name
    if name in module._missing or key in _loading.asking or _ask is None:
        raise AttributeError(absent)
    home = module.home
    answer = _ask(Question(home.origin, "attribute", home.name, home.file, name))
    if answer is None:
        raise AttributeError(f"{absent} yet, and the process that has it does not answer")
    kind, content = answer
    if kind == "refused":
        raise AttributeError(f"{absent} in this task: {content}")
    if kind == "missing":
        module._missing.add(name)
        raise AttributeError(absent)
    _loading.asking.add(key)
    try:
        with _loading_as(_Mode.FETCH, module):
            value = _load_named(*content) if kind == "named" else pickle.loads(content)
    finally:
        _loading.asking.discard(key)
    former = module._former.get(name, _nothing)()
    if isinstance(former, FunctionType) and _equal(former, value, set()):
        value = former  # somebody has kept it, and may pickle it
    return module.__dict__.setdefault(name, value)


def _load_named(token: str, data: bytes) -> Any:
    """Return the object that pickles by its own name, the same one each time."""
    found = _named.get(token)
    if found is None:
        kind, state = pickle.loads(data)
        found = kind.__new__(kind)
        state, slots = state if isinstance(state, tuple) else (state, None)
        if state:
            found.__dict__.update(state)
        for slot, value in (slots or {}).items():
            object.__setattr__(found, slot, value)
        with suppress(TypeError):  # what takes no weak reference is another object in each call
            _named[token] = found
    return found


# What pickles call: functions


class Empty:
    """Stands for the content of an empty cell."""


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
    mode = _loading.mode
    if name is not None and home is not None and (mode is _Mode.FETCH or mode is _Mode.JOIN):
        found = home.arrived(name)
        if (
            isinstance(found, FunctionType)
            and _tokens.get(found) == token
            and found.__globals__ is scope
            and found.__code__ == code
        ):
            _loading.known.add(id(found))
            return found
    function = FunctionType(code, scope, None, None, closure)
    _tokens[function] = token
    if name is not None and home is not None:
        home._arrived[name] = weakref.ref(function)
    return function


def set_function(function: FunctionType, state: tuple[Any, ...]) -> None:
    """Give a function its state, unless it has one."""
    named, defaults, keywords, annotations, attributes, contents, used, _ = state
    known, mode = id(function) in _loading.known, _loading.mode
    if mode is _Mode.JOIN:
        _check_agrees(function, defaults, keywords, contents, used, known)
    scope = function.__globals__
    if used:
        if mode is _Mode.CALL:
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
    """Raise a _Contradiction if the state differs from what is there."""
    scope = function.__globals__
    pairs = [(scope.get(name, _ABSENT), value) for name, value in (used or {}).items()]
    if known:
        pairs.append((function.__defaults__, defaults))
        pairs.append((function.__kwdefaults__, keywords))
        pairs.extend(zip(map(content_of, function.__closure__ or ()), contents or (), strict=True))
    if not all(old is _ABSENT or _equal(old, new, set()) for old, new in pairs):
        raise _Contradiction


def content_of(cell: Any) -> Any:
    """Return what a cell of a closure holds; :class:`Empty` if it holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return Empty


_PLAIN = (int, float, complex, bool, str, bytes)


def _equal(old: Any, new: Any, seen: set[tuple[int, int]]) -> bool:
    """Return whether one immutable object can stand for the other; functions by all that they use."""
    if old is new or (id(old), id(new)) in seen:
        return True
    kind = type(old)
    if kind is not type(new):
        return False
    if kind in _PLAIN:
        return bool(old == new)
    seen.add((id(old), id(new)))
    if kind is tuple:
        return len(old) == len(new) and all(_equal(a, b, seen) for a, b in zip(old, new))
    if kind is not FunctionType or _tokens.get(old) is None or _tokens[old] != _tokens.get(new):
        return False
    names = _extract_code_globals(old.__code__)
    return (
        old.__code__ == new.__code__
        and _equal(old.__defaults__, new.__defaults__, seen)
        and len(old.__closure__ or ()) == len(new.__closure__ or ())
        and all(
            _equal(content_of(a), content_of(b), seen)
            for a, b in zip(old.__closure__ or (), new.__closure__ or ())
        )
        and all(
            _equal(old.__globals__.get(name, _ABSENT), new.__globals__.get(name, _ABSENT), seen)
            for name in names
        )
    )


def sent_function(token: str, module: str, name: str) -> Any:
    """Return the function that was sent from here, or what has its name now."""
    found = _sent.get(token)
    if found is None:
        found = getattr(sys.modules.get(module), name, None)
    if found is None:
        raise pickle.UnpicklingError(f"function {module}.{name} is gone from this process")
    return found


def make_again(token: str, *args: Any) -> FunctionType:
    """Return the function that was sent from here if it still exists, else a copy."""
    found = _sent.get(token)
    return make_function(*args) if found is None else found


def set_again(function: FunctionType, state: tuple[Any, ...]) -> None:
    """Give a copy its state."""
    if _tokens.get(function) not in _sent:
        set_function(function, state)


# What pickles call: classes and other objects of a module


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
        _received.add(kind)
    elif _loading.mode is _Mode.FETCH:
        _loading.known.add(id(kind))
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
        if _loading.mode is _Mode.CALL:
            module.__dict__[name] = value
        else:
            module.__dict__.setdefault(name, value)
    if id(kind) in _loading.known:
        return kind
    if reducer is not None:
        copyreg.pickle(kind, reducer)  # type: ignore[arg-type]
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
    if token in _sent:
        return _sent[token]
    if home is not None and _loading.mode is not _Mode.CALL:
        found = home.arrived(qualname)
        if isinstance(found, functools._lru_cache_wrapper) and found.__wrapped__ is function:
            return found
    cached = functools.lru_cache(**parameters)(function)
    cached.__module__, cached.__qualname__ = module, qualname
    _tokens[cached] = token
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
    found = _sent.get(token, _named.get(token))
    if found is None:
        found = _named[token] = make(*args)
        _tokens[found] = token
        for attribute, value in attributes.items():
            setattr(found, attribute, value)
    if home is not None:
        home._arrived[name] = weakref.ref(found)
    return found
