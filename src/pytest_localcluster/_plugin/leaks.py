"""The leak check: after each test, what of ours has outlived its cluster, or is lost.

It goes by the register of what was made (``_held``), so nothing that is not ours is ever named, and
a test that made nothing pays for a look at an empty dict. A cluster that still runs, or a lease
that is still held, is no leak as long as anybody has it: a fixture of a wider scope may, or a
cache. Once nobody can stop or release it any more, it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .._held import Held
    from .watch import Watch

__all__ = ["MODES", "LeakCheck"]

_PACKAGE = __name__.partition(".")[0]
_FAILED = pytest.StashKey[bool]()

MODES = ("error", "warn", "off")

_PATIENCE = 2.0
"""Seconds for what is about to end, such as a thread that was told to; waited for leaks only."""


class LeakCheck:
    """Hooks of one pytest process.

    Args:
        watch: knows the clusters that run.
        mode: ``"error"`` or ``"warn"``.
    """

    def __init__(self, watch: Watch, mode: str) -> None:
        self._watch = watch
        self._mode = mode

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Look when everybody else has torn down what ends with this test."""
        try:
            result = yield
        except Exception:
            self._add_section(item, *self._find(item))
            raise
        own, late = self._find(item)
        if item.stash.get(_FAILED, False):
            self._add_section(item, own, late)
        elif own and self._mode == "error":
            pytest.fail(_report([*own, *late]), pytrace=False)
        elif own or late:
            from ..errors import ClusterLeakWarning

            item.warn(ClusterLeakWarning(_report([*own, *late])))
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Remember what has failed already: it may well have come to no clean-up of its own."""
        report = yield
        item.stash[_FAILED] = report.failed or (
            report.when != "setup" and item.stash.get(_FAILED, False)
        )
        return report

    def _add_section(self, item: pytest.Item, own: list[str], late: list[str]) -> None:
        """Have the report say it; the test is red anyway, for a reason of its own."""
        if own or late:
            item.add_report_section("teardown", "log of leaks", _report([*own, *late]))

    def _find(self, item: pytest.Item) -> tuple[list[str], list[str]]:
        """Return the reports of what leaked in this test, and of what is only found now."""
        held_things = sys.modules.get(f"{_PACKAGE}._held")
        if held_things is None or not held_things.anything():
            return [], []
        own: list[str] = []
        late: list[str] = []
        for held in _leaks(held_things.leaks):
            # A lease may be lost any time, as when the garbage collector comes by.
            lost_before = held.owner is None and held.since != item.nodeid
            (late if lost_before else own).append(held.report())
            held.give_back()  # it is reported once
        running = self._watch.started_in(item.nodeid)
        if running:
            from .forgotten import is_forgotten, stop_forgotten

            values = getattr(item, "funcargs", None)  # pytest has them a little longer than needed
            while running:
                cluster = running.pop(0)
                if is_forgotten(cluster, values):
                    own.append(stop_forgotten(cluster))
        return own, late


def _leaks(leaks: Callable[[], list[Held]]) -> list[Held]:
    found = leaks()
    if found:
        from .._clock import Deadline, poll

        poll(lambda: not any(held.may_end() for held in leaks()), Deadline(_PATIENCE))
        found = leaks()
    return found


def _report(leaks: list[str]) -> str:
    count = f"{len(leaks)} things" if len(leaks) > 1 else "something"
    return "\n".join([f"{count} of a cluster stayed behind (--cluster-leak-check)", *leaks])
