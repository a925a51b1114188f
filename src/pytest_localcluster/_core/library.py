"""The standard library's place on the path: first, where this package imports.

A folder of tests that pytest puts in front of the path may have a ``queue.py`` or a ``secrets.py``.
Those who test mean that file when they import the name; this package and its dependencies mean the
standard library's module, whichever of both is imported first.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from types import ModuleType

__all__ = ["first", "mean", "of_the_library", "shadows"]

_HOME = os.path.dirname(os.__file__)  # noqa: PTH120  # pathlib would be an import more
_listed: dict[str, frozenset[str]] = {}


def of_the_library(path: Sequence[str]) -> list[str]:
    """Return the entries of ``path`` that are the standard library's."""
    return [entry for entry in path if _is_the_library(entry)]


def _is_the_library(entry: str) -> bool:
    name = os.path.basename(entry)  # noqa: PTH119
    return entry == _HOME or name == "lib-dynload" or name == _ZIP


_ZIP = f"python{sys.version_info.major}{sys.version_info.minor}.zip"


@contextmanager
def first() -> Iterator[None]:
    """Have imports of a block find the standard library before anything else.

    Modules of its names that were imported from elsewhere are put aside meanwhile.
    """
    path = [entry for entry in sys.path if isinstance(entry, str)]
    library = of_the_library(path)
    if not library or path[: len(library)] == library:
        yield
        return
    before = list(sys.path)
    ahead = path[: path.index(library[0])]
    others = {name: module for name, module in _loaded() if _is_from(module, ahead)}
    for name in others:
        del sys.modules[name]
    sys.path[:0] = library
    try:
        yield
    finally:
        if sys.path[: len(library)] == library:
            del sys.path[: len(library)]
        else:  # an import has changed it
            sys.path[:] = before
        sys.modules.update(others)


def shadows(path: Sequence[str]) -> dict[str, bool]:
    """Return the standard library's names that other modules have too, found first on ``path``.

    The value is True for those that mean the other module in this process, and False for those that
    were imported from the standard library before.
    """
    library = of_the_library(path)
    if not library:
        return {}
    ahead = path[: path.index(library[0])]
    found = set().union(*map(_modules_in, ahead)) if ahead else set()
    return {name: not _is_loaded_from_the_library(name) for name in found}


def mean(names: Mapping[str, bool]) -> None:
    """Have :func:`shadows` of another process mean the same here, while the library is first."""
    for name, other in names.items():
        if not other:
            with suppress(ImportError):
                import_module(name)
    for name, _ in _loaded():
        if names.get(name.partition(".")[0]):
            del sys.modules[name]


def _loaded() -> list[tuple[str, ModuleType]]:
    names = sys.stdlib_module_names
    return [(n, module) for n, module in list(sys.modules.items()) if n.partition(".")[0] in names]


def _is_from(module: ModuleType, folders: Collection[str]) -> bool:
    """Return whether a module, or the package that it is in, is a file in one of ``folders``."""
    file = getattr(module, "__file__", None) or ""
    package = module.__name__.partition(".")[0]
    parent = file.rpartition(f"{os.sep}{package}")[0]
    return bool(parent) and parent in folders


def _is_loaded_from_the_library(name: str) -> bool:
    module = sys.modules.get(name)
    if module is None:
        return name in sys.builtin_module_names
    file = getattr(module, "__file__", None) or _HOME
    return file.startswith(_HOME) or "lib-dynload" in file


def _modules_in(folder: str) -> frozenset[str]:
    """Return the standard library's names that a folder has modules of."""
    if folder not in _listed:
        try:
            names = {entry.partition(".")[0] for entry in os.listdir(folder or ".")}  # noqa: PTH208
        except OSError:
            names = set()
        _listed[folder] = sys.stdlib_module_names & names
    return _listed[folder]
