"""Adders: the functions that register a user's services on the server of a task."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeAlias

from ...errors import SpecError

if TYPE_CHECKING:
    from ..._context import TaskContext

__all__ = [
    "Adder",
    "adders_of",
    "call_adder",
    "identity",
    "is_adder",
    "is_async",
    "methods_of",
    "name_of",
    "wants_loop",
]

Adder: TypeAlias = Callable[..., object]

_GENERATED = re.compile(r"add_(\w+?)(Servicer)?_to_server")
_HOW = (
    "pass a function add(server, task) that registers your services, such as "
    "functools.partial(add_GreeterServicer_to_server, Greeter())"
)


def is_adder(given: object) -> bool:
    """Return True if ``given`` may be meant as what registers services: a function, or several."""
    if isinstance(given, (list, tuple)):
        return bool(given) and all(map(callable, given))
    return callable(given)


def adders_of(job: str, given: object) -> tuple[Adder, ...]:
    """Return the functions that ``given`` holds for a job.

    Raises:
        SpecError: it holds none, or what cannot be one.
    """
    adders = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    if not adders:
        raise SpecError(
            f"ServicerRuntime is given an empty list for job {job!r}",
            remedy="a task that is to serve nothing of yours takes lambda server: None",
        )
    for adder in adders:
        if not callable(adder):
            raise SpecError(
                f"for job {job!r} ServicerRuntime takes functions, not {adder!r}", remedy=_HOW
            )
        _check_plain(job, adder)
        _check_generated(job, adder)
        _takes_task(adder, job)
    return adders


def call_adder(adder: Adder, server: Any, context: TaskContext) -> object:
    """Have ``adder`` register its services on ``server``; return what is to be awaited, if any."""
    return adder(server, context) if _takes_task(adder) else adder(server)


def name_of(adder: Adder) -> str:
    """Return what to call a function in messages."""
    if isinstance(adder, functools.partial):
        return f"partial({name_of(adder.func)}, ...)"
    return str(getattr(adder, "__name__", None) or type(adder).__name__)


def identity(adder: Adder) -> object:
    """Return what is equal for two functions that register the same."""
    if isinstance(adder, functools.partial):
        # Arguments by identity: what == says of a user's own objects may be anything.
        keywords = {name: id(value) for name, value in adder.keywords.items()}
        return identity(adder.func), [id(value) for value in adder.args], keywords
    return adder


def is_async(function: Any) -> bool:
    """Return True if calls of ``function`` have to run under asyncio.

    A function that wraps such a one counts as it, unless it runs it to its end by itself.
    """
    function = _bare(function)
    call = getattr(type(function), "__call__", None)  # noqa: B004  # of an object, not of a function
    if any(_makes_coroutines(one) for one in (function, call)):
        return True
    code = getattr(function, "__code__", None)
    wrapped = getattr(function, "__wrapped__", None)
    return (
        code is not None
        and wrapped is not None
        and not _RUNS & {*code.co_names}
        and is_async(wrapped)
    )


_RUNS = {"run", "run_until_complete", "run_coroutine_threadsafe", "async_to_sync", "result"}


def _makes_coroutines(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _bare(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def methods_of(generic: Any) -> Iterator[tuple[str, Any]]:
    """Yield the methods that a generic handler shows, with their functions.

    Those of ``grpc.method_handlers_generic_handler`` show all; others their attributes at least.
    """
    found = [*vars(generic).values()] if hasattr(generic, "__dict__") else []
    for value in found:
        methods = value if isinstance(value, Mapping) else {"": value}
        for name, handler in methods.items():
            for kind in _KINDS:
                if (function := getattr(handler, kind, None)) is not None:
                    yield str(name) or f"a method of {type(generic).__name__}", function
    for name in dir(type(generic)):
        function = getattr(type(generic), name)
        if not name.startswith("__") and inspect.isfunction(function):
            yield f"{type(generic).__name__}.{name}", function


_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def wants_loop(adder: Adder) -> bool:
    """Return True if ``adder`` seems to make things for asyncio, so that it is called there.

    A guess by the functions, classes and modules that its code names. It decides where the function
    is called, for channels and tasks that it may make, and not how its services run.
    """
    return _names_asyncio(adder, 3, set())


def _names_asyncio(thing: Any, depth: int, seen: set[int]) -> bool:
    if id(thing) in seen or depth < 0:
        return False
    seen.add(id(thing))
    if isinstance(thing, functools.partial):
        parts = (thing.func, *thing.args, *thing.keywords.values())
        return any(_names_asyncio(part, depth, seen) for part in parts)
    if inspect.ismodule(thing):
        return thing.__name__ in ("asyncio", "grpc.aio")
    if isinstance(thing, MethodType):
        if _names_asyncio(thing.__self__, depth, seen):
            return True
        thing = thing.__func__
    if isinstance(thing, FunctionType):
        if _is_foreign(thing) or _GENERATED.fullmatch(thing.__name__):
            return False
        return (
            is_async(thing)
            or "aio" in thing.__code__.co_names  # of grpc
            or any(map(_has_coroutine, thing.__code__.co_consts))
            or any(_names_asyncio(one, depth - 1, seen) for one in _used_by(thing))
        )
    of = thing if inspect.isclass(thing) else type(thing)
    return any(
        _makes_coroutines(member)
        for base in of.__mro__
        if not _is_foreign(base)
        for member in vars(base).values()
        if isinstance(member, FunctionType)
    )


_FOREIGN = sys.stdlib_module_names | {"grpc", "google", "numpy", "pytest_localcluster"}


def _is_foreign(thing: Any) -> bool:
    """Return True if a function or class is of a package that has nothing to show here."""
    module = thing.__module__
    return isinstance(module, str) and module.partition(".")[0] in _FOREIGN


def _used_by(function: FunctionType) -> Iterator[object]:
    """Yield the objects that a function's code names, as far as they are there before it runs."""
    code = function.__code__
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # nothing is in it yet
            yield cell.cell_contents
    for name in code.co_names:
        if name in function.__globals__:
            found = function.__globals__[name]
            yield found
            if inspect.ismodule(found):
                yield from (vars(found)[other] for other in code.co_names if other in vars(found))
    if (wrapped := getattr(function, "__wrapped__", None)) is not None:
        yield wrapped


def _has_coroutine(constant: object) -> bool:
    if not isinstance(constant, CodeType):
        return False
    flags = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    return bool(constant.co_flags & flags) or any(map(_has_coroutine, constant.co_consts))


def _check_plain(job: str, adder: Adder) -> None:
    function = _bare(adder)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise SpecError(
            f"{name_of(adder)}, for job {job!r}, is a generator function, which would never run",
            remedy="have it register the services and return",
        )


def _check_generated(job: str, adder: Adder) -> None:
    """Refuse what protoc generated if there is no servicer with it."""
    bare = _bare(adder)
    found = _GENERATED.fullmatch(getattr(bare, "__name__", ""))
    if _parameters(adder) == ["servicer", "server"]:
        name = found[1] if found else "MyService"
        raise SpecError(
            f"{name_of(adder)}, for job {job!r}, is called with a servicer too, and is given none",
            remedy=f"write functools.partial({name_of(adder)}, {name}()), with your own {name}",
        )
    if found and isinstance(adder, functools.partial) and inspect.isclass((*adder.args, None)[0]):
        name = adder.args[0].__name__
        raise SpecError(
            f"{name_of(adder)}, for job {job!r}, is given the class {name}, not a servicer",
            remedy=f"write functools.partial({name_of(bare)}, {name}())",
        )


def _parameters(adder: Adder) -> list[str]:
    try:
        return list(inspect.signature(adder).parameters)
    except (TypeError, ValueError):
        return []


def _takes_task(adder: Adder, job: str = "") -> bool:
    """Tell whether ``adder`` is called with the task too, not with the server alone."""
    try:
        signature = inspect.signature(adder)
    except (TypeError, ValueError):
        return True  # nobody can tell, so it is called as documented
    for arguments in (("server", "task"), ("server",)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return len(arguments) == 2
    raise SpecError(
        f"{name_of(adder)}, for job {job!r}, cannot be called as add(server, task), nor as "
        f"add(server): its parameters are {signature}",
        remedy=_HOW,
    )
