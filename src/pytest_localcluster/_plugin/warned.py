"""Warnings and log records of tasks belong to the test in which they were given.

They go by its filters and levels.
"""

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

    What functions warn and log comes with what they return. This is for the rest: operations,
    services, and whatever else goes on in tasks that are there for longer than one test. It is
    inside of pytest's own hooks, whose handlers of log records are there in a phase of a test
    alone: between two of them records wait.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        """Tell tasks the settings of the test that begins."""
        return (yield from self._phase(begins=True))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Show what was logged during the test."""
        return (yield from self._phase())

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Show what was warned and logged, when all is stopped that ends with the test."""
        return (yield from self._phase())

    @pytest.hookimpl
    def pytest_unconfigure(self) -> None:
        """Show what comes from now on when it comes."""
        from .._core import logging

        logging.resume()

    def _phase(self, *, begins: bool = False) -> Generator[None, object, object]:
        from .._core import logging

        logging.resume()
        if begins:
            self._attend()
        try:
            return (yield)
        finally:
            self._attend()
            logging.pause()

    def _attend(self) -> None:
        from .. import _warned
        from .._clock import Deadline
        from .._results import failure

        servers = [server for one in self._watch.living() for server in one.cluster.servers]
        asked = ((server, server._life.attend()) for server in servers)
        # Who has died or does not answer is told elsewhere.
        failure({server: future for server, future in asked if future}, Deadline(_PATIENCE))
        _warned.deliver()
