"""Runs in a task: it keeps what is warned, for the test to show, instead of printing it."""

from __future__ import annotations

import os
import warnings
from collections import deque
from typing import TYPE_CHECKING, TextIO

from pytest_localcluster import _warned

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST = 1000
"""How many warnings are kept at most; what nobody fetches is printed from there on."""

_print = warnings.showwarning


class Recorder:
    """Takes the place of what shows warnings.

    Showing takes no lock, since the garbage collector may have something warned at any point.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[Warning | str, type[Warning], str, int]] = deque()
        self._pid = os.getpid()

    def begin(self, filters: Iterable[_warned.Filter]) -> None:
        """Keep from now on what passes the test's filters."""
        _warned.apply(filters)
        warnings.showwarning = self.show

    def show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Keep it; print it where nobody would fetch it, as from a fork of this process."""
        if file is not None or os.getpid() != self._pid or len(self._kept) >= _MOST:
            _print(message, category, filename, lineno, file, line)
        else:
            self._kept.append((message, category, filename, lineno))

    def take(self) -> list[_warned.Kept]:
        """Return what was kept, and keep it no more."""
        taken = []
        while self._kept:
            taken.append(_warned.keep(*self._kept.popleft()))
        return taken

    def print(self) -> None:
        """Print what is left: nobody fetches it any more."""
        while self._kept:
            _print(*self._kept.popleft())
