"""Warnings of tasks belong to the test in which they were given, and go by its filters."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .watch import Watch

__all__ = ["TaskWarnings"]

_PATIENCE = 1.0
"""Seconds that all tasks together have to answer; only one that holds the interpreter's lock takes
any."""


class TaskWarnings:
    """Hooks of one pytest process; registered with its first cluster.

    What functions warn comes with what they return. This is for the rest: operations, services, and
    whatever else goes on in tasks that are there for longer than one test.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Tell tasks the filters of the test that begins."""
        self._attend()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Show what was warned, when all is stopped that ends with the test."""
        try:
            return (yield)
        finally:
            self._attend()

    def _attend(self) -> None:
        from .. import _warned
        from .._clock import Deadline
        from .._results import failure

        servers = [server for one in self._watch.living() for server in one.cluster.servers]
        asked = ((server, server._life.attend_to_warnings()) for server in servers)
        # Who has died or does not answer is told elsewhere.
        failure({server: future for server, future in asked if future}, Deadline(_PATIENCE))
        _warned.deliver()
