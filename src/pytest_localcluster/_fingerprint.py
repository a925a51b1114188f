"""What tells whether two processes mean the same, of what neither can name to the other.

Workers of xdist each make their own copies of what their modules say: configs, runtimes, functions.
Such copies are not equal by ``==``, and what cloudpickle makes of them differs from process to
process. So they are taken apart here, down to what is alike wherever the same source has been run.

A function is its name and its code, its defaults and what it encloses, but not the globals it uses.
A class is its name. Of other objects counts what pickle would make them again from.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

__all__ = ["fingerprint"]

_ATOMS = (type(None), type(Ellipsis), bool, str, bytes, float, complex)


def fingerprint(obj: object) -> str:
    """Return a text that is equal for what the same source makes in any process, and only for that.

    Raises:
        TypeError: something in it can neither be taken apart nor pickled.
    """
    return hashlib.sha256(repr(_form(obj, [])).encode()).hexdigest()


def _form(obj: Any, within: list[Any]) -> Any:
    """Return ``obj`` as nested tuples of text; it is part of the objects ``within``."""
    if type(obj) in _ATOMS:
        return type(obj).__name__, repr(obj)
    if isinstance(obj, Enum):
        return _name(type(obj)), obj.name
    if isinstance(obj, int):
        return "int", repr(int(obj))  # a count is a count, whoever asked for it
    for depth, outer in enumerate(within):
        if outer is obj:
            return "within", depth
    within.append(obj)
    try:
        return _parts(obj, lambda part: _form(part, within))
    finally:
        within.pop()


def _parts(obj: Any, form: Any) -> Any:
    if isinstance(obj, type):
        return "class", _name(obj)
    if isinstance(obj, ModuleType):
        return "module", obj.__name__
    if isinstance(obj, (list, tuple)):
        return _name(type(obj)), *map(form, obj)
    if isinstance(obj, AbstractSet):
        return _name(type(obj)), *_sorted(map(form, obj))
    if isinstance(obj, Mapping):
        return _name(type(obj)), *_sorted((form(key), form(value)) for key, value in obj.items())
    if isinstance(obj, PurePath):
        return "path", str(obj)
    if isinstance(obj, re.Pattern):
        return "pattern", form(obj.pattern), obj.flags
    if callable(obj) and (found := _callable(obj, form)) is not None:
        return found
    if isinstance(obj, CodeType):
        names = obj.co_names, obj.co_varnames, obj.co_freevars, obj.co_cellvars
        return "code", obj.co_name, obj.co_code.hex(), names, *map(form, obj.co_consts)
    if isinstance(obj, CellType):
        try:
            return "cell", form(obj.cell_contents)
        except ValueError:
            return "cell"
    if dataclasses.is_dataclass(obj):
        compared = (field.name for field in dataclasses.fields(obj) if field.compare)
        return _name(type(obj)), *((name, form(getattr(obj, name))) for name in compared)
    if hasattr(obj, "DESCRIPTOR") and hasattr(obj, "SerializeToString"):
        return obj.DESCRIPTOR.full_name, obj.SerializeToString(deterministic=True).hex()
    made = obj.__reduce_ex__(4)
    return made if isinstance(made, str) else (_name(type(obj)), *_reduced(made, form))


def _callable(obj: Any, form: Any) -> Any:
    """Return what a function, or what is like one, is made of; None for any other object."""
    if isinstance(obj, functools.partial):
        return "partial", form(obj.func), form(obj.args), form(obj.keywords)
    if isinstance(obj, MethodType):
        return "method", form(obj.__self__), form(obj.__func__)
    if isinstance(obj, FunctionType):
        rest = obj.__defaults__, obj.__kwdefaults__, obj.__closure__
        return "function", _name(obj), form(obj.__code__), *map(form, rest)
    if isinstance(obj, BuiltinFunctionType):
        return "builtin", _name(obj), form(obj.__self__)
    return None


def _reduced(made: tuple[Any, ...], form: Any) -> Any:
    """Take in what ``__reduce_ex__`` returned: what to call with what, the state, the items."""
    call, args, *rest = made
    yield form(call)
    yield form(args)
    for number, part in enumerate(rest):
        yield form(part if number == 0 or part is None or callable(part) else list(part))


def _sorted(forms: Any) -> list[Any]:
    return sorted(forms, key=repr)


def _name(obj: Any) -> str:
    return f"{obj.__module__}.{obj.__qualname__}"
