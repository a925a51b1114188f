"""How some objects of tests go that pickle cannot take as they are, or should not."""

from __future__ import annotations

import copyreg
import functools
import pickle
import sys
import threading
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType, NoneType
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["StaysHere", "reduce"]

Reducer = Callable[[Any], Any]


class StaysHere(TypeError):
    """An object that pickle could copy, but that is of use in this process only.

    Args:
        value: the object.
        message: why, to follow its name and "which".
        remedy: the way out.
    """

    def __init__(self, value: object, message: str, remedy: str) -> None:
        super().__init__(message)
        self.value = value
        self.remedy = remedy


_DISPATCHER = functools.singledispatch(len).__code__  # type: ignore[attr-defined]  # a function
"""The code of all functions that singledispatch makes."""

_OF_DISPATCHER = frozenset({"register", "dispatch", "registry", "_clear_cache"})

_known: WeakKeyDictionary[type, Reducer | None] = WeakKeyDictionary()


def reduce(obj: Any) -> Any:
    """Return how an object goes, as ``__reduce__`` does; None leaves it to pickle.

    Raises:
        StaysHere: it is of use in this process only.
    """
    kind = type(obj)
    if kind is FunctionType:
        return _reduce_dispatcher(obj) if obj.__code__ is _DISPATCHER else None
    if kind is type or kind is CodeType:
        return None
    try:
        reducer = _known[kind]
    except KeyError:
        reducer = _known[kind] = _reducer_for(kind)
    except TypeError:  # a class without a hash
        reducer = _reducer_for(kind)
    return None if reducer is None else reducer(obj)


def _reducer_for(kind: type) -> Reducer | None:
    for base in kind.__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        if name in _OF_PYTEST:
            return functools.partial(_refuse, name)
        if name == "unittest.case.TestCase":
            return _reduce_test_case
        if name == "_pytest.mark.structures.Mark":
            return _reduce_mark
        if base is functools.cached_property and sys.version_info < (3, 12):
            return _reduce_cached_property
    return None


_OF_PYTEST = {
    "_pytest.monkeypatch.MonkeyPatch": (
        "patch in the function: `with pytest.MonkeyPatch.context() as patch:`"
    ),
    "_pytest.fixtures.FixtureRequest": "pass what you need of it, such as request.param",
    "_pytest.capture.CaptureFixture": "read what the task prints in its log: server.log.text()",
    "_pytest.logging.LogCaptureFixture": "use it in the test, around run()",
    "_pytest.recwarn.WarningsRecorder": "use it in the test, which is told what tasks warn",
    "_pytest.config.Config": "pass the value of the option",
    "_pytest.nodes.Node": "pass what you need of it, such as its name",
    "_pytest.pytester.Pytester": "pass pytester.path",
    "_pytest.cacheprovider.Cache": "read it in the test, and pass the value",
    "_pytest.tmpdir.TempPathFactory": "make the folder in the test, and pass its path",
}
"""Objects of pytest that fixtures give: a copy in a task would do nothing, or harm."""


def _refuse(name: str, obj: object) -> None:
    raise StaysHere(obj, "belongs to pytest, and stays in the test process", _OF_PYTEST[name])


_OF_A_RUN: dict[str, Callable[[], object]] = {
    "_outcome": NoneType,
    "_subtest": NoneType,
    "_asyncioRunner": NoneType,
    "_asyncioTestContext": NoneType,
    "_cleanups": list,
}
"""What unittest and pytest keep in a TestCase while its test runs, and what is there otherwise."""


def _reduce_test_case(obj: Any) -> Any:
    kind: Any = type(obj)
    if kind.__reduce_ex__ is not object.__reduce_ex__ or "__getstate__" in _names_of(kind):
        return None
    state = {
        name: _OF_A_RUN[name]() if name in _OF_A_RUN else value
        for name, value in vars(obj).items()
        if not (isinstance(value, MethodType) and value.__self__ is obj)
    }
    return copyreg.__newobj__, (kind,), state  # type: ignore[attr-defined]  # it is there


def _names_of(kind: type) -> set[str]:
    return {name for base in kind.__mro__[:-1] for name in vars(base)}


def _reduce_mark(obj: Any) -> Any:
    """Leave out arguments of a mark that cannot go: only pytest reads them."""
    try:
        pickle.dumps((obj.args, obj.kwargs))
    except Exception:
        return _mark, (type(obj), obj.name)
    return None


def _mark(kind: Any, name: str) -> Any:
    return kind(name, (), {}, _ispytest=True)


def _reduce_cached_property(obj: Any) -> Any:
    state = {name: value for name, value in vars(obj).items() if name != "lock"}
    return _cached_property, (type(obj),), state, None, None, _fill_cached_property


def _cached_property(kind: Any) -> Any:
    made = kind.__new__(kind)
    made.lock = threading.RLock()
    return made


def _fill_cached_property(made: Any, state: dict[str, Any]) -> None:
    vars(made).update(state)


def _reduce_dispatcher(obj: Any) -> Any:
    # The default implementation comes with the others: it may have been registered anew.
    attributes = {name: value for name, value in vars(obj).items() if name not in _OF_DISPATCHER}
    return (
        _dispatcher,
        (obj.__name__,),
        (dict(obj.registry), attributes),
        None,
        None,
        _fill_dispatcher,
    )


def _dispatcher(name: str) -> Any:
    def unknown(*args: object) -> None:
        raise NotImplementedError

    unknown.__name__ = name
    return functools.singledispatch(unknown)


def _fill_dispatcher(made: Any, state: tuple[dict[type, Any], dict[str, Any]]) -> None:
    registry, attributes = state
    for kind, implementation in registry.items():
        made.register(kind, implementation)
    original = attributes.pop("__wrapped__")
    functools.update_wrapper(made, original, updated=())
    for name, value in attributes.items():
        setattr(made, name, value)
