"""What tells one function from another, across processes: origins, tokens, and comparisons."""

from __future__ import annotations

import os
import secrets
import sys
import weakref
from types import FunctionType, ModuleType
from typing import Any

from cloudpickle.cloudpickle import _extract_code_globals

__all__ = [
    "ABSENT",
    "Empty",
    "content_of",
    "find_path",
    "interchangeable",
    "own_origin",
    "received_token",
    "sent",
    "token_of",
    "tokens",
]

ABSENT: Any = object()
"""Stands for a global that there is not."""

tokens: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""The identity of each function that was sent from here or has arrived here."""
sent: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""What was sent from here, by its identity."""

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
    token = tokens.get(obj)
    if token is None:
        token = tokens[obj] = f"{own_origin()}:{next(_numbers)}"
        sent[token] = obj
    return token


def received_token(function: FunctionType) -> str | None:
    """Return the identity of a function that this process has received, None of any other one."""
    token = tokens.get(function)
    return None if token is None or token in sent else token


class Empty:
    """Stands for the content of an empty cell."""


def find_path(obj: Any, path: str) -> Any:
    """Return the attribute of an attribute, by a path such as ``Outer.method``; None if absent."""
    for name in path.split("."):
        # Not getattr() of a stand-in: that may ask.
        obj = vars(obj).get(name) if isinstance(obj, ModuleType) else getattr(obj, name, None)
    return obj


def content_of(cell: Any) -> Any:
    """Return what a cell of a closure holds; :class:`Empty` if it holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return Empty


_PLAIN = (int, float, complex, bool, str, bytes)


def interchangeable(old: Any, new: Any, seen: set[tuple[int, int]]) -> bool:
    """Return whether one object can stand for the other: both immutable, and equal in all parts.

    A function is, if it is the same one in its own process and uses what is interchangeable.
    """
    if old is new or (id(old), id(new)) in seen:
        return True
    kind = type(old)
    if kind is not type(new):
        return False
    if kind in _PLAIN:
        return bool(old == new)
    seen.add((id(old), id(new)))
    if kind is tuple:
        return len(old) == len(new) and all(
            interchangeable(a, b, seen) for a, b in zip(old, new, strict=True)
        )
    if kind is not FunctionType or tokens.get(old) is None or tokens[old] != tokens.get(new):
        return False
    names = _extract_code_globals(old.__code__)
    return (
        old.__code__ == new.__code__
        and interchangeable(old.__defaults__, new.__defaults__, seen)
        and len(old.__closure__ or ()) == len(new.__closure__ or ())
        and all(
            interchangeable(content_of(a), content_of(b), seen)
            for a, b in zip(old.__closure__ or (), new.__closure__ or (), strict=True)
        )
        and all(
            interchangeable(
                old.__globals__.get(name, ABSENT), new.__globals__.get(name, ABSENT), seen
            )
            for name in names
        )
    )
