"""Warnings of tasks: the test's filters go in, what passes them comes back and is shown here.

A task warns by the filters that were in force in the test process when it was last told them: with
its start, at the begin of each test, and with each function that it is given where they have
changed meanwhile. ``error`` raises there, at the line that warns. What is to be shown is not
printed in the task, but kept, and comes along with the next answer, or with the task's end. Here it
waits in an inbox until somebody who runs in the test's own thread looks into it: then
``pytest.warns``, ``recwarn`` and the summary have it like a warning of the test's own.

A category goes by its name, since the other side may not have imported it, and need not for this.
"""

from __future__ import annotations

import builtins
import contextlib
import linecache
import sys
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from ._core import pickling

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Filter", "Filters", "Kept", "apply", "deliver", "keep", "receive"]

Name = tuple[str, str]
"""Module and qualified name of a class."""

Filter = tuple[str, Any, Name, Any, int]
"""One of ``warnings.filters``, with the category's name in its place."""


class Kept(NamedTuple):
    """One warning on its way.

    Attributes:
        data: it pickled; empty if that cannot be.
        names: its class and what that inherits from, the nearest first.
        text: what it says.
        file: where it was given.
        line: in which line of that.
    """

    data: bytes
    names: tuple[Name, ...]
    text: str
    file: str
    line: int


class Filters:
    """The filters of this process, as one task knows them."""

    def __init__(self) -> None:
        self._list: list[Any] = []
        self._told: list[Any] = []

    def news(self) -> list[Filter] | None:
        """Return the filters if the task does not know them, else None."""
        # Whoever catches warnings works on a new list: then they shall be given anew, too.
        current: list[Any] = warnings.filters  # type: ignore[assignment]  # it is one
        if current is self._list and current == self._told:
            return None
        self._list, self._told = current, list(current)
        return [(action, text, _name(kind), *rest) for action, text, kind, *rest in self._told]


def _name(kind: type) -> Name:
    return kind.__module__, kind.__qualname__


class _Named(type):
    """Stands for a class that need not have been imported: it has all whose names say so."""

    means: Name

    def __subclasscheck__(cls, kind: type) -> bool:
        return any(_name(base) == cls.means for base in kind.__mro__)


def apply(filters: Iterable[Filter]) -> None:
    """Make these the filters of this process; what was warned once is warned again."""
    new = [(action, text, _category(name), *rest) for action, text, name, *rest in filters]
    warnings.resetwarnings()
    warnings.filters[:] = new  # type: ignore[index]  # it is a list


def _category(name: Name) -> type:
    module, qualname = name
    if module == "builtins":
        found: type = getattr(builtins, qualname)
        return found
    return _Named(qualname, (), {"means": name})


def keep(message: Warning | str, kind: type[Warning], file: str, line: int) -> Kept:
    """Return a warning as it travels."""
    names = tuple(_name(base) for base in kind.__mro__ if issubclass(base, Warning))
    try:
        data = pickling.dumps_back(message)
    except Exception:
        data = b""
    return Kept(data, names, str(message), file, line)


_inbox: deque[tuple[str, Kept]] = deque()


def receive(task: str, kept: Iterable[Kept]) -> None:
    """Put what a task has warned into the inbox."""
    _inbox.extend((task, one) for one in kept)


def deliver() -> None:
    """Show what is in the inbox: what several tasks have warned alike is shown once."""
    tasks: dict[tuple[Any, ...], list[str]] = {}
    first: list[tuple[Kept, list[str]]] = []
    while _inbox:
        task, one = _inbox.popleft()
        alike = tasks.setdefault(one[1:], [])
        if not alike:
            first.append((one, alike))
        if task not in alike:
            alike.append(task)
    for one, of in first:
        message = _revive(one)
        source = linecache.getline(one.file, one.line).strip()
        # Into the line that is shown with it: the message stays what it is, for who matches it.
        line = f"{source}  # in {', '.join(sorted(of, key=_place))}".lstrip()
        warnings.showwarning(message, type(message), one.file, one.line, None, line)


def _place(task: str) -> tuple[str, int]:
    job, _, index = task.rpartition(":")
    return job, int(index)


def _revive(one: Kept) -> Warning:
    """Return the warning, or the nearest to it that can be made without importing anything."""
    for number, (module, qualname) in enumerate(one.names):
        home: Any = sys.modules.get(module)
        if home is None:
            continue
        with contextlib.suppress(Exception):  # whatever becomes of what it is made from
            if number == 0 and one.data:
                message = pickling.loads(one.data)
                if isinstance(message, Warning):
                    return message
            kind = home
            for name in qualname.split("."):
                kind = getattr(kind, name)
            text = f"{one.names[0][1]}: {one.text}" if number else one.text
            message = kind(text)
            if isinstance(message, Warning):
                return message
    return UserWarning(one.text)
