"""What gRPC's own ``server()`` takes besides services: checked here, without gRPC."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import SpecError

__all__ = ["OPTIONS", "Settings", "check_interceptors", "misspelt", "settings"]
__tracebackhide__ = True  # a red test shows its own line, not ours; --full-trace shows both

OPTIONS = (
    "health",
    "token",
    "interceptors",
    "options",
    "compression",
    "maximum_concurrent_rpcs",
)
"""The keywords of a ServicerRuntime that are no jobs."""

_LONGEST = 200


@dataclass(frozen=True)
class Settings:
    """The settings of the servers of one runtime.

    Attributes:
        interceptors: the interceptors, or a function that returns them in each task.
        options: pairs of a channel argument's name and its value.
        compression: an element of grpc.Compression; None is gRPC's default.
        maximum_concurrent_rpcs: how many calls run at a time; None is any number.
    """

    interceptors: tuple[Any, ...] | Callable[[], Any] = ()
    options: tuple[tuple[str, Any], ...] = ()
    compression: Any = None
    maximum_concurrent_rpcs: int | None = None

    def given(self) -> dict[str, Any]:
        """Return those that are not the default, by name."""
        named = vars(self).items()
        return {name: value for name, value in named if value is not None and value != ()}


def settings(
    interceptors: Any, options: Any, compression: Any, maximum_concurrent_rpcs: Any
) -> Settings:
    """Return the settings of these values.

    Raises:
        SpecError: one of them is nothing that gRPC takes.
    """
    if not _is_factory(interceptors):
        interceptors = check_interceptors(interceptors)
    return Settings(
        interceptors,
        _options(options),
        _compression(compression),
        _maximum(maximum_concurrent_rpcs),
    )


def check_interceptors(given: object, origin: str = "interceptors") -> tuple[Any, ...]:
    """Return the interceptors as a tuple; SpecError if one of them is none.

    Args:
        given: the interceptors.
        origin: the expression that has returned them, for messages.
    """
    if not isinstance(given, (list, tuple)):
        raise _refused(
            origin,
            "a list of gRPC server interceptors, or a function without parameters that returns one",
            given,
            _BY_JOB if isinstance(given, Mapping) else "write interceptors=[MyInterceptor()]",
        )
    for interceptor in given:
        if inspect.isclass(interceptor):
            raise SpecError(
                f"{origin} has the class {interceptor.__name__}, not an interceptor",
                remedy=f"write {interceptor.__name__}()",
            )
        if not callable(getattr(interceptor, "intercept_service", None)):
            raise SpecError(
                f"{origin} has {_shown(interceptor)}, which is no server interceptor: it has no "
                "method intercept_service()",
                remedy="derive from grpc.ServerInterceptor, or grpc.aio.ServerInterceptor",
            )
    return tuple(given)


_BY_JOB = (
    "settings are for all jobs of a ServicerRuntime: give each job one of its own, "
    'runtime={"worker": ServicerRuntime(...), "ps": ServicerRuntime(...)}'
)


def _is_factory(interceptors: object) -> bool:
    if not callable(interceptors) or inspect.isclass(interceptors):
        return False
    try:
        inspect.signature(interceptors).bind()
    except TypeError as error:
        raise SpecError(
            f"interceptors={_shown(interceptors)} cannot be called without arguments: {error}",
            remedy="pass a list of interceptors, or a function without parameters that returns one"
            + _as_job("interceptors"),
        ) from None
    except ValueError:
        pass
    return True


def _options(given: object) -> tuple[tuple[str, Any], ...]:
    wanted = "a list of pairs, the name of a channel argument and its value"
    if not isinstance(given, (list, tuple)):
        remedy = 'write options=[("grpc.max_concurrent_streams", 8)]' + _as_job("options")
        if isinstance(given, Mapping):
            remedy = "write options=list({...}.items())" if _named(given) else _BY_JOB
        raise _refused("options", wanted, given, remedy)
    for pair in given:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)):
            raise SpecError(
                f"options is {wanted}; {_shown(pair)} is no such pair",
                remedy='write options=[("grpc.max_concurrent_streams", 8)]',
            )
        name, value = pair
        if not isinstance(value, (int, str, bytes)):
            raise SpecError(
                f"the channel argument {name!r} has the value {_shown(value)}",
                remedy="gRPC takes integers, booleans, text and bytes",
            )
    return tuple((name, value) for name, value in given)


def _named(given: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) and name.startswith("grpc.") for name in given)


def _compression(given: object) -> object:
    # Whoever has one of its elements has imported gRPC.
    known = getattr(sys.modules.get("grpc"), "Compression", None)
    if given is None or (known is not None and isinstance(given, known)):
        return given
    raise _refused(
        "compression",
        "an element of grpc.Compression",
        given,
        "write compression=grpc.Compression.Gzip, Deflate or NoCompression"
        + _as_job("compression"),
    )


def _maximum(given: object) -> int | None:
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given > 0):
        return given
    raise _refused(
        "maximum_concurrent_rpcs",
        "a number of calls from 1 up",
        given,
        "write maximum_concurrent_rpcs=8, or leave it out for any number"
        + _as_job("maximum_concurrent_rpcs"),
    )


def misspelt(name: str) -> str:
    """Return the option that is meant by a keyword like that; "" if none is near."""
    near = difflib.get_close_matches(name.lower(), OPTIONS, n=1)
    return near[0] if near else ""


def _refused(name: str, wanted: str, given: object, remedy: str) -> SpecError:
    return SpecError(f"{name} is {wanted}, not {_shown(given)}", remedy=remedy)


def _as_job(name: str) -> str:
    return f"; a job called {name!r} goes into the mapping, {{{name!r}: ...}}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
