"""Finders for the imports of tasks and their children: no test file is executed there.

``find_spec`` of the first one is asked for every import, and looks at the name alone in most cases.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from types import ModuleType
from typing import Any

from . import stand_ins, test_files
from .stand_ins import Question

__all__ = ["after_import", "install"]

_after: dict[str, Callable[[ModuleType], None]] = {}


def install() -> None:
    """Put the finders into ``sys.meta_path``. Idempotent."""
    if _TestModules not in sys.meta_path:
        sys.meta_path.insert(0, _TestModules)
        sys.meta_path.append(_Packages)


def after_import(name: str, act: Callable[[ModuleType], None]) -> None:
    """Have ``act`` called with a module when it has been imported, at once if it has been."""
    if name in sys.modules:
        act(sys.modules[name])
    else:
        _after[name] = act


class _TestModules:
    """Finds stand-ins before the files themselves are found."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a stand-in, or of a module that has to be looked after."""
        if name in _after:
            return _executing(name, path, _after.pop(name))
        module = stand_ins.present(name)
        if module is None and _may_be_test(name, path):
            answer = stand_ins.ask(Question(stand_ins.latest_origin(), "module", name))
            if answer is not None and answer[0] == "module":
                module = stand_ins.arrange(answer[1])
        if module is not None:
            return module.__spec__
        if stand_ins.has_below(name):
            return _executing(name, path, stand_ins.attach_below)
        return None


def _may_be_test(name: str, path: Sequence[str] | None) -> bool:
    if test_files.may_be_test(name):
        return True
    if not test_files.patterns:
        return False
    spec = PathFinder.find_spec(name, path)
    return spec is not None and test_files.may_be_test(name, spec.origin or "")


def _executing(
    name: str, path: Sequence[str] | None, act: Callable[[ModuleType], None]
) -> ModuleSpec | None:
    """Return the spec of a module with which ``act`` is called when it has been executed."""
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None:
        return spec
    execute = spec.loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        act(module)

    spec.loader.exec_module = exec_module  # type: ignore[method-assign]
    return spec


class _Packages:
    """Finds the packages of test modules that nobody else finds: pytest has put them together."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of such a package."""
        if not stand_ins.has_below(name):
            return None
        answer = stand_ins.ask(Question(stand_ins.latest_origin(), "package", name))
        if answer is None or answer[0] != "package":
            return None
        file, places = answer[1]
        if file is not None:
            return spec_from_file_location(name, file, submodule_search_locations=places)
        loader: Any = stand_ins.Loader()
        spec = ModuleSpec(name, loader, is_package=True)
        spec.submodule_search_locations = places
        return spec
