"""Adders: the functions that register a user's services on the server of a task."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from ...errors import SpecError

if TYPE_CHECKING:
    from ..._context import TaskContext

__all__ = ["Adder", "adders_of", "call_adder", "identity", "name_of"]

Adder: TypeAlias = Callable[..., object]

_GENERATED = re.compile(r"add_(\w+?)(Servicer)?_to_server")
_HOW = (
    "pass a function add(server, task) that registers your services, such as "
    "functools.partial(add_GreeterServicer_to_server, Greeter())"
)


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


def call_adder(adder: Adder, server: Any, context: TaskContext) -> None:
    """Have ``adder`` register its services on ``server``."""
    result = adder(server, context) if _takes_task(adder) else adder(server)
    if inspect.iscoroutine(result):
        result.close()
        raise _asynchronous(name_of(adder), "returned a coroutine")


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


def check_handler(method: str, behaviour: Any) -> None:
    """Raise SpecError if the method of a service can only run under asyncio."""
    if inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour):
        raise _asynchronous(method, "is a coroutine function")


def _check_plain(job: str, adder: Adder) -> None:
    function = adder.func if isinstance(adder, functools.partial) else adder
    call = getattr(function, "__call__", None)  # noqa: B004  # asked for is what it is
    if any(map(inspect.iscoroutinefunction, (function, call))):
        raise _asynchronous(f"{name_of(adder)}, for job {job!r},", "is a coroutine function")
    if inspect.isgeneratorfunction(function):
        raise SpecError(
            f"{name_of(adder)}, for job {job!r}, is a generator function, which would never run",
            remedy="have it register the services and return",
        )


def _asynchronous(what: str, why: str) -> SpecError:
    return SpecError(
        f"{what} {why}, and tasks serve by grpc.server, not by grpc.aio",
        remedy="use plain functions, for services and for what registers them",
    )


def _check_generated(job: str, adder: Adder) -> None:
    """Refuse what protoc generated if there is no servicer with it."""
    bare = adder.func if isinstance(adder, functools.partial) else adder
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
