"""Functions on their way into a task, and what comes back.

In goes by value whatever a task cannot import as it is here: lambdas, closures, and what test
modules and conftests define (cloudpickle does the work). Back comes by reference what went in
that way, so that an instance of a test's class is an instance of that very class afterwards.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import inspect
import io
import os
import pickle
import re
import sys
import sysconfig
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import TYPE_CHECKING, Any

import cloudpickle

# The table by which cloudpickle itself recognises a class that it has sent before.
from cloudpickle.cloudpickle import (
    _DYNAMIC_CLASS_TRACKER_BY_CLASS,
    _DYNAMIC_CLASS_TRACKER_BY_ID,
)

from ..errors import rebuild
from .files import of_the_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["HERE", "dump_call", "dumps", "dumps_back", "loads"]

HERE = str(Path(__file__).parent.parent)
"""The folder of this package."""
_INSTALLED = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_registry_lock = threading.Lock()  # cloudpickle's list of modules that go by value is global

loads = pickle.loads


def dumps(obj: object) -> bytes:
    """Pickle ``obj`` for a task."""
    if _is_compiled(obj):
        # By far the most common operations, and nothing in them would go by value.
        with suppress(pickle.PicklingError, AttributeError, TypeError):
            return pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)
    with _by_value(obj):
        return _dump(_Pickler, obj)


def dump_call(
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    to: object,
) -> bytes:
    """Pickle a function and its arguments for the task ``to``."""
    try:
        with of_the_machine():  # a fake os module has no name in the task
            return dumps((function, args, dict(kwargs)))
    except Exception as error:
        name = getattr(function, "__qualname__", function)
        error.add_note(
            f"{name} and its arguments go to {to} pickled; make what cannot be in the function"
        )
        raise


def _is_compiled(obj: object) -> bool:
    return (
        callable(obj)
        and type(obj).__module__ in ("numpy", "builtins")
        and not isinstance(obj, (type, FunctionType, MethodType))
        # A method of an object takes that along: see reducer_override.
        and isinstance(getattr(obj, "__self__", None), (ModuleType, NoneType))
    )


def dumps_back(obj: object) -> bytes:
    """Pickle ``obj``, in a task, for the process that sent the task its functions."""
    return _dump(_BackPickler, obj)


def _dump(pickler: type[_Pickler], obj: object) -> bytes:
    buffer = io.BytesIO()
    pickler(buffer).dump(obj)
    return buffer.getvalue()


_GENERATORS = (("random", "_inst"), ("numpy.random.mtrand", "_rand"))
"""The hidden global generators."""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Names what is there once in every process, where cloudpickle would send a copy of it."""

    global_objects: tuple[tuple[str, str], ...] = (
        *_GENERATORS,
        ("os", "environ"),
        ("os", "environb"),
    )

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) and obj.__module__ == "builtins":
            home = _home_of(obj)
            if home is not None:
                return _named, (home, obj.__qualname__)
        for module, name in self.global_objects:
            # Functions such as random.random are its methods: a copy of its state would make
            # every task draw the same numbers, at every call; and a copy of os.environ would have
            # no variable of the task.
            if module in sys.modules and obj is getattr(sys.modules[module], name, None):
                return _named, (module, name)
        if isinstance(obj, CodeType):
            # Some releases of cloudpickle leave out where the code is from, and with that the
            # source lines of every traceback and stack, and what coverage measures.
            return _code_from, (obj.co_filename, *self.dispatch_table[CodeType](obj))
        return super().reducer_override(obj)


_HEAP_TYPE = 1 << 9
"""The flag of types that were made by a class statement."""


def _home_of(kind: type) -> str | None:
    """Return where a class is found that says it were a builtin, as pytest's outcomes do."""
    name = kind.__qualname__
    if getattr(builtins, name, None) is kind or not kind.__flags__ & _HEAP_TYPE:
        return None  # it is one, if perhaps without a name, as the type of methods
    for home, module in list(sys.modules.items()):
        if getattr(module, "__dict__", {}).get(name) is kind:
            return home
    return None


def _code_from(file: str, make: type[CodeType], args: tuple[Any, ...]) -> CodeType:
    return make(*args).replace(co_filename=file)


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


class _BackPickler(_Pickler):
    """Refers to a class that came by value instead of sending a copy of it back."""

    global_objects = _GENERATORS  # a function that returns os.environ means what is in it

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            tracker = _DYNAMIC_CLASS_TRACKER_BY_CLASS.get(obj)
            if tracker is not None:
                return _sent_class, (tracker, obj.__module__, obj.__qualname__)
        elif isinstance(obj, BaseException) and _would_not_come_back(type(obj)):
            return rebuild, (type(obj), obj.args, obj.__dict__)
        return super().reducer_override(obj)


def _would_not_come_back(kind: type[BaseException]) -> bool:
    """Tell whether pickle would call an ``__init__`` of the exception's own, with ``args``."""
    return kind.__reduce__ is BaseException.__reduce__ and isinstance(kind.__init__, FunctionType)


def _sent_class(tracker: str, module: str, qualname: str) -> type:
    found = _DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
    if found is None:
        raise pickle.UnpicklingError(f"class {module}.{qualname} is gone from this process")
    return found  # type: ignore[no-any-return]  # the table holds classes only


@contextmanager
def _by_value(obj: object) -> Iterator[None]:
    with _registry_lock:
        modules = _test_modules(len(sys.modules))
        own = _module_of(obj)
        if own is not None and own not in modules and _is_rewritten(own):
            modules = (*modules, own)
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)


@functools.lru_cache(maxsize=1)
def _test_modules(loaded: int) -> tuple[ModuleType, ...]:
    """Return the test modules and conftests among the ``loaded`` modules of this process."""
    named = [m for name, m in list(sys.modules.items()) if _TEST.fullmatch(name)]
    return tuple(module for module in named if _is_own(module))


_TEST = re.compile(r"(.*\.)?(conftest|test_\w+|\w+_test)")


def _is_rewritten(module: Any) -> bool:
    """Tell whether pytest loaded this module as test code, which a task cannot import alike."""
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    return type(loader).__name__ == "AssertionRewritingHook" and _is_own(module)


def _is_own(module: Any) -> bool:
    """Tell whether a module belongs to the tests: it is neither installed nor one of ours."""
    file = getattr(module, "__file__", None) or ""
    return bool(file) and not file.startswith((HERE, *_INSTALLED))


def _module_of(obj: Any) -> ModuleType | None:
    while isinstance(obj, functools.partial):
        obj = obj.func
    obj = inspect.unwrap(obj) if callable(obj) else obj
    return sys.modules.get(getattr(obj, "__module__", None) or "")
