"""Modules that stand for test modules, in tasks and their children.

A test module is never imported in a task. Each pickle that brings functions or classes of one
brings a :class:`StandIn` for it: its ``__dict__`` holds the globals that they use, and
``sys.modules`` has it under the module's name. So whatever is pickled by reference in the task is
found there. A name that has not arrived is fetched, when it is asked for, from the process that has
the module itself.

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
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from cloudpickle.cloudpickle import _PICKLE_BY_VALUE_MODULES

from . import test_files
from .identity import interchangeable, own_origin

__all__ = [
    "Answer",
    "Contradiction",
    "Home",
    "Loader",
    "Mode",
    "Question",
    "StandIn",
    "arrange",
    "as_module",
    "ask",
    "asks_back",
    "attach_below",
    "calls",
    "end_call",
    "everything_present",
    "has_below",
    "home_of",
    "host",
    "hosts",
    "latest_origin",
    "load_call",
    "load_operation",
    "present",
    "stand_in",
]

Answer = tuple[str, Any]
"""Its kind, and its content: ``value``, a pickle; ``named``, a token and a pickle of type and
state, of an object that pickles by its own name; ``module`` and ``package``, the parts of a
stand-in; ``missing``, None; ``refused``, the reason."""


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


class Mode(Enum):
    PLAIN = auto()  # a pickle with stand-ins of its own
    CALL = auto()  # the present stand-ins, which were made for it, get what arrives
    FETCH = auto()  # they get what they lack
    JOIN = auto()  # the same, and a contradiction ends it


class _Loading(threading.local):
    """What this thread unpickles."""

    def __init__(self) -> None:
        self.mode = Mode.PLAIN
        self.into: StandIn | None = None  # what is fetched goes there
        self.known: set[int] = set()  # ids of objects that were there, and stay as they are
        self.asking: set[tuple[str, str]] = set()


class Contradiction(Exception):
    """A global that arrives differs from the one of the present stand-in."""


loading = _Loading()

_present: dict[tuple[str, str | None], StandIn] = {}
"""The stand-ins in ``sys.modules``, by name and file."""
_specs: dict[tuple[Any, ...], ModuleSpec] = {}
named: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_ask: Callable[[Question], Answer | None] | None = None
_latest_origin = ""
_calls = 0
_in_call = False


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
    with _loading_as(Mode.FETCH):
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


def asks_back(data: bytes) -> bool:
    """Return whether a task that unpickles this may ask questions."""
    return _MARK in data


_MARK = __name__.encode()


# Unpickling


@contextmanager
def _loading_as(mode: Mode, into: StandIn | None = None) -> Iterator[None]:
    before = loading.mode, loading.into, loading.known
    loading.mode, loading.into, loading.known = mode, into, set()
    try:
        yield
    finally:
        loading.mode, loading.into, loading.known = before


def calls() -> int:
    """Return how many calls have been unpickled."""
    return _calls


def load_call(data: bytes) -> Any:
    """Unpickle a call, which begins with new stand-ins."""
    global _calls, _in_call
    _calls += 1
    _in_call = True
    if _present:
        _renew()
    loading.mode = Mode.CALL  # not _loading_as(), which takes longer: calls do not nest
    try:
        return pickle.loads(data)
    finally:
        loading.mode = Mode.PLAIN


def end_call() -> None:
    """Note the end of a call: ``sys.modules`` may have stand-ins of other processes again."""
    global _in_call
    _in_call = False


def load_operation(*parts: bytes) -> list[Any]:
    """Unpickle the parts of an operation.

    They share the present stand-ins, unless a global differs from what is there: then the operation
    keeps its own, as the test had it when the operation was made. An operation also keeps its own
    while a call of another process runs.
    """
    if _ask is not None and any(map(asks_back, parts)):
        try:
            with _loading_as(Mode.JOIN):
                return [pickle.loads(part) for part in parts]
        except Contradiction:
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
    mode, key = loading.mode, (home.name, home.file)
    if home.origin == own_origin():
        return _make(
            home
        )  # the module itself is here, and a copy of its functions is what is asked
    if mode is Mode.CALL:
        _latest_origin = home.origin
    if mode is not Mode.PLAIN and home.attached:
        into = loading.into
        if into is not None and (into.__name__, into.__file__) == key:
            return into
        found = _present.get(key)
        if found is not None and found.home.origin == home.origin:
            if mode is Mode.CALL and sys.modules.get(home.name) is not found:
                _attach(found)
            return found
    module = _make(home)
    if _ask is not None:
        there = sys.modules.get(home.name)
        # An operation of another process leaves the stand-in that a running call may use.
        kept = _in_call and mode is Mode.JOIN
        replaces = home.attached and mode is not Mode.PLAIN and not kept
        if not isinstance(there, StandIn) or replaces:
            _present[key] = module
            _attach(module)
            _latest_origin = _latest_origin or home.origin
    return module


def as_module(module: StandIn) -> ModuleType:
    """Return a stand-in as an object of its own; the module itself where that is."""
    if module.home.origin == own_origin():
        return sys.modules.get(module.__name__, module)
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
    if name in module._missing or key in loading.asking or _ask is None:
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
    loading.asking.add(key)
    try:
        with _loading_as(Mode.FETCH, module):
            value = _load_named(*content) if kind == "named" else pickle.loads(content)
    finally:
        loading.asking.discard(key)
    former = module._former.get(name, _nothing)()
    if isinstance(former, FunctionType) and interchangeable(former, value, set()):
        value = former  # somebody has kept it, and may pickle it
    return module.__dict__.setdefault(name, value)


def _load_named(token: str, data: bytes) -> Any:
    """Return the object that pickles by its own name, the same one each time."""
    found = named.get(token)
    if found is None:
        kind, state = pickle.loads(data)
        found = kind.__new__(kind)
        state, slots = state if isinstance(state, tuple) else (state, None)
        if state:
            found.__dict__.update(state)
        for slot, value in (slots or {}).items():
            object.__setattr__(found, slot, value)
        with suppress(TypeError):  # what takes no weak reference is another object in each call
            named[token] = found
    return found
