"""Which modules of this process are test files: their functions and classes are pickled by value.

A task cannot import such a module: that would execute the file a second time. A module counts if
pytest has collected it, or if its name is that of a test module or conftest, and if it is neither
installed nor a part of this package.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import weakref
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = [
    "HERE",
    "configure",
    "goes_by_value",
    "is_own",
    "may_be_test",
    "note_collected",
    "note_stand_in",
    "patterns",
]

HERE = str(Path(__file__).parent.parent)
"""The folder of this package."""
_INSTALLED = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_NAMES = re.compile(r"(.*\.)?(conftest|test_\w+|\w+_test)")

patterns: tuple[str, ...] = ()
"""pytest's ``python_files``, if it differs from the default."""

_collected: set[str] = set()  # paths of files
_represented: set[str] = set()  # names of modules that have stand-ins here
_verdicts: dict[str, tuple[weakref.ref[ModuleType], bool]] = {}  # by the name of the module


def configure(python_files: Sequence[str]) -> tuple[str, ...]:
    """Take pytest's ``python_files``; return the patterns that were in force."""
    global patterns
    before = patterns
    patterns = tuple(one for one in python_files if one not in ("test_*.py", "*_test.py"))
    return before


def note_collected(path: str) -> None:
    """Record a file that pytest is about to import as a test module."""
    _collected.add(path)
    _verdicts.clear()  # a test module before it may have imported it


def note_stand_in(name: str) -> None:
    """Record the name of a test module of another process."""
    if name not in _represented:
        _represented.add(name)
        _verdicts.clear()


def goes_by_value(name: object) -> bool:
    """Return whether functions and classes of the module ``name`` are pickled by value."""
    if not isinstance(name, str):
        return False
    module = sys.modules.get(name)
    known = _verdicts.get(name)
    if known is not None and known[0]() is module:
        return known[1]
    verdict = (
        name == "__main__"
        or name in _represented
        or (module is not None and _is_test(name, module))
    )
    if isinstance(module, ModuleType):
        _verdicts[name] = weakref.ref(module), verdict
    return verdict


def _is_test(name: str, module: Any) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not is_own(file):
        return False
    return bool(_NAMES.fullmatch(name)) or file in _collected


def is_own(file: str) -> bool:
    """Return whether a source file belongs to the user: it is neither installed nor one of ours."""
    return bool(file) and not file.startswith((HERE, *_INSTALLED))


def may_be_test(name: str, file: str | None = None) -> bool:
    """Return whether a module that is not imported yet may be a test file.

    Args:
        name: its name, which decides alone if it follows pytest's default.
        file: its source; needed for the configured patterns.
    """
    if _NAMES.fullmatch(name):
        return True
    if file is None or not is_own(file):
        return False
    return any(fnmatch(file if "/" in one else Path(file).name, one) for one in patterns)
