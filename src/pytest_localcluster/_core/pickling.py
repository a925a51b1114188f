"""Functions on their way into a task, and what comes back.

In goes by value whatever a task cannot import as it is here: lambdas, closures, and what test
modules and conftests define (cloudpickle does the work). Back comes by reference what went in
that way, so that an instance of a test's class is an instance of that very class afterwards.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import importlib
import io
import itertools
import marshal
import pickle
import sys
import typing
from contextlib import contextmanager, suppress
from types import CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import TYPE_CHECKING, Any

import cloudpickle

# The table by which cloudpickle itself recognises a class that it has sent before, and the parts
# of its reducers that do not depend on where a function or class is found.
from cloudpickle.cloudpickle import (
    _DYNAMIC_CLASS_TRACKER_BY_CLASS,
    _DYNAMIC_CLASS_TRACKER_BY_ID,
    _decompose_typevar,
    _dynamic_class_reduce,
    _extract_code_globals,
    _should_pickle_by_reference,
)

from . import arrivals, reducers, stand_ins, unpicklable
from .annotations import annotations_of, names_in
from .files import of_the_machine
from .identity import content_of, find_path, own_origin, received_token, token_of
from .stand_ins import StandIn
from .test_files import HERE, goes_by_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ..errors import TransferError

__all__ = [
    "HERE",
    "dump_call",
    "dump_named",
    "dump_result",
    "dumps",
    "dumps_back",
    "load_call",
    "load_result",
    "loads",
    "refusal",
]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

loads = pickle.loads


def dumps(obj: object) -> bytes:
    """Pickle ``obj`` for a task."""
    if _is_compiled(obj):
        # By far the most common operations, and nothing in them would go by value.
        with suppress(pickle.PicklingError, AttributeError, TypeError):
            return pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)
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
        refused = refusal(
            f"{name} cannot be sent to {to}",
            unpicklable.roots_of_call(function, args, kwargs),
            error,
        )
    refused.add_note(
        f"{name} and its arguments go to {to} pickled; make what cannot be in the function"
    )
    raise refused


def refusal(what: str, roots: Iterable[unpicklable.Part], error: Exception) -> TransferError:
    """Return the error for what could not be pickled for a task; see unpicklable.explain."""
    return unpicklable.explain(what, list(roots), error, functools.partial(_dump, _Pickler))


def load_call(data: bytes, task: object) -> Any:
    """Return function, arguments and keywords of :func:`dump_call`, in the task."""
    try:
        return stand_ins.load_call(data)
    except Exception as error:
        remedy = "restart() the task, which then has the path that the test has now"
        error.add_note(_unread(error, f"in {task}", "in the test process", remedy))
        raise


def load_result(data: bytes, task: object) -> Any:
    """Return what a function has returned in a task."""
    try:
        return loads(data)
    except Exception as error:
        remedy = "return plain data, or have the test import that module, too"
        error.add_note(_unread(error, "in the test process", f"in {task}", remedy))
        raise


def _unread(error: Exception, here: str, there: str, remedy: str) -> str:
    if isinstance(error, ImportError) and error.name:
        return (
            f"{error.name} was imported {there}, from where it is needed, and cannot be {here}\n"
            f"  To fix this: {remedy}"
        )
    return f"raised {here}, in reading what was pickled {there}"


def dump_result(function: Callable[..., object], result: object) -> bytes:
    """Pickle what a function returned, in a task."""
    try:
        return dumps_back(result)
    except Exception as error:
        name = getattr(function, "__qualname__", function)
        refused = unpicklable.explain(
            f"{name} returned what cannot be sent back", [("returned", result)], error, dumps_back
        )
    refused.remedy = "return what it is made of: its path, address, content, or numbers"
    refused.add_note(f"{name} returned {type(result).__name__!r}, which goes back pickled")
    raise refused


def _is_compiled(obj: object) -> bool:
    return (
        callable(obj)
        and type(obj).__module__ in ("numpy", "builtins")
        and not isinstance(obj, (type, FunctionType, MethodType))
        # A method of an object takes that along: see reducer_override.
        and isinstance(getattr(obj, "__self__", None), (ModuleType, NoneType))
    )


def dumps_back(obj: object, reference: Callable[[object], object] | None = None) -> bytes:
    """Pickle ``obj``, in a task, for the process that sent the task its functions.

    Args:
        obj: what goes back.
        reference: returns what stands in the pickle for an object that goes by itself, None for
            any other; reading it takes a ``persistent_load``.
    """
    if reference is None:
        return _dump(_BackPickler, obj)
    buffer = io.BytesIO()
    _ReferringPickler(buffer, reference).dump(obj)
    return buffer.getvalue()


_tokens = itertools.count(-1, -1)  # apart from those of token_of()


def dump_named(obj: Any) -> stand_ins.Answer:
    """Pickle a global of a test module for a task that lacks it.

    An object that pickles by its own name, such as a sentinel, is taken apart instead.
    """
    kind: Any = type(obj)
    by_name = kind.__reduce__ is not object.__reduce__ or (
        kind.__reduce_ex__ is not object.__reduce_ex__
    )
    if (
        by_name
        and kind not in _HAVE_REDUCERS
        and goes_by_value(getattr(obj, "__module__", None))
        and isinstance(obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL), str)
    ):
        try:
            token = token_of(obj)
        except TypeError:  # it takes no weak references, and is made anew each time
            token = f"{own_origin()}:{next(_tokens)}"
        return "named", (token, dumps((kind, object.__getstate__(obj))))
    return "value", dumps(obj)


def _dump(pickler: type[_Pickler], obj: object) -> bytes:
    buffer = io.BytesIO()
    first = pickler(buffer)
    try:
        first.dump(obj)
    except Exception:
        if not first.hinted:
            raise
        # An object that only annotations name is no reason to fail.
        buffer = io.BytesIO()
        pickler(buffer, hints=False).dump(obj)
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

    def __init__(self, file: io.BytesIO, *, hints: bool = True) -> None:
        super().__init__(file)
        self._hints = hints  # whether to send the objects that only annotations name
        self.hinted = False
        self._namespaces: dict[int, Any] = {}  # by the id of the dict of globals
        self._cells: dict[int, _Cell] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType):
            return self._reduce_function(obj)
        special = reducers.reduce(obj)
        if special is not None:
            return special
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
        if isinstance(obj, type):
            return self._reduce_class(obj)
        kind = type(obj)
        if kind in _REDUCED_BY_NAME and goes_by_value(obj.__module__):
            return self._reduce_named(obj)
        if isinstance(obj, ModuleType) and goes_by_value(obj.__name__):
            return stand_ins.as_module, (self._namespace(vars(obj)),)
        return NotImplemented

    def _reduce_function(self, obj: FunctionType) -> Any:
        if not goes_by_value(obj.__module__):
            if _should_pickle_by_reference(obj):
                return NotImplemented
            # A named tuple that is generic has such a function of a class method, of typing's.
            method = find_path(sys.modules.get(obj.__module__), obj.__qualname__)
            if isinstance(method, MethodType) and method.__func__ is obj:
                return _function_of, (obj.__module__, obj.__qualname__)
        dispatcher = reducers.reduce(obj)
        if dispatcher is not None:
            return dispatcher
        home, name = self._home(obj, obj.__qualname__)
        namespace, token = self._namespace(obj.__globals__), token_of(obj)
        args = namespace, home, name, token, _marshalled(obj.__code__), self._closure(obj)
        return arrivals.make_function, args, self._state(obj), None, None, arrivals.set_function

    def _state(self, function: FunctionType) -> tuple[Any, ...]:
        """Return the state of a function; None stands for a part that a new function has anyway."""
        code, scope = function.__code__, function.__globals__
        used = {name: scope[name] for name in _extract_code_globals(code) if name in scope}
        annotations = annotations_of(function)
        if annotations:
            used.update(self._hints_of(annotations, scope))
        contents = None
        if function.__closure__ is not None:
            contents = tuple(map(content_of, function.__closure__))
        return (
            _unusual(function),
            function.__defaults__,
            function.__kwdefaults__,
            annotations or None,
            function.__dict__ or None,
            contents,
            used or None,
            _submodules(code, (*used.values(), *(contents or ()))),
        )

    def _hints_of(self, annotations: Mapping[str, Any], scope: dict[str, Any]) -> dict[str, Any]:
        """Return the globals that annotations name, for :func:`typing.get_type_hints`."""
        found = {name: scope[name] for name in names_in(annotations) if name in scope}
        self.hinted |= bool(found)
        return found if self._hints else {}

    def _reduce_class(self, obj: type) -> Any:
        if not goes_by_value(obj.__module__):
            with _annotated(obj):
                return super().reducer_override(obj)
        with _annotated(obj):
            make, args, state, _, _, _ = _dynamic_class_reduce(obj)
        if "__slots__" in vars(obj) and not (issubclass(obj, tuple) and hasattr(obj, "_fields")):
            # Else its instances would have a __dict__ there, and could not come back.
            kind, name, bases, given, *rest = args
            args = kind, name, bases, {**given, "__slots__": vars(obj)["__slots__"]}, *rest
        sender, (home, _) = own_origin(), self._home(obj, obj.__qualname__)
        module, named = None, None
        annotations = annotations_of(obj)
        if annotations and obj.__module__ in sys.modules:
            scope = vars(sys.modules[obj.__module__])
            named = self._hints_of(annotations, scope)
            module = self._namespace(scope) if named else None
        reducer = copyreg.dispatch_table.get(obj)
        return (
            arrivals.make_class,
            (sender, home, obj.__qualname__, make, args),
            (sender, module, named, reducer, state),
            None,
            None,
            arrivals.set_class,
        )

    def _reduce_named(self, obj: Any) -> Any:
        """Reduce an object of a test module that pickle would only refer to by its name."""
        name = getattr(obj, "__qualname__", None) or obj.__name__
        home, _ = self._home(obj, name)
        if isinstance(obj, functools._lru_cache_wrapper):
            parameters = obj.cache_parameters()
            token = token_of(obj)
            args = home, name, obj.__module__, token, parameters, obj.__wrapped__
            return arrivals.make_cached, args
        make, args, attributes = _parts_of(obj)
        if make is not _TypeAlias:
            attributes["__module__"] = obj.__module__
        return arrivals.make_once, (home, name, token_of(obj), make, args, attributes)

    def _home(self, obj: Any, name: str) -> tuple[Any, str | None]:
        """Return the namespace that has the object under its name, and that; None if none has."""
        module = sys.modules.get(obj.__module__)
        scope = getattr(module, "__dict__", None)
        if scope is None or not goes_by_value(obj.__module__):
            return None, None
        found = scope.get(name)
        if found is None and isinstance(module, StandIn):
            found = module.arrived(name)
        if found is None and "." in name and "<" not in name:
            found = find_path(module, name)
            found = getattr(found, "__func__", found)  # of a class method
        return (self._namespace(scope), name) if found is obj else (None, None)

    def _namespace(self, scope: dict[str, Any]) -> Any:
        """Return what stands, in this pickle, for a dict of globals."""
        found = self._namespaces.get(id(scope))
        if found is None:
            if goes_by_value(scope.get("__name__")):
                found = _Namespace(scope)
            else:
                found = {name: scope[name] for name in _OF_MODULES if name in scope}
            self._namespaces[id(scope)] = found
        return found

    def _closure(self, function: FunctionType) -> tuple[_Cell, ...] | None:
        """Return empty cells; functions that share one here share one there."""
        if function.__closure__ is None:
            return None
        return tuple(self._cells.setdefault(id(one), _Cell()) for one in function.__closure__)


_OF_MODULES = ("__package__", "__name__", "__path__", "__file__")


class _Namespace:
    """Stands in a pickle for the globals of a test module."""

    def __init__(self, scope: dict[str, Any]) -> None:
        name = scope["__name__"]
        module = sys.modules.get(name)
        attached = getattr(module, "__dict__", None) is scope
        origin, home = own_origin(), stand_ins.home_of(scope)
        if home is not None:
            origin, attached = home.origin, attached or (module is None and home.attached)
        path = list(scope["__path__"]) if "__path__" in scope else None
        self._home = origin, name, scope.get("__file__"), scope.get("__package__"), path, attached

    def __reduce__(self) -> Any:
        return stand_ins.stand_in, self._home


class _Cell:
    """Stands in a pickle for a cell of a closure."""

    def __reduce__(self) -> Any:
        return arrivals.make_cell, ()


def _marshalled(code: CodeType) -> bytes | CodeType:
    try:
        return marshal.dumps(code)
    except ValueError:  # somebody has replaced its constants
        return code


def _unusual(function: FunctionType) -> dict[str, Any] | None:
    """Return the attributes that a new function of this code and module would not have."""
    code = function.__code__
    usual = (
        ("__name__", function.__name__, code.co_name),
        ("__qualname__", function.__qualname__, code.co_qualname),
        ("__module__", function.__module__, function.__globals__.get("__name__")),
        ("__doc__", function.__doc__, _docstring(code)),
    )
    return {name: value for name, value, expected in usual if value != expected} or None


def _docstring(code: CodeType) -> str | None:
    first = code.co_consts[0] if code.co_consts else None
    return first if isinstance(first, str) else None


def _submodules(code: CodeType, values: Iterable[Any]) -> list[ModuleType] | None:
    """Return the submodules that the code may reach through packages among the values.

    They are imported with the function: ``xml.dom`` is an attribute of ``xml`` only after that.
    """
    packages = [one for one in values if isinstance(one, ModuleType) and hasattr(one, "__path__")]
    found: dict[str, ModuleType] = {}
    while packages:
        package = packages.pop()
        for name in code.co_names:
            module = sys.modules.get(f"{package.__name__}.{name}")
            if isinstance(module, ModuleType) and module.__name__ not in found:
                found[module.__name__] = module
                packages.append(module)
    return list(found.values()) or None


def _parts_of(obj: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Return how to make a NewType, ParamSpec or the like: a callable, arguments, attributes."""
    if isinstance(obj, typing.TypeVar):
        name, bound, constraints, covariant, contravariant, _ = _decompose_typevar(obj)
        flags = {"bound": bound, "covariant": covariant, "contravariant": contravariant}
        return functools.partial(typing.TypeVar, **flags), (name, *constraints), {}
    if type(obj) is typing.NewType:
        return (
            typing.NewType,
            (obj.__name__, obj.__supertype__),
            {"__qualname__": vars(obj)["__qualname__"]},
        )
    if isinstance(obj, _TypeAlias):
        return _TypeAlias, (obj.__name__, obj.__value__), {}  # its module cannot be set
    return type(obj), (obj.__name__,), {}


_TypeAlias: Any = getattr(typing, "TypeAliasType", ())
_REDUCED_BY_NAME: tuple[Any, ...] = (
    functools._lru_cache_wrapper,
    typing.NewType,
    typing.ParamSpec,
    typing.TypeVar,
    typing.TypeVarTuple,
    *((_TypeAlias,) if _TypeAlias else ()),
)


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


@contextmanager
def _annotated(obj: Any) -> Iterator[None]:
    """Give a class annotations that cloudpickle can read, for a while: on 3.14 they are lazy.

    To read them evaluates them, and keeps those of a class where cloudpickle finds them. A name
    that is there only for type checkers raises NameError: then strings take their place.
    """
    if sys.version_info < (3, 14) or "__annotate_func__" not in vars(obj):
        yield
        return
    try:
        _ = obj.__annotations__
    except Exception:
        annotationlib = importlib.import_module("annotationlib")
        lazy, strings = obj.__annotate__, annotationlib.Format.STRING
        obj.__annotations__ = annotationlib.get_annotations(obj, format=strings)
        try:
            yield
        finally:
            obj.__annotate__ = lazy
    else:
        yield


def _code_from(file: str, make: type[CodeType], args: tuple[Any, ...]) -> CodeType:
    return make(*args).replace(co_filename=file)


def _function_of(module: str, path: str) -> Any:
    return find_path(importlib.import_module(module), path).__func__


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


class _BackPickler(_Pickler):
    """Refers to what came by value instead of sending a copy of it back."""

    global_objects = _GENERATORS  # a function that returns os.environ means what is in it

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            tracker = _DYNAMIC_CLASS_TRACKER_BY_CLASS.get(obj)
            if tracker is not None and arrivals.is_received(obj):
                return _sent_class, (tracker, obj.__module__, obj.__qualname__)
        elif isinstance(obj, StandIn):
            return importlib.import_module, (obj.__name__,)
        elif isinstance(obj, BaseException):
            from .exceptions import reduce_exception  # which pickles its parts by what is here

            return reduce_exception(obj)
        return super().reducer_override(obj)

    def _reduce_function(self, obj: FunctionType) -> Any:
        token = received_token(obj)
        if token is None:
            return super()._reduce_function(obj)
        if self._home(obj, obj.__qualname__)[1] is not None:
            return arrivals.sent_function, (token, obj.__module__, obj.__qualname__)
        _, args, state, _, _, _ = super()._reduce_function(obj)
        return arrivals.make_again, (token, *args), state, None, None, arrivals.set_again


class _ReferringPickler(_BackPickler):
    """Leaves out what goes by itself."""

    def __init__(self, buffer: io.BytesIO, reference: Callable[[object], object]) -> None:
        super().__init__(buffer)
        self._reference = reference

    def persistent_id(self, obj: object) -> object:
        return self._reference(obj)


def _sent_class(tracker: str, module: str, qualname: str) -> type:
    found = _DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
    if found is None:
        raise pickle.UnpicklingError(f"class {module}.{qualname} is gone from this process")
    return found  # type: ignore[no-any-return]  # the table holds classes only


_HAVE_REDUCERS = (FunctionType, *_REDUCED_BY_NAME)
