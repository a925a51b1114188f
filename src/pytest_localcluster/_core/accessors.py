"""Values that properties and accessors of an exception give, read where it was raised.

Reading runs code of the user's, which must change nothing. So it is done for

- properties, if the exception cannot be made again as it is, and otherwise for those that only
  read: see below;
- methods without arguments that only read: attributes, constants, operators, subscripts and a few
  builtins such as ``str`` and ``len``, by their byte code. A call of anything else could do
  anything: ``retry()``, ``close()`` and ``response.read()`` are not called;
- the accessors that gRPC's interfaces of an ended call have (``code()``, ``details()``, metadata),
  on exceptions that implement these.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["values"]

_OF_A_CALL = frozenset(
    {
        "cancelled",
        "code",
        "debug_error_string",
        "details",
        "done",
        "initial_metadata",
        "is_active",
        "running",
        "time_remaining",
        "trailing_metadata",
    }
)
"""What grpc.RpcContext, grpc.Call and grpc.Future say of a call; none of it changes that."""

_HARMLESS = frozenset(
    {
        "bool", "bytes", "dict", "float", "getattr", "int", "isinstance", "len", "list", "max",
        "min", "repr", "sorted", "str", "tuple", "type",
    }
)  # fmt: skip

_READING = (
    "BINARY_", "BUILD_", "CACHE", "CALL", "COMPARE_OP", "CONTAINS_OP", "CONVERT_VALUE", "COPY",
    "EXTENDED_ARG", "FORMAT_", "IS_OP", "JUMP_FORWARD", "JUMP_IF", "KW_NAMES", "LOAD_ATTR",
    "LOAD_CONST", "LOAD_FAST", "LOAD_GLOBAL", "LOAD_METHOD", "LOAD_SMALL_INT", "NOP", "NOT_TAKEN",
    "POP_JUMP_", "POP_TOP", "PRECALL", "PUSH_NULL", "RESUME", "RETURN_", "SWAP", "TO_BOOL",
    "UNARY_",
)  # fmt: skip
"""How the names of instructions begin that only read; one that is new to us counts as another."""

_CHOOSING = ("BINARY_", "COPY", "JUMP_", "POP_JUMP_", "SWAP")

_NO_GETTER = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)


def values(error: BaseException, *, everything: bool) -> Iterator[tuple[str, bool, Any]]:
    """Yield name, whether it is called, and value of each; one that raises is left out.

    Args:
        error: the exception.
        everything: read also properties of which it is not plain that they only read.
    """
    kind = type(error)
    ended = _is_ended_call(error)
    for name in _names(kind):
        found = inspect.getattr_static(kind, name)
        called = isinstance(found, FunctionType)
        if isinstance(found, property):
            if not (everything or _only_reads(getattr(found.fget, "__code__", None))):
                continue
        elif isinstance(found, functools.cached_property):
            if not everything:
                continue
        elif not called or not ((ended and name in _OF_A_CALL) or _only_reads(found.__code__)):
            continue
        try:
            value = getattr(error, name)
            yield name, called, value() if called else value
        except Exception:
            continue


def _names(kind: type) -> list[str]:
    """Return the public names that classes of the user's define, the nearest first."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        if base.__module__ != "builtins":
            names.update(dict.fromkeys(name for name in vars(base) if not name.startswith("_")))
    return list(names)


def _is_ended_call(error: BaseException) -> bool:
    kind = getattr(sys.modules.get("grpc"), "RpcError", None)
    if kind is None or not isinstance(error, kind):
        return False
    try:
        # Of a call that goes on, code() and others wait for its end.
        return bool(getattr(error, "done", lambda: True)())
    except Exception:
        return False


@functools.lru_cache(256)
def _only_reads(code: CodeType | None) -> bool:
    """Return whether a getter, which takes its object alone, leaves everything as it is."""
    if code is None or code.co_argcount != 1 or code.co_kwonlyargcount or code.co_freevars:
        return False
    if code.co_flags & _NO_GETTER:
        return False
    steps = list(dis.get_instructions(code))
    names = [step.opname for step in steps]
    if not all(name.startswith(_READING) for name in names):
        return False
    for step in steps:
        if step.opname == "LOAD_GLOBAL" and step.argval not in _HARMLESS:
            return False
        if step.opname == "BINARY_OP" and step.argrepr.endswith("="):
            return False
        if step.opname == "LOAD_METHOD" or (step.opname == "LOAD_ATTR" and "NULL" in step.argrepr):
            return False
    # Where something is called it must be a builtin, and not a choice or an item.
    called = sum(name.startswith("CALL") for name in names)
    return not called or (
        called <= names.count("LOAD_GLOBAL") and not any(n.startswith(_CHOOSING) for n in names)
    )
